// What the build takes for leftovers in dist/ and deletes: never what a link leads to, on any Node.
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';

const module = '../../src/files-in.mjs'; // not TypeScript, as it runs before there is a build
const { filesIn } = (await import(module)) as { filesIn(folder: string): string[] };

t.test('links are files, and nothing behind them is listed', async (t) => {
  const folder = t.testdir();
  await mkdir(join(folder, 'docs/adr'), { recursive: true });
  await writeFile(join(folder, 'docs/adr/one.md'), 'text');
  await mkdir(join(folder, 'dist/src'), { recursive: true });
  await writeFile(join(folder, 'dist/src/app.js'), '');
  await symlink('../docs', join(folder, 'dist/docs'));
  await symlink('../../docs/adr/one.md', join(folder, 'dist/src/one.md'));
  const dist = join(folder, 'dist');
  t.same(filesIn(dist).sort(), [join(dist, 'docs'), join(dist, 'src/app.js'), join(dist, 'src/one.md')]);
  t.equal(await readFile(join(folder, 'docs/adr/one.md'), 'utf8'), 'text');
});
