// Reads one Parquet file and writes its rows as NDJSON, a line for each: a process of its own, as a hostile file can make any
// reader take memory without bounds (docs/adr/0024). What it refuses it says on stderr, and ends with 3.
//
// node --max-old-space-size=… --disable-proto=delete parquet-process.js, started by parquet.ts: the file is descriptor 3
import { fstat, read } from 'node:fs';
import { promisify } from 'node:util';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';
import { Decompress } from 'fzstd';
import {
  type AsyncBuffer,
  type Compressors,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
} from 'hyparquet';
import { compressors as library } from 'hyparquet-compressors';

const file = 3;
const magic = 'PAR1';
const megabyte = 2 ** 20;
const most = {
  footerBytes: 32 * megabyte,
  columns: 1000,
  groupRows: 2_000_000,
  groupBytes: 256 * megabyte,
  /** text of many equal rows shrinks to a 200th, as in a body with a Content-Encoding */
  expansion: 200,
  freeExpansionBytes: 64 * megabyte,
};

/** What the file's sender can do something about. */
class Refused extends Error {}

const readAt = promisify(read);

async function openFile(): Promise<AsyncBuffer> {
  const { size } = await promisify(fstat)(file);
  return {
    byteLength: size,
    async slice(start, end = size) {
      if (!(start >= 0 && start <= end && end <= size))
        throw new Refused('its footer names bytes that the file does not have: it is damaged or cut off');
      const bytes = new Uint8Array(end - start);
      for (let at = 0; at < bytes.length; ) {
        const { bytesRead } = await readAt(file, bytes, at, bytes.length - at, start + at);
        if (bytesRead === 0) throw new Error('the file ended while it was read');
        at += bytesRead;
      }
      return bytes.buffer;
    },
  };
}

async function readMetadata(source: AsyncBuffer): Promise<FileMetaData> {
  const { byteLength: size } = source;
  const text = async (start: number) => Buffer.from(await source.slice(start, start + 4)).toString('latin1');
  if (size < 12 || (await text(0)) !== magic) throw new Refused('it does not begin as one');
  if ((await text(size - 4)) !== magic)
    throw new Refused('it does not end as one: it is cut off or encrypted');
  const footerBytes = new DataView(await source.slice(size - 8, size - 4)).getUint32(0, true);
  if (footerBytes > Math.min(size - 12, most.footerBytes))
    throw new Refused(`its footer of ${footerBytes} bytes is larger than the file or than 32 MiB`);
  return parquetMetadataAsync(source, { geoparquet: false });
}

function checkMetadata({ schema, row_groups }: FileMetaData): void {
  if (schema.length > most.columns) throw new Refused(`it has more than ${most.columns} columns`);
  for (const [index, group] of row_groups.entries()) {
    const rows = Number(group.num_rows);
    const bytes = group.columns.reduce(
      (sum, { meta_data }) => sum + Number(meta_data?.total_uncompressed_size ?? 0),
      0,
    );
    const advice = 'write it with smaller row groups, such as row_group_size=10000 of pyarrow';
    if (!(rows >= 0 && rows <= most.groupRows))
      throw new Refused(`row group ${index} has ${rows} rows, more than ${most.groupRows}: ${advice}`);
    if (!(bytes >= 0 && bytes <= most.groupBytes))
      throw new Refused(`row group ${index} has ${bytes} bytes, more than ${most.groupBytes}: ${advice}`);
  }
}

/** Decompressors that give what the file announces, or nothing. @param take counts what they give */
function boundedCompressors(take: (bytes: number) => void): Compressors {
  const bounded =
    (decompress: (input: Uint8Array, length: number) => Uint8Array) =>
    (input: Uint8Array, length: number): Uint8Array => {
      take(length);
      return length === 0 ? new Uint8Array() : decompress(input, length);
    };
  const zstd = (input: Uint8Array, length: number): Uint8Array => {
    const output = new Uint8Array(length);
    let at = 0;
    new Decompress((part) => {
      output.set(part, at); // throws when there is more than was announced
      at += part.length;
    }).push(input, true);
    return output.subarray(0, at);
  };
  return {
    SNAPPY: bounded(library.SNAPPY!),
    LZ4: bounded(library.LZ4!),
    LZ4_RAW: bounded(library.LZ4_RAW!),
    GZIP: bounded((input, length) => gunzipSync(input, { maxOutputLength: length })),
    BROTLI: bounded((input, length) => brotliDecompressSync(input, { maxOutputLength: length })),
    ZSTD: bounded(zstd),
  };
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Bytes that are not UTF-8 become a text that no row may contain, so that just their row is refused. */
function textOf(bytes: Uint8Array): string {
  try {
    return bytes && utf8.decode(bytes);
  } catch {
    return '\ud800';
  }
}

// what a column of text may hold as JSON
const jsonColumns = ['metadata', 'votes', 'editor'];

/** A row as an import knows it: a null is a column that is missing. */
function lineOf(row: Record<string, unknown>): string {
  const known: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(row)) {
    if (value === null || value === undefined) continue;
    known[name] = jsonColumns.includes(name) && typeof value === 'string' ? parsed(value) : value;
  }
  return `${JSON.stringify(known, plain)}\n`;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text; // is refused where an object is expected
  }
}

/** Integers that JSON's readers would round stay whole as text; bytes become base64. */
function plain(_name: string, value: unknown): unknown {
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  return value instanceof Uint8Array ? Buffer.from(value).toString('base64') : value;
}

const write = (text: string): Promise<void> =>
  new Promise((resolve, reject) => {
    process.stdout.write(text, (error) => (error ? reject(error) : resolve()));
  });

async function main(): Promise<void> {
  const source = await openFile();
  const metadata = await readMetadata(source);
  checkMetadata(metadata);
  let groupBytes = 0;
  const compressors = boundedCompressors((bytes) => {
    groupBytes += bytes;
    if (!(bytes >= 0 && groupBytes <= most.groupBytes))
      throw new Refused(`a row group unpacks to more than the ${most.groupBytes} bytes that it may have`);
  });
  let written = 0;
  let rowStart = 0;
  for (const group of metadata.row_groups) {
    groupBytes = 0;
    const rowEnd = rowStart + Number(group.num_rows);
    const rows = await parquetReadObjects({
      file: source,
      metadata,
      compressors,
      rowStart,
      rowEnd,
      parsers: { stringFromBytes: textOf },
    });
    rowStart = rowEnd;
    let lines = '';
    for (const row of rows) {
      lines += lineOf(row);
      if (lines.length < megabyte) continue;
      written += lines.length;
      if (written > most.freeExpansionBytes + most.expansion * source.byteLength)
        throw new Refused(`its rows are more than ${most.expansion} times as long as the file`);
      await write(lines);
      lines = '';
    }
    await write(lines);
  }
}

try {
  await main();
} catch (error) {
  // the library throws Errors of its own, and of the language, at bytes that make no sense
  const { message } = error as Error;
  process.stderr.write(error instanceof Refused ? message : `it cannot be read: ${message}`);
  process.exitCode = 3;
}
