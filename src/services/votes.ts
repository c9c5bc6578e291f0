// Votes on pairs: one per voter, kept with its voter; the preference of the pair follows from all of them.
import { v7 as uuidv7 } from 'uuid';
import { updateEditsOfPair } from '../db/edits.ts';
import * as db from '../db/pair-votes.ts';
import { updateVotes } from '../db/pairs.ts';
import { formatId } from '../domain/ids.ts';
import { preferenceByVotes } from '../domain/votes.ts';
import type { Caller, Services } from './context.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { findPair, lockPair, type Pair, renderPair, votesOf } from './pairs.ts';
import type { Precondition } from './preconditions.ts';

export interface PairVote {
  id: string;
  pair_id: string;
  voter: string;
  vote: db.Vote;
  created_at: string;
  updated_at: string;
}

const render = (row: db.VoteRow): PairVote => ({
  id: formatId('vote', row.id),
  pair_id: formatId('pair', row.pair_id),
  voter: row.voter,
  vote: row.vote,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
});

/**
 * Gives, changes or withdraws (null) the vote of one voter; the preference, and with it which edits are stale, follows.
 * @throws Problem not_found, precondition_failed
 */
export function castVote(
  { db: database }: Services,
  caller: Caller,
  pairId: string,
  { voter, vote }: { voter: string; vote: db.Vote | null },
  condition: Precondition,
): Promise<Pair> {
  return database.transaction(caller.projectId, async (tx) => {
    const pair = await lockPair(tx, pairId, 'no key update', condition);
    const before = await db.selectVote(tx, pair.id, voter);
    const votes = votesOf(pair);
    if (before !== null) votes[before]--;
    if (vote !== null) votes[vote]++;
    if (vote === null) await db.deleteVote(tx, pair.id, voter);
    else
      await db.upsertVote(tx, {
        projectId: caller.projectId,
        id: uuidv7(),
        pairId: pair.id,
        voter,
        vote,
      });
    const row = await updateVotes(tx, pair.id, votes, preferenceByVotes(votes));
    await updateEditsOfPair(tx, pair.id, row.preference);
    return renderPair(row);
  });
}

/** Those whose voter is known: counts that came with a pair have none. @throws Problem not_found */
export function listVotes(
  { db: database, cursors }: Services,
  caller: Caller,
  pairId: string,
  request: PageRequest,
): Promise<Page<PairVote>> {
  return database.transaction(caller.projectId, async (tx) => {
    const pair = await findPair(tx, pairId);
    return readPage(
      { cursors, tx, projectId: caller.projectId, list: `votes on ${pair.id}` },
      request,
      (page) => db.selectVotes(tx, pair.id, page),
      render,
    );
  });
}
