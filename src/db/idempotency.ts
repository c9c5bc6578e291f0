// Statements on the answers that are kept under an Idempotency-Key.
import type { Transaction } from './pool.ts';

/** What was answered; `body` is the text as it was sent, null for none. */
export interface StoredAnswer {
  status: number;
  headers: Record<string, string>;
  body: string | null;
}

export interface StoredAnswerRow extends StoredAnswer {
  request_sha256: Buffer;
}

/**
 * Takes the key for the rest of the transaction, without waiting; false when another transaction has it. The seed 1
 * keeps these locks apart from those of editors (edit-tasks.ts).
 */
export async function tryLockKey(tx: Transaction, projectId: string, key: string): Promise<boolean> {
  const rows = await tx.query<{ locked: boolean }>(
    'select pg_try_advisory_xact_lock(hashtextextended($2, hashtextextended($1, 1))) as locked',
    [projectId, key],
  );
  return rows[0]!.locked;
}

export async function selectAnswer(tx: Transaction, key: string): Promise<StoredAnswerRow | undefined> {
  return (
    await tx.query<StoredAnswerRow>(
      'select request_sha256, status, headers, body from finegrain.idempotency_keys where key = $1',
      [key],
    )
  )[0];
}

export async function insertAnswer(
  tx: Transaction,
  answer: { projectId: string; key: string; requestSha256: Buffer } & StoredAnswer,
): Promise<void> {
  await tx.query(
    `insert into finegrain.idempotency_keys (project_id, key, request_sha256, status, headers, body)
     values ($1, $2, $3, $4, $5, $6)`,
    [
      answer.projectId,
      answer.key,
      answer.requestSha256,
      answer.status,
      JSON.stringify(answer.headers),
      answer.body,
    ],
  );
}

/** Shows the server that this side of an open transaction is alive. */
export async function keepAwake(tx: Transaction): Promise<void> {
  await tx.query('select');
}

/** Of every project: for the role finegrain_system. Answers how many. */
export async function deleteAnswersOlderThan(tx: Transaction, hours: number): Promise<number> {
  const rows = await tx.query<{ deleted: number }>(
    `with deleted as (
       delete from finegrain.idempotency_keys where created_at < now() - make_interval(hours => $1) returning 1)
     select count(*) as deleted from deleted`,
    [hours],
  );
  return rows[0]!.deleted;
}
