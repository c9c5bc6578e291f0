// The log of an attempt: the newest lines for who asks while it works, all of them (as far as they are kept) for later.
// What the trainer writes to its standard error and what it says in `log` lines stand in it as they came.

import { once } from 'node:events';
import { createWriteStream, type WriteStream } from 'node:fs';

const newestLines = 500;
const newestBytes = 64 * 1024;
/** of the whole, before it is compressed */
const mostBytes = 10 * 1024 * 1024;

export interface TrainerLog {
  add(line: string): void;
  /** written so far */
  lineCount(): number;
  newest(): string[];
  /** Closes the file, and says whether it holds everything. */
  close(): Promise<{ path: string; complete: boolean }>;
}

/** @param path of a file to write the whole to */
export function openTrainerLog(path: string): TrainerLog {
  const file: WriteStream = createWriteStream(path);
  let failed = false;
  file.on('error', () => {
    failed = true; // a full disk costs the log, not the run
  });
  const newest: string[] = [];
  let newestSize = 0;
  let written = 0;
  let lines = 0;
  let complete = true;
  return {
    add(line) {
      lines += 1;
      newest.push(line);
      newestSize += line.length;
      while (newest.length > newestLines || (newestSize > newestBytes && newest.length > 1))
        newestSize -= newest.shift()!.length;
      written += Buffer.byteLength(line) + 1;
      if (written > mostBytes) complete = false;
      else file.write(`${line}\n`);
    },
    lineCount: () => lines,
    newest: () => [...newest],
    async close() {
      file.end();
      if (!failed && !file.closed)
        await Promise.race([once(file, 'close'), once(file, 'error')]).catch(() => {});
      return { path, complete: complete && !failed };
    },
  };
}
