// Prompts are released files: edits and judgements name the version that they were asked with, so a released one never changes.
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import t from 'tap';

const released = {
  'edit-1.txt': '978469f010a8c1c762358a9ec67ee0576f05dd8a1201c9ae000949cf6547ad5f',
  'judge-1.txt': '07acf90c486c4f2c1351d27f8023ab1a35c5d08731de1fc08a687e0ba9ec3ea0',
};

t.test('a prompt file is what it was when it was released: put changes into a new one', async (t) => {
  const folder = new URL('../../src/prompts/', import.meta.url);
  const digests: Record<string, string> = {};
  for (const name of await readdir(folder))
    digests[name] = createHash('sha256')
      .update(await readFile(new URL(name, folder)))
      .digest('hex');
  t.same(digests, released);
});
