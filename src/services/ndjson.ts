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
  let number = 0;
  for await (const bytes of splitLines(source, maxLineBytes)) {
    number++;
    if (bytes === null) {
      yield {
        line: number,
        error: { code: 'line_too_long', pointer: '', detail: `is longer than ${maxLineBytes} bytes` },
      };
      continue;
    }
    const parsed = parseLine(bytes, number);
    if (parsed) yield parsed;
  }
}

function parseLine(bytes: Uint8Array, line: number): NdjsonLine | null {
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
    let start = 0;
    for (let end = chunk.indexOf(newline); end !== -1; end = chunk.indexOf(newline, start)) {
      take(chunk.subarray(start, end));
      yield finish();
      start = end + 1;
    }
    take(chunk.subarray(start));
  }
  if (heldBytes > 0) yield finish();
}

/** One value a line. */
export async function* writeNdjson(values: AsyncIterable<unknown>): AsyncGenerator<string> {
  for await (const value of values) yield `${JSON.stringify(value)}\n`;
}
