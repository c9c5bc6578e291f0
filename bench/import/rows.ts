// Pairs as an importer meets them: texts of a few sentences in words of a fixed seed, so that every run imports the same.
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';

export interface Row {
  external_id: string;
  prompt: string;
  response_a: string;
  response_b: string;
  preference: 'a' | 'b';
  metadata: { source: string; turn: number; tags: string[] };
}

const words =
  'the harbor bridge was opened after a long winter and its engineers wrote that every rivet “held” as they had drawn it in 1932 naïve but sound'.split(
    ' ',
  );

/** mulberry32 */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** @param scale 1: about 700 bytes a row */
export function* rows(count: number, scale = 1): Generator<Row> {
  const next = random(1);
  const text = (length: number): string => {
    let made = '';
    while (made.length < length) made += `${words[Math.floor(next() * words.length)]} `;
    return made;
  };
  for (let index = 0; index < count; index++) {
    yield {
      external_id: `conversation-${index}`,
      prompt: `${index}: ${text(100 * scale)}`,
      response_a: text(220 * scale),
      response_b: text(220 * scale),
      preference: next() < 0.5 ? 'a' : 'b',
      metadata: { source: 'bench', turn: index % 7, tags: ['one', `t${index % 97}`] },
    };
  }
}

/** Writes lines to a file, as fast as it takes them. @returns its bytes */
export async function writeLines(file: string, lines: Iterable<string>): Promise<number> {
  const stream = createWriteStream(file);
  let held = '';
  for (const line of lines) {
    held += line;
    if (held.length < 1_000_000) continue;
    if (!stream.write(held)) await once(stream, 'drain');
    held = '';
  }
  stream.end(held);
  await once(stream, 'finish');
  return stream.bytesWritten;
}
