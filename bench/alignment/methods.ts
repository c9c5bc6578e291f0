// What is compared: our alignment from text to segments, and two peers that are handed the same words ready-made. Myers (1986)
// is the npm package `diff`; Ratcliff-Obershelp is difflib itself, in a Python process, without its junk heuristic.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { diffArrays } from 'diff';
import { alignTexts } from '../../src/domain/alignment.ts';
import type { Span } from '../../src/domain/text.ts';
import { splitWords } from '../../src/domain/words.ts';

/** null when the time limit was reached. */
export type Answer = { changedOriginal: Span[]; milliseconds: number } | null;
export type Method = (original: string, edited: string) => Promise<Answer>;

/** Of the peers; ours has none. */
export const limitSeconds = 10;

export interface Methods {
  ours: Method;
  myers: Method;
  difflib: Method;
  pythonVersion: string;
  close(): void;
}

export async function openMethods(python: string): Promise<Methods> {
  const peer = spawn(python, ['-u', fileURLToPath(new URL('difflib_peer.py', import.meta.url))], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: peer.stdout })[Symbol.asyncIterator]();
  return {
    async ours(original, edited) {
      const begun = performance.now();
      const alignment = alignTexts(original, edited);
      const milliseconds = performance.now() - begun;
      return { changedOriginal: alignment.changed_original, milliseconds };
    },
    async myers(original, edited) {
      const [a, b] = [splitWords(original), splitWords(edited)];
      const begun = performance.now();
      const parts = diffArrays(a.text, b.text, { timeout: limitSeconds * 1000 });
      const milliseconds = performance.now() - begun;
      if (parts === undefined) return null;
      const changed = parts
        .filter(({ added }) => !added)
        .flatMap(({ removed, count }) => new Array<boolean>(count).fill(removed));
      return { changedOriginal: spansOf(a, changed), milliseconds };
    },
    async difflib(original, edited) {
      const [a, b] = [splitWords(original), splitWords(edited)];
      const request = { original: a.text, edited: b.text, limit_seconds: limitSeconds };
      peer.stdin.write(`${JSON.stringify(request)}\n`);
      const line = await lines.next();
      if (line.done) throw new Error('The Python process of difflib has ended.');
      const { changed, milliseconds } = JSON.parse(line.value);
      return changed && { changedOriginal: spansOf(a, changed), milliseconds };
    },
    pythonVersion: await versionOf(python),
    close: () => peer.stdin.end(),
  };
}

function spansOf({ start, end }: { start: number[]; end: number[] }, changed: boolean[]): Span[] {
  return changed.flatMap((is, k): Span[] => (is ? [[start[k]!, end[k]!]] : []));
}

async function versionOf(python: string): Promise<string> {
  const asked = spawn(python, ['--version'], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  for await (const chunk of asked.stdout) said += chunk;
  return said.trim();
}
