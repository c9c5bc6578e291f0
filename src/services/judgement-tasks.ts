// Judging by people: they claim pairs of responses under a lease, and say which is better without knowing whose they are.
// The lease token alone says who holds a pair; a call under a lease that is over changes nothing and is told why.
import { lockEvaluation, settleEvaluation } from '../db/evaluations.ts';
import * as db from '../db/judgement-tasks.ts';
import type { Transaction } from '../db/pool.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { notFound, Problem } from '../errors.ts';
import type { Caller, Services } from './context.ts';
import { type EvaluationRequest, findEvaluation } from './evaluations.ts';
import { leaseHashOf, newLeaseToken } from './lease-tokens.ts';
import type { Prompt } from './pair-rows.ts';

export const defaultLeaseSeconds = 600;

export const verdicts = {
  first: 'the first response is better',
  second: 'the second response is better',
  tie: 'neither is',
} as const;

export type Verdict = keyof typeof verdicts;

export interface JudgementTask {
  id: string;
  evaluation_id: string;
  state: db.JudgementTaskRow['state'];
  lease_expires_at: string | null;
}

export interface ClaimedJudgement {
  id: string;
  evaluation_id: string;
  lease_token: string;
  lease_expires_at: string;
  prompt: Prompt;
  responses: { first: string; second: string };
  instructions: string | null;
}

function render(row: db.JudgementTaskRow): JudgementTask {
  const state = row.lease_is_over ? 'open' : row.state;
  return {
    id: formatId('judgement', row.id),
    evaluation_id: formatId('evaluation', row.evaluation_id),
    state,
    lease_expires_at: state === 'leased' ? row.lease_expires_at!.toISOString() : null,
  };
}

/**
 * Oldest evaluation first, every pair once before any a second time. Nothing to give is no error.
 * @throws Problem not_found, conflict
 */
export function claimJudgements(
  { db: database }: Services,
  caller: Caller,
  {
    judge,
    evaluation_id,
    lease_seconds: leaseSeconds = defaultLeaseSeconds,
    limit = 1,
  }: { judge: string; evaluation_id?: string; lease_seconds?: number; limit?: number },
): Promise<{ items: ClaimedJudgement[]; open: number | null }> {
  return database.transaction(caller.projectId, async (tx) => {
    const evaluation = evaluation_id === undefined ? null : await findEvaluation(tx, evaluation_id);
    if (evaluation && !peopleOf(evaluation.request as EvaluationRequest))
      throw new Problem('conflict', 'No people judge in this evaluation: it was asked for without them.');
    await db.lockJudge(tx, caller.projectId, judge);
    const filter = { judgeName: judge, evaluationId: evaluation?.id ?? null };
    const items: ClaimedJudgement[] = [];
    while (items.length < limit) {
      const token = newLeaseToken();
      const row = await db.claimJudgement(tx, filter, { leaseSeconds, leaseHash: leaseHashOf(token) });
      if (!row) break;
      items.push(renderClaimed(row, token));
    }
    return { items, open: items.length === limit ? null : await db.countLeft(tx, filter) };
  });
}

/** How people judge in an evaluation; null when they do not. */
export const peopleOf = ({ judge, people }: EvaluationRequest) => (judge.kind === 'person' ? judge : people);

function renderClaimed(row: db.ClaimedJudgementRow, token: string): ClaimedJudgement {
  const { candidate_response: candidate, baseline_response: baseline } = row;
  const [first, second] = row.candidate_first ? [candidate, baseline] : [baseline, candidate];
  return {
    id: formatId('judgement', row.id),
    evaluation_id: formatId('evaluation', row.evaluation_id),
    lease_token: token,
    lease_expires_at: row.lease_expires_at.toISOString(),
    prompt: row.prompt as Prompt,
    responses: { first, second },
    instructions: peopleOf(row.request as EvaluationRequest)?.instructions ?? null,
  };
}

/** @throws Problem not_found */
async function findTask(tx: Transaction, id: string): Promise<db.JudgementTaskRow> {
  const uuid = parseId('judgement', id);
  const row = uuid ? await db.selectTask(tx, uuid) : undefined;
  if (!row) throw notFound('judgement', id);
  return row;
}

