// Statements on judgements that people claim under leases. A lease is over when the database's clock says so; its judgement
// counts as open from then on.
import type { Transaction } from './pool.ts';

/** Holds what one judge claims and skips in order, until the transaction ends; other judges do not wait. */
export async function lockJudge(tx: Transaction, projectId: string, name: string): Promise<void> {
  await tx.query(
    "select pg_advisory_xact_lock(hashtextextended('judge ' || $2::text, hashtextextended($1, 0)))",
    [projectId, name],
  );
}

export interface ClaimedJudgementRow {
  id: string;
  evaluation_id: string;
  prompt: unknown;
  candidate_response: string;
  baseline_response: string;
  candidate_first: boolean;
  request: unknown;
  lease_expires_at: Date;
}

// Judgements j that the judge named $1 may get: of a pair that this judge has neither judged, holds nor has skipped. An own
// lease that is over bars other judgements of its pair, not its own.
const mayGet = `j.judge_kind = 'person' and j.state in ('open', 'leased')
  and ($2::uuid is null or j.evaluation_id = $2)
  and exists (select from finegrain.evaluations e
    where e.project_id = j.project_id and e.id = j.evaluation_id and e.state in ('judging', 'succeeded'))
  and not exists (select from finegrain.judgements o
    where o.project_id = j.project_id and o.evaluation_id = j.evaluation_id and o.number = j.number
      and o.candidate = j.candidate and o.judge_kind = 'person' and o.judge_name = $1 and o.id <> j.id)
  and not exists (select from finegrain.judgement_skips s
    where s.project_id = j.project_id and s.evaluation_id = j.evaluation_id and s.number = j.number
      and s.candidate = j.candidate and s.judge_name = $1)`;

export interface JudgeFilter {
  judgeName: string;
  /** UUID; null: any */
  evaluationId: string | null;
}

/** Leases the first judgement that the judge may get and that nobody is claiming at this moment. Needs lockJudge before it. */
export async function claimJudgement(
  tx: Transaction,
  { judgeName, evaluationId }: JudgeFilter,
  { leaseSeconds, leaseHash }: { leaseSeconds: number; leaseHash: Buffer },
): Promise<ClaimedJudgementRow | undefined> {
  const rows = await tx.query<ClaimedJudgementRow>(
    `with free as materialized (
       select j.project_id, j.id from finegrain.judgements j
       where ${mayGet} and (j.state = 'open' or j.lease_expires_at <= clock_timestamp())
       order by j.evaluation_id, j.id limit 1 for no key update of j skip locked)
     update finegrain.judgements j set state = 'leased', judge_name = $1, lease_sha256 = $3, lease_seconds = $4::int,
       lease_expires_at = clock_timestamp() + make_interval(secs => $4::int)
     from free, finegrain.evaluation_items i, finegrain.evaluations e
     where j.project_id = free.project_id and j.id = free.id
       and i.project_id = j.project_id and i.evaluation_id = j.evaluation_id and i.number = j.number
       and e.project_id = j.project_id and e.id = j.evaluation_id
     returning j.id, j.evaluation_id, i.prompt, i.responses[j.candidate + 1] as candidate_response,
       i.responses[1] as baseline_response, j.candidate_first, e.request, j.lease_expires_at`,
    [judgeName, evaluationId, leaseHash, leaseSeconds],
  );
  return rows[0];
}

/** Pairs of responses that the judge may still get: free, held by others, or by a lease of the judge's own that is over. */
export async function countLeft(tx: Transaction, { judgeName, evaluationId }: JudgeFilter): Promise<number> {
  const rows = await tx.query<{ count: number }>(
    `select count(distinct (j.evaluation_id, j.number, j.candidate)) as count from finegrain.judgements j
     where ${mayGet} and (j.judge_name is distinct from $1 or j.lease_expires_at <= clock_timestamp())`,
    [judgeName, evaluationId],
  );
  return rows[0]!.count;
}

export interface JudgementTaskRow {
  id: string;
  evaluation_id: string;
  number: number;
  candidate: number;
  state: 'open' | 'leased' | 'judged' | 'cancelled';
  judge_name: string | null;
  candidate_first: boolean | null;
  lease_sha256: Buffer | null;
  lease_expires_at: Date | null;
  /** a lease that nobody has taken over */
  lease_is_over: boolean;
  outcome: number | null;
  detail: unknown;
}

const columns = `id, evaluation_id, number, candidate, state, judge_name, candidate_first, lease_sha256, lease_expires_at,
  state = 'leased' and lease_expires_at <= clock_timestamp() as lease_is_over, outcome, detail`;

/** One of those that people judge. */
export async function selectTask(tx: Transaction, id: string): Promise<JudgementTaskRow | undefined> {
  const rows = await tx.query<JudgementTaskRow>(
    `select ${columns} from finegrain.judgements where id = $1 and judge_kind = 'person'`,
    [id],
  );
  return rows[0];
}

export interface Lease {
  id: string;
  leaseHash: Buffer;
}

const held = `id = $1 and lease_sha256 = $2 and state = 'leased' and lease_expires_at > clock_timestamp()`;

/** undefined: the token does not hold it. `leaseSeconds`: null for as many as before. */
export async function renewLease(
  tx: Transaction,
  { id, leaseHash }: Lease,
  leaseSeconds: number | null,
): Promise<JudgementTaskRow | undefined> {
  const rows = await tx.query<JudgementTaskRow>(
    `update finegrain.judgements set lease_seconds = coalesce($3, lease_seconds),
       lease_expires_at = clock_timestamp() + make_interval(secs => coalesce($3, lease_seconds))
     where ${held} returning ${columns}`,
    [id, leaseHash, leaseSeconds],
  );
  return rows[0];
}

/** undefined: the token does not hold it. */
export async function releaseLease(
  tx: Transaction,
  { id, leaseHash }: Lease,
): Promise<JudgementTaskRow | undefined> {
  const rows = await tx.query<JudgementTaskRow>(
    `update finegrain.judgements set state = 'open', judge_name = null, lease_sha256 = null, lease_seconds = null,
       lease_expires_at = null
     where ${held} returning ${columns}`,
    [id, leaseHash],
  );
  return rows[0];
}

/** undefined: the token does not hold it. */
export async function judgeLeased(
  tx: Transaction,
  { id, leaseHash }: Lease,
  { outcome, detail }: { outcome: number; detail: object | null },
): Promise<JudgementTaskRow | undefined> {
  const rows = await tx.query<JudgementTaskRow>(
    `update finegrain.judgements set state = 'judged', outcome = $3, detail = $4, judged_at = clock_timestamp()
     where ${held} returning ${columns}`,
    [id, leaseHash, outcome, detail && JSON.stringify(detail)],
  );
  return rows[0];
}

/** Remembers that the judge would not judge this pair. */
export async function insertSkip(
  tx: Transaction,
  projectId: string,
  { evaluation_id, number, candidate }: JudgementTaskRow,
  { judgeName, reason }: { judgeName: string; reason: string | null },
): Promise<void> {
  await tx.query(
    `insert into finegrain.judgement_skips (project_id, evaluation_id, number, candidate, judge_name, reason)
     values ($1, $2, $3, $4, $5, $6) on conflict do nothing`,
    [projectId, evaluation_id, number, candidate, judgeName, reason],
  );
}
