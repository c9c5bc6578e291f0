// The collector: deletes blobs that no row names, and what uploads have left. Nothing is lost to it: see named-artifacts.ts
// for the writers' side of the rule. One store belongs to one database, whose rows alone are asked.
import { expireUploads, liveUploads } from '../db/artifact-uploads.ts';
import * as db from '../db/named-digests.ts';
import type { Database, Transaction } from '../db/pool.ts';
import type { ArtifactStore } from '../storage/artifact-store.ts';

export interface CollectionOptions {
  /** younger blobs stay: who has put one is about to name it, and need not put it again */
  graceSeconds: number;
  /** digests that no row names and that are needed nevertheless: the shipped sample's */
  spared: ReadonlySet<string>;
}

export interface Collection {
  examined: number;
  deleted: number;
  deletedBytes: number;
  /** unfinished uploads and files that never became visible */
  leftovers: number;
}

const chunkBlobs = 20_000; // for one look at everything that names digests
const batchBlobs = 500; // under lock at once
const requestBlobs = 100; // deleted between two looks at the connection
/** A batch that takes longer is given up between two requests. */
const batchMs = 30_000;
/** What never became visible is kept for a week, so that the upload of a checkpoint can still be resumed. */
const leftoverMs = 7 * 24 * 3600 * 1000;

/** @param database of the system role, and not through a pooler */
export async function collectArtifacts(
  { db: database, artifacts }: { db: Database; artifacts: ArtifactStore },
  options: CollectionOptions,
): Promise<Collection> {
  const found: Collection = { examined: 0, deleted: 0, deletedBytes: 0, leftovers: 0 };
  const before = Date.now() - options.graceSeconds * 1000;
  for await (const chunk of inChunks(artifacts.list(), chunkBlobs)) {
    found.examined += chunk.length;
    const old = chunk.filter(
      ({ digest, storedAt }) => storedAt.getTime() <= before && !options.spared.has(digest),
    );
    const sizes = new Map(old.map(({ digest, bytes }) => [digest, bytes]));
    const unnamed = await database.transaction(null, (tx) => db.selectUnnamed(tx, [...sizes.keys()]));
    for (let i = 0; i < unnamed.length; i += batchBlobs) {
      const deleted = await database.transaction(null, (tx) =>
        deleteUnnamed(tx, artifacts, unnamed.slice(i, i + batchBlobs)),
      );
      found.deleted += deleted.length;
      for (const digest of deleted) found.deletedBytes += sizes.get(digest)!;
    }
  }
  return { ...found, leftovers: await removeLeftovers(database, artifacts) };
}

/** The digests stay condemned until the transaction has ended, and it does not end before the last of them is deleted. */
async function deleteUnnamed(
  tx: Transaction,
  artifacts: ArtifactStore,
  digests: string[],
): Promise<string[]> {
  await db.neverEndIdle(tx);
  const condemned = await db.condemnDigests(tx, digests);
  // a statement of its own: it must see what was committed before the locks were taken
  const unnamed = await db.selectUnnamed(tx, condemned);
  const started = performance.now();
  const deleted: string[] = [];
  for (let i = 0; i < unnamed.length; i += requestBlobs) {
    await db.checkConnection(tx);
    if (performance.now() - started > batchMs) break;
    const request = unnamed.slice(i, i + requestBlobs);
    await artifacts.remove(request);
    deleted.push(...request);
  }
  return deleted;
}

async function removeLeftovers(database: Database, artifacts: ArtifactStore): Promise<number> {
  const expired = await database.transaction(null, expireUploads);
  for (const { id, reference } of expired) await artifacts.uploads.discard({ id, reference });
  const live = await database.transaction(null, liveUploads);
  const before = new Date(Date.now() - leftoverMs);
  return expired.length + (await artifacts.removeLeftovers(before, new Set(live)));
}

async function* inChunks<T>(items: AsyncIterable<T>, size: number): AsyncGenerator<T[]> {
  let chunk: T[] = [];
  for await (const item of items) {
    chunk.push(item);
    if (chunk.length < size) continue;
    yield chunk;
    chunk = [];
  }
  if (chunk.length > 0) yield chunk;
}
