// Statements on what this installation is.
import type { Transaction } from './pool.ts';

/** 32 random bytes that migration 0005 has made. */
export async function selectCursorSecret(tx: Transaction): Promise<Buffer> {
  const rows = await tx.query<{ secret: Buffer }>('select finegrain.cursor_secret() as secret');
  return rows[0]!.secret;
}
