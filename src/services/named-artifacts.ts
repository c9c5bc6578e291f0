// What everybody does who makes a row that names artifacts, so that the collector deletes none of them: hold the digests,
// look whether the store still has them, make the row, commit. ADR 16 has the whole rule.
import { holdDigests } from '../db/named-digests.ts';
import type { Transaction } from '../db/pool.ts';
import type { ArtifactStore } from '../storage/artifact-store.ts';

export { isStoreUnavailable } from '../storage/errors.ts';

/** The collector was faster: what was stored, or was there, must be stored again. */
export class ArtifactsGone extends Error {
  override name = 'ArtifactsGone';
  readonly digests: string[];
  constructor(digests: string[]) {
    super(`The artifact store no longer has ${digests.join(', ')}.`);
    this.digests = digests;
  }
}

/**
 * To be called in the transaction that makes the row, before or after its statement: until it ends, what is there stays.
 * @throws ArtifactsGone
 */
export async function holdArtifacts(
  tx: Transaction,
  artifacts: ArtifactStore,
  digests: string[],
): Promise<void> {
  const wanted = [...new Set(digests)];
  if (wanted.length === 0) return;
  await holdDigests(tx, wanted);
  const there = await Promise.all(wanted.map((digest) => artifacts.has(digest)));
  const gone = wanted.filter((_, i) => !there[i]);
  if (gone.length > 0) throw new ArtifactsGone(gone);
}

const mostTries = 20;

/** Repeats work that stores artifacts and then names them in a transaction, when they are gone in between. */
export async function untilNamed<T>(work: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof ArtifactsGone) || tries === mostTries) throw error;
    }
  }
}