/** Why a lease token does not hold a judgement: found after the fact, so it may say more than was known before. */
async function notHeld(tx: Transaction, id: string, leaseHash: Buffer): Promise<Problem> {
  const task = await findTask(tx, id);
  if (task.state === 'judged') return new Problem('conflict', 'The pair is judged already.');
  if (task.state === 'cancelled')
    return new Problem('conflict', 'The evaluation of this pair was cancelled.');
  if (task.lease_sha256?.equals(leaseHash))
    return new Problem(
      'conflict',
      `The lease ran out at ${task.lease_expires_at!.toISOString()}; the pair is open to every judge again. Claim it anew, and renew leases in time with /heartbeat.`,
    );
  return new Problem(
    'conflict',
    'The lease token does not hold this pair: its lease ran out and the pair was claimed again, it was given back, or the token belongs to another one.',
  );
}

interface Held {
  lease_token: string;
}

/** The lease from now on again, for as many seconds as before unless told otherwise. @throws Problem not_found, conflict */
export function heartbeatJudgement(
  { db: database }: Services,
  caller: Caller,
  id: string,
  { lease_token, lease_seconds }: Held & { lease_seconds?: number },
): Promise<JudgementTask> {
  const leaseHash = leaseHashOf(lease_token);
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findTask(tx, id);
    const row = await db.renewLease(tx, { id: uuid, leaseHash }, lease_seconds ?? null);
    if (!row) throw await notHeld(tx, id, leaseHash);
    return render(row);
  });
}

/** Gives a pair back: every judge may get it again, this one too. @throws Problem not_found, conflict */
export function releaseJudgement(
  { db: database }: Services,
  caller: Caller,
  id: string,
  { lease_token }: Held,
): Promise<JudgementTask> {
  const leaseHash = leaseHashOf(lease_token);
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findTask(tx, id);
    const row = await db.releaseLease(tx, { id: uuid, leaseHash });
    if (!row) throw await notHeld(tx, id, leaseHash);
    return render(row);
  });
}

/** Gives a pair back for others: this judge does not get it again. @throws Problem not_found, conflict */
export function skipJudgement(
  { db: database }: Services,
  caller: Caller,
  id: string,
  { lease_token, reason = null }: Held & { reason?: string | null },
): Promise<JudgementTask> {
  const leaseHash = leaseHashOf(lease_token);
  return database.transaction(caller.projectId, async (tx) => {
    const task = await findTask(tx, id);
    const judgeName = task.judge_name;
    if (judgeName !== null) await db.lockJudge(tx, caller.projectId, judgeName);
    const row = await db.releaseLease(tx, { id: task.id, leaseHash });
    if (!row || judgeName === null) throw await notHeld(tx, id, leaseHash);
    await db.insertSkip(tx, caller.projectId, row, { judgeName, reason });
    return render(row);
  });
}

/**
 * Stores the verdict; the last one ends the evaluation. The same verdict again under the same lease changes nothing.
 * @throws Problem not_found, conflict
 */
export function submitJudgement(
  { db: database }: Services,
  caller: Caller,
  id: string,
  { lease_token, verdict, comment = null }: Held & { verdict: Verdict; comment?: string | null },
): Promise<JudgementTask> {
  const leaseHash = leaseHashOf(lease_token);
  return database.transaction(caller.projectId, async (tx) => {
    const task = await findTask(tx, id);
    await lockEvaluation(tx, task.evaluation_id);
    const outcome = verdict === 'tie' ? 0.5 : (verdict === 'first') === task.candidate_first ? 1 : 0;
    const detail = comment === null ? null : { comment };
    const row = await db.judgeLeased(tx, { id: task.id, leaseHash }, { outcome, detail });
    if (!row) {
      const judged = await findTask(tx, id);
      const equal =
        judged.state === 'judged' && judged.lease_sha256?.equals(leaseHash) && judged.outcome === outcome;
      if (!equal) throw await notHeld(tx, id, leaseHash);
      return render(judged);
    }
    await settleEvaluation(tx, { projectId: caller.projectId, evaluationId: task.evaluation_id });
    return render(row);
  });
}
