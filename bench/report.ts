// bench/RESULTS.md holds the parts of several benchmarks; each writes its own and leaves the others as they are.
import { readFile, writeFile } from 'node:fs/promises';
import os from 'node:os';

const file = new URL('RESULTS.md', import.meta.url);

/** Where figures come from. Ask it before the work begins, as it says the load. */
export function describeMachine(): string {
  const cores = os.cpus();
  const load = os.loadavg()[0]!.toFixed(1);
  return `${cores[0]!.model.trim()}, ${cores.length} cores, load ${load} at the start, Node ${process.versions.node}`;
}

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
