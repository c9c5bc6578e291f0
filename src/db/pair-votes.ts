// Statements on the votes behind a preference.
import type { Transaction } from './pool.ts';

export const votes = ['a', 'b', 'tie'] as const;
export type Vote = (typeof votes)[number];

export interface VoteRow {
  id: string;
  pair_id: string;
  voter: string;
  vote: Vote;
  created_at: Date;
  updated_at: Date;
}

const columns = 'id, pair_id, voter, vote, created_at, updated_at';

/** The pair must be locked: its counts change with it. */
export async function selectVote(tx: Transaction, pairId: string, voter: string): Promise<Vote | null> {
  const rows = await tx.query<{ vote: Vote }>(
    'select vote from finegrain.pair_votes where pair_id = $1 and voter = $2',
    [pairId, voter],
  );
  return rows[0]?.vote ?? null;
}

/** Of one voter: the first vote or another one. */
export async function upsertVote(
  tx: Transaction,
  vote: { projectId: string; id: string; pairId: string; voter: string; vote: Vote },
): Promise<void> {
  await tx.query(
    `insert into finegrain.pair_votes (project_id, id, pair_id, voter, vote) values ($1, $2, $3, $4, $5)
     on conflict (project_id, pair_id, voter) do update set vote = excluded.vote, updated_at = now()`,
    [vote.projectId, vote.id, vote.pairId, vote.voter, vote.vote],
  );
}

export async function deleteVote(tx: Transaction, pairId: string, voter: string): Promise<void> {
  await tx.query('delete from finegrain.pair_votes where pair_id = $1 and voter = $2', [pairId, voter]);
}

/** A page, oldest first, after the given id. */
export function selectVotes(
  tx: Transaction,
  pairId: string,
  page: { after: string | null; limit: number },
): Promise<VoteRow[]> {
  return tx.query<VoteRow>(
    `select ${columns} from finegrain.pair_votes
     where pair_id = $1 and ($2::uuid is null or id > $2) order by id limit $3`,
    [pairId, page.after, page.limit],
  );
}
