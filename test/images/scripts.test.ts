// What the images start from, as far as it shows within a second; `npm run test:images` carries all of it out.
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { runProgram } from '../support/programs.ts';
import { copied, parseDockerfile } from './dockerfile.ts';

const scripts = 'docker/scripts';

t.test('what a Dockerfile copies is there, and .dockerignore lets it through', async (t) => {
  const ignore = (await readFile('.dockerignore', 'utf8')).split('\n');
  const included = ignore.filter((line) => line.startsWith('!')).map((line) => line.slice(1));
  const dockerfiles = (await readdir('docker')).filter((name) => name.endsWith('.Dockerfile'));
  t.equal(dockerfiles.length, 4);
  for (const name of dockerfiles) {
    const stages = parseDockerfile(await readFile(join('docker', name), 'utf8'));
    const copies = stages.flatMap(({ instructions }) => instructions.filter(({ name }) => name === 'COPY'));
    for (const { from, sources } of copies.map(copied)) {
      if (from !== null)
        t.ok(
          stages.some((stage) => stage.name === from),
          `${name}: ${from} is a stage`,
        );
      else
        for (const source of sources) {
          const isLetThrough = included.some((entry) => source === entry || source.startsWith(`${entry}/`));
          t.ok(existsSync(source) && isLetThrough, `${name}: ${source}`);
        }
    }
    const last = stages.at(-1)!.instructions;
    t.ok(
      last.some(({ name, text }) => name === 'USER' && text === '10001:10001'),
      `${name}: no root`,
    );
  }
});

t.test('entrypoint.sh', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-entrypoint-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const secret = join(folder, 'secret');
  await writeFile(secret, "postgres://u:it's $HOME@h/d\n");
  const env = { PATH: process.env.PATH, DATABASE_URL_FILE: secret };
  const show = ['sh', '-c', 'echo "$DATABASE_URL|$DATABASE_URL_FILE|$1"', 'sh', 'a b'];
  const ended = await runProgram(join(scripts, 'entrypoint.sh'), show, env);
  t.equal(ended.stdout, "postgres://u:it's $HOME@h/d||a b\n", 'reads secrets, and changes nothing in them');
  const absent = await runProgram(join(scripts, 'entrypoint.sh'), ['true'], {
    ...env,
    DATABASE_URL_FILE: '/no',
  });
  t.match(absent, { code: 1, stderr: /DATABASE_URL_FILE names \/no, which user \d+ cannot read/ });
});

t.test('make-secrets.sh makes what the compose file names, once', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-secrets-'));
  t.teardown(() => rm(folder, { recursive: true }));
  await chmod(folder, 0o755);
  const read = async () => {
    t.match(await runProgram(join(scripts, 'make-secrets.sh'), [folder]), { code: 0, stderr: '' });
    const names = await readdir(folder);
    return Promise.all(names.map(async (name) => [name, await readFile(join(folder, name), 'utf8')]));
  };
  const first = Object.fromEntries(await read());
  t.same(Object.fromEntries(await read()), first);
  t.match(
    first['url-admin'],
    new RegExp(`^postgres://postgres:${first['postgres-password'].trim()}@postgres:5432/`),
  );
  t.equal(Buffer.from(first['secret-key'], 'base64').length, 32);
  t.equal(new Set(Object.values(first)).size, Object.keys(first).length, 'no two alike');
  t.equal((await stat(folder)).mode & 0o777, 0o700, 'for their owner only');
});
