// Imports of rows, whatever they are and however they came: a bad row is reported and skipped, every good one is kept.
// Rows are stored in batches that commit as they fill and in their order, so that an import cut off in the middle keeps
// what it has done and a repeat adds only what is missing. While one batch is stored, the next is read: two are held.
import { setImmediate } from 'node:timers/promises';
import { readNdjsonChunks } from './ndjson.ts';
import type { RowError } from './pair-rows.ts';
import { readParquet } from './parquet.ts';

/** The body of an import. */
export interface RowStream {
  format: 'ndjson' | 'parquet';
  bytes: AsyncIterable<Uint8Array>;
}

const mostRowBytes = 8 * 1024 * 1024;

const readRows = ({ format, bytes }: RowStream): AsyncIterable<Iterable<ReadRow>> =>
  format === 'parquet' ? readParquet(bytes, mostRowBytes) : readNdjsonChunks(bytes, mostRowBytes);

/** A row as a reader found it: what it holds, or why it cannot be read. */
type ReadRow =
  | { line: number; value: unknown; bytes: number }
  | { line: number; error: Omit<ImportError, 'line'> };

/** `created`, `unchanged` (there already, equal), or why the row cannot be taken. */
export type RowOutcome = 'created' | 'unchanged' | RowError;

export interface ImportError {
  /** counted from 1 */
  line: number;
  code: string;
  pointer: string;
  detail: string;
}

export interface ImportResult {
  received: number;
  created: number;
  unchanged: number;
  rejected: number;
  errors: ImportError[];
  errors_truncated: boolean;
}

/** What a batch holds at most; it may exceed the bytes by its last row. */
const fullBatch = { rows: 1000, bytes: 2_000_000 };
const listedErrors = 100;

/**
 * @param parse the row behind a value, or what is wrong with it
 * @param store stores a batch in one transaction and says of each row what became of it
 */
export async function importRows<T extends object>(
  source: RowStream,
  parse: (value: unknown) => T | RowError,
  store: (rows: T[]) => Promise<RowOutcome[]>,
  full = fullBatch,
): Promise<ImportResult> {
  const result: ImportResult = {
    received: 0,
    created: 0,
    unchanged: 0,
    rejected: 0,
    errors: [],
    errors_truncated: false,
  };
  const keepFirstErrors = (): void => {
    result.errors.sort((a, b) => a.line - b.line);
    result.errors.length = Math.min(result.errors.length, listedErrors);
  };
  const reject = (line: number, { code, pointer, detail }: Omit<ImportError, 'line'>): void => {
    result.rejected++;
    result.errors.push({ line, code, pointer, detail });
    // in order, as what is stored is behind what is read
    if (result.errors.length === 2 * listedErrors) keepFirstErrors();
  };
  let rows: T[] = [];
  let lines: number[] = [];
  let bytes = 0;
  let storing = Promise.resolve();
  const storeBatch = async (batch: T[], numbers: number[]): Promise<void> => {
    const outcomes = await store(batch);
    outcomes.forEach((outcome, index) => {
      if (typeof outcome === 'string') result[outcome]++;
      else reject(numbers[index]!, outcome);
    });
  };
  const flush = async (): Promise<void> => {
    await storing;
    if (rows.length === 0) return;
    storing = storeBatch(rows, lines);
    storing.catch(() => {}); // whoever waits for it next gets to know
    [rows, lines, bytes] = [[], [], 0];
  };
  try {
    for await (const chunk of readRows(source)) {
      // a fast client's chunks come one after the other, without a turn for anybody else, the database's answers included
      await setImmediate();
      for (const read of chunk) {
        result.received++;
        const row = 'error' in read ? read.error : parse(read.value);
        if ('code' in row) {
          reject(read.line, row);
          continue;
        }
        rows.push(row as T);
        lines.push(read.line);
        bytes += (read as { bytes: number }).bytes;
        if (rows.length === full.rows || bytes >= full.bytes) await flush();
      }
    }
    await flush();
  } finally {
    await storing; // nothing of an import is under way when it has answered
  }
  keepFirstErrors();
  result.errors_truncated = result.errors.length < result.rejected;
  return result;
}
