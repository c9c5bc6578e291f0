// Newline-delimited JSON in and out, in constant memory. A line that cannot be read is reported and skipped; its
// neighbours are not touched.
import { parseJson } from './json-input.ts';

export type NdjsonLine =
  | { line: number; value: unknown; bytes: number }
  | {
      line: number;
      error: {
        code: 'malformed_json' | 'ill_formed_text' | 'line_too_long' | 'invalid_row';
        pointer: string;
        detail: string;
      };
    };

const newline = 0x0a;

/**
 * Reads lines as they arrive. Blank lines and a byte order mark at the start are skipped; `line` counts from 1.
 * @param maxLineBytes a longer line is skipped while it streams past, never held
 */
export async function* readNdjson(
  source: AsyncIterable<Uint8Array>,
  maxLineBytes: number,
): AsyncGenerator<NdjsonLine> {
  for await (const lines of readNdjsonChunks(source, maxLineBytes)) yield* lines;
}

/** The lines that each chunk of the source completes, read one by one: an import of millions of rows waits for few of them. */
export async function* readNdjsonChunks(
  source: AsyncIterable<Uint8Array>,
  maxLineBytes: number,
): AsyncGenerator<Iterable<NdjsonLine>> {
  let number = 0;
  for await (const chunk of splitChunks(source, maxLineBytes)) {
    const first = number + 1;
    number += chunk.length;
    yield parseLines(chunk, first, maxLineBytes);
  }
}

/** A place between two lines of a file. */
export interface LinePlace {
  lines: number;
  bytes: number;
}

export interface PlacedLine {
  /** null for a blank one */
  read: NdjsonLine | null;
  /** behind the line */
  after: LinePlace;
}

/** What follows a place in a file, as readNdjsonChunks. */
export async function* readNdjsonFrom(
  place: LinePlace,
  rest: AsyncIterable<Uint8Array>,
  maxLineBytes: number,
): AsyncGenerator<Iterable<PlacedLine>> {
  let { lines } = place;
  for await (const chunk of splitChunks(rest, maxLineBytes)) {
    yield placeLines(chunk, { lines, bytes: place.bytes }, maxLineBytes);
    lines += chunk.length;
  }
}

function* placeLines(
  chunk: Line[],
  { lines, bytes }: LinePlace,
  maxLineBytes: number,
): Generator<PlacedLine> {
  for (const [index, { content, end }] of chunk.entries()) {
    const line = lines + index + 1;
    yield { read: parseLine(content, line, maxLineBytes), after: { lines: line, bytes: bytes + end } };
  }
}

function* parseLines(lines: Line[], first: number, maxLineBytes: number): Generator<NdjsonLine> {
  for (const [index, { content }] of lines.entries()) {
    const parsed = parseLine(content, first + index, maxLineBytes);
    if (parsed) yield parsed;
  }
}

function parseLine(bytes: Uint8Array | null, line: number, maxLineBytes: number): NdjsonLine | null {
  if (bytes === null) {
    const detail = `is longer than ${maxLineBytes} bytes`;
    return { line, error: { code: 'line_too_long', pointer: '', detail } };
  }
  if (bytes.length === 0) return null; // blank, and there may be millions
  const parsed = parseJson(bytes);
  if ('error' in parsed) {
    const { code, ...where } = parsed.error;
    return { line, error: { code: code === 'beyond_limits' ? 'invalid_row' : code, ...where } };
  }
  return parsed.value === undefined ? null : { line, value: parsed.value, bytes: bytes.length };
}

/** Lines without their newline; null stands for one that was too long. */
export async function* splitLines(
  source: AsyncIterable<Uint8Array>,
  maxLineBytes: number,
): AsyncGenerator<Uint8Array | null> {
  for await (const lines of splitChunks(source, maxLineBytes)) for (const { content } of lines) yield content;
}

interface Line {
  /** without its newline; null when it was too long */
  content: Uint8Array | null;
  /** bytes of the source up to the end of the line, its newline included */
  end: number;
}

/** Those that each chunk of the source completes. */
async function* splitChunks(source: AsyncIterable<Uint8Array>, maxLineBytes: number): AsyncGenerator<Line[]> {
  let passed = 0;
  let held: Uint8Array[] = [];
  let heldBytes = 0;
  let overflow = false;
  const take = (part: Uint8Array): void => {
    heldBytes += part.length;
    if (heldBytes > maxLineBytes) {
      overflow = true;
      held = [];
    } else if (!overflow) held.push(part);
  };
  const finish = (): Uint8Array | null => {
    const line = overflow ? null : held.length === 1 ? held[0]! : Buffer.concat(held);
    held = [];
    heldBytes = 0;
    overflow = false;
    return line;
  };
  for await (const chunk of source) {
    const lines: Line[] = [];
    let start = 0;
    for (let end = chunk.indexOf(newline); end !== -1; end = chunk.indexOf(newline, start)) {
      take(chunk.subarray(start, end));
      start = end + 1;
      lines.push({ content: finish(), end: passed + start });
    }
    take(chunk.subarray(start));
    passed += chunk.length;
    if (lines.length > 0) yield lines;
  }
  if (heldBytes > 0) yield [{ content: finish(), end: passed }];
}

/** One value a line. */
export async function* writeNdjson(values: AsyncIterable<unknown>): AsyncGenerator<string> {
  for await (const value of values) yield `${JSON.stringify(value)}\n`;
}
