// Statements that keep those who name artifacts and the one who deletes them apart (migration 0010).
import type { Transaction } from './pool.ts';

/** Until the end of the transaction no collector has these digests; waits for one that does. */
export async function holdDigests(tx: Transaction, digests: string[]): Promise<void> {
  await tx.query('select finegrain.hold_digests($1)', [digests]);
}

/** Those of the digests that nobody is about to name; for the role finegrain_system. */
export async function condemnDigests(tx: Transaction, digests: string[]): Promise<string[]> {
  const rows = await tx.query<{ digest: string }>('select finegrain.condemn_digests($1) as digest', [
    digests,
  ]);
  return rows.map(({ digest }) => digest);
}

/** Those of the digests that no row names; for the role finegrain_system. */
export async function selectUnnamed(tx: Transaction, digests: string[]): Promise<string[]> {
  const rows = await tx.query<{ digest: string }>(
    'select unnest($1::text[]) as digest except select finegrain.named_digests()',
    [digests],
  );
  return rows.map(({ digest }) => digest);
}

/**
 * A transaction that ends while blobs are being deleted would give their digests away too early, so this one is not
 * ended for idling. A collector that is frozen keeps its digests, and who wants to name one of them waits for it.
 */
export async function neverEndIdle(tx: Transaction): Promise<void> {
  await tx.query("select set_config('idle_in_transaction_session_timeout', '0', true)");
}

/** @throws DatabaseError when the connection, and with it the locks, is gone */
export async function checkConnection(tx: Transaction): Promise<void> {
  await tx.query('select');
}
