// Parquet files as rows of an import. A file is read from its end, so the body is kept in a file that has no name, and is
// gone with its last descriptor, whatever happens. It is read by a process of its own (docs/adr/0024), whose lines are rows.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { type FileHandle, mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { Problem } from '../errors.ts';
import { openPlaces } from '../scoring/places.ts';
import { type NdjsonLine, readNdjsonChunks } from './ndjson.ts';

export const mostParquetBytes = 2 * 1024 ** 3;

const program = fileURLToPath(new URL('./parquet-process.js', import.meta.url));
const heapMegabytes = 1024;
const silenceMs = 120_000;
const refusedCode = 3;

const places = openPlaces(2); // each process may take a gigabyte

/**
 * Its rows, several at a time; `line` is the number of the row, from 1.
 * @throws Problem content_too_large; unprocessable for what is no Parquet file, is damaged or hostile, after the rows before
 */
export async function* readParquet(
  source: AsyncIterable<Uint8Array>,
  maxRowBytes: number,
): AsyncGenerator<Iterable<NdjsonLine>> {
  const file = await openNameless();
  try {
    await fill(file, source);
    await places.take();
    try {
      yield* readNdjsonChunks(linesOf(file), maxRowBytes);
    } finally {
      places.give();
    }
  } finally {
    await file.close();
  }
}

async function openNameless(): Promise<FileHandle> {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-parquet-'));
  try {
    return await open(join(folder, 'file'), 'wx+', 0o600);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function fill(file: FileHandle, source: AsyncIterable<Uint8Array>): Promise<void> {
  let bytes = 0;
  for await (const chunk of source) {
    bytes += chunk.length;
    if (bytes > mostParquetBytes)
      throw new Problem(
        'content_too_large',
        `A Parquet file may have at most ${mostParquetBytes} bytes: send it in several, or as NDJSON.`,
      );
    await file.writeFile(chunk);
  }
}

/** What the process writes. @throws Problem unprocessable */
async function* linesOf(file: FileHandle): AsyncGenerator<Uint8Array> {
  const child = spawn(
    process.execPath,
    [`--max-old-space-size=${heapMegabytes}`, '--disable-proto=delete', program],
    { env: {}, stdio: ['ignore', 'pipe', 'pipe', file.fd] },
  );
  const ended = once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>;
  ended.catch(() => {}); // could not be started: told below
  let said = '';
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-2000);
  });
  try {
    yield* whileItSpeaks(child);
    const [code] = await ended;
    if (code === 0) return;
    throw unreadable(
      code === refusedCode
        ? said
        : 'reading it took more memory than a row group may need: write it with smaller row groups',
    );
  } finally {
    child.kill('SIGKILL');
    await ended.catch(() => {});
  }
}

async function* whileItSpeaks(child: ChildProcess): AsyncGenerator<Uint8Array> {
  const chunks = (child.stdout as Readable)[Symbol.asyncIterator]();
  for (;;) {
    let silent = false;
    const limit = setTimeout(() => {
      silent = true;
      child.kill('SIGKILL');
    }, silenceMs);
    const { value, done } = await chunks.next();
    clearTimeout(limit);
    if (silent) throw unreadable(`reading a row group of it took longer than ${silenceMs / 1000} s`);
    if (done) return;
    yield value;
  }
}

const unreadable = (reason: string): Problem =>
  new Problem(
    'unprocessable',
    `The body cannot be read as a Parquet file: ${reason}. Rows before that place are kept.`,
  );
