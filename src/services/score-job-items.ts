// What a score job scores: the rows of a file of a caller's, or the texts of a snapshot, from any place in it on. They come
// in batches whose limits follow from the content alone, whoever reads them and wherever he began.
import { type Static, Type } from 'typebox';
import { Compile } from 'typebox/compile';
import type { ArtifactStore } from '../storage/artifact-store.ts';
import { type LinePlace, type NdjsonLine, readNdjsonFrom } from './ndjson.ts';
import { firstError, maxTextLength, type Prompt, promptSchema, type RowError } from './pair-rows.ts';
import type { SnapshotPart } from './score-jobs.ts';
import type { SnapshotRow } from './snapshot-content.ts';

type ItemId = string | number | null;

export type JobItem = { line: number; id: ItemId } & (
  | { prompt: Prompt; response: string }
  | { error: Pick<RowError, 'pointer' | 'detail'> & { code: string } }
);

export interface Batch {
  /** none where a file has nothing but blank lines for long */
  items: JobItem[];
  /** behind the last line of it */
  after: LinePlace;
}

export interface Source {
  digest: string;
  bytes: number;
  /** of a snapshot; null for rows of the caller's */
  what: SnapshotPart | null;
}

const mostLineBytes = 8 * 1024 ** 2;
/** Another number makes other parts: jobs that are under way would still end well, but not with equal bytes. */
const fullBatch = { items: 256, textLength: 256 * 1024, bytes: 4 * 1024 ** 2 };

/** @param done items before the place */
export async function* readBatches(
  artifacts: ArtifactStore,
  source: Source,
  place: LinePlace,
  done: number,
): AsyncGenerator<Batch> {
  if (place.bytes >= source.bytes) return;
  const rest = artifacts.read(source.digest, { start: place.bytes, end: source.bytes });
  const most = source.what === null ? mostLineBytes : Number.POSITIVE_INFINITY; // of our own making
  let items: JobItem[] = [];
  let textLength = 0;
  let start = place.bytes;
  let last = place;
  for await (const chunk of readNdjsonFrom(place, rest, most))
    for (const { read, after } of chunk) {
      last = after;
      if (read !== null) {
        const found = itemsOf(read, source.what, done + items.length);
        items.push(...found);
        for (const item of found) textLength += 'response' in item ? textLengthOf(item) : 0;
      }
      const isFull =
        items.length >= fullBatch.items ||
        textLength >= fullBatch.textLength ||
        after.bytes - start >= fullBatch.bytes;
      if (!isFull) continue;
      yield { items, after };
      done += items.length;
      start = after.bytes;
      [items, textLength] = [[], 0];
    }
  if (items.length > 0) yield { items, after: last };
}

const itemsOf = (read: NdjsonLine, what: SnapshotPart | null, before: number): JobItem[] =>
  what === null ? [rowItem(read)] : snapshotItems(read, what, before);

const textLengthOf = ({ prompt, response }: { prompt: Prompt; response: string }): number =>
  response.length +
  (typeof prompt === 'string' ? prompt.length : prompt.reduce((sum, { content }) => sum + content.length, 0));

const Row = Type.Object({
  id: Type.Optional(Type.Union([Type.String({ maxLength: 500 }), Type.Integer(), Type.Null()])),
  prompt: promptSchema,
  response: Type.String({ maxLength: maxTextLength }),
});
const row = Compile(Row);

function rowItem(read: NdjsonLine): JobItem {
  const { line } = read;
  if ('error' in read) return { line, id: null, error: read.error };
  const { value } = read;
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return { line, id: null, error: { code: 'invalid_row', pointer: '', detail: 'is not a JSON object' } };
  if (!row.Check(value)) return { line, id: idOf(value), error: firstError(row.Errors(value)) };
  const { id = null, prompt, response } = value as Static<typeof Row>;
  return { line, id, prompt, response };
}

/** Of a row that is wrong, where it has one. */
function idOf({ id }: { id?: unknown }): ItemId {
  return (typeof id === 'string' && id.length <= 500) || Number.isInteger(id) ? (id as ItemId) : null;
}

function snapshotItems(read: NdjsonLine, what: SnapshotPart, before: number): JobItem[] {
  if ('error' in read) throw new Error(`Line ${read.line} of a snapshot ${read.error.detail}.`);
  if (read.line === 1) return []; // its header
  const { key, prompt, response_a, response_b, edits } = read.value as SnapshotRow;
  const texts = [
    ...(what === 'edits'
      ? []
      : [
          { id: `${key}/a`, response: response_a },
          { id: `${key}/b`, response: response_b },
        ]),
    ...(what === 'responses'
      ? []
      : edits.map(({ edited_response }, index) => ({
          id: `${key}/edits/${index}`,
          response: edited_response,
        }))),
  ];
  return texts.map(({ id, response }, index) => ({ line: before + index + 1, id, prompt, response }));
}

const mostCountedBytes = 1024 ** 3; // seconds
const [newline, space] = Buffer.from('\n ');

/** Rows of a caller's file, blank lines aside: as good as exact, for a progress. Null for a file that takes too long. */
export async function countRows(
  artifacts: ArtifactStore,
  { digest, bytes }: Source,
  stop: AbortSignal,
): Promise<number | null> {
  if (bytes > mostCountedBytes) return null;
  let count = 0;
  let counted = false; // the line at hand
  for await (const chunk of artifacts.read(digest) as AsyncIterable<Buffer>) {
    stop.throwIfAborted();
    for (let at = 0; at < chunk.length; at++) {
      if (chunk[at] === newline) counted = false;
      else if (counted) {
        const end = chunk.indexOf(newline!, at);
        if (end === -1) break;
        at = end;
        counted = false;
      } else if (chunk[at]! > space!) {
        counted = true;
        count++;
      }
    }
  }
  return count;
}
