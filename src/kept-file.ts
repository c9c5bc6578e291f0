// What is made once and kept in the data folder, readable by its owner only.
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';

/** The line in `file`; the first call writes what `make` makes. */
export async function readKept(file: string, make: () => string): Promise<string> {
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, `${make()}\n`, { mode: 0o600, flag: 'wx' }).catch((error) => {
    if (error.code !== 'EEXIST') throw error;
  });
  return (await readFile(file, 'utf8')).trim();
}
