// bench/RESULTS.md holds the parts of several benchmarks; each writes its own and leaves the others as they are.
import { readFile, writeFile } from 'node:fs/promises';

const file = new URL('RESULTS.md', import.meta.url);

export async function writePart(name: string, markdown: string): Promise<void> {
  const text = await readFile(file, 'utf8').catch((error) => {
    if (error.code === 'ENOENT') return '';
    throw error;
  });
  await writeFile(file, withPart(text, name, markdown));
}

/** `text` with the part in the place of what it was before, or at the end. */
export function withPart(text: string, name: string, markdown: string): string {
  const [begin, end] = [`<!-- ${name} -->`, `<!-- end of ${name} -->`];
  const part = `${begin}\n${markdown.trim()}\n${end}\n`;
  const from = text.indexOf(begin);
  const to = text.indexOf(end);
  if (from < 0 || to < from) return text === '' ? part : `${text.trimEnd()}\n\n${part}`;
  return text.slice(0, from) + part + text.slice(to + end.length).replace(/^\n/, '');
}
