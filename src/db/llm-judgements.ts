// Statements on the judgements that the llm judge of an evaluation makes, each under a lease. Whoever records one has locked its
// evaluation before (db/evaluations.ts).
import type { EvaluationKey } from './evaluations.ts';
import type { Verdict } from './judgements.ts';
import type { Transaction } from './pool.ts';

/** Judges what nobody need be asked about: equal responses are a tie. */
export async function judgeEqualResponses(
  tx: Transaction,
  { projectId, evaluationId }: EvaluationKey,
): Promise<void> {
  await tx.query(
    `update finegrain.judgements j set state = 'judged', outcome = 0.5, detail = '{"identical": true}',
       judged_at = clock_timestamp()
     from finegrain.evaluation_items i
     where j.project_id = $1 and j.evaluation_id = $2 and j.judge_kind = 'llm' and j.state = 'open'
       and i.project_id = $1 and i.evaluation_id = $2 and i.number = j.number
       and i.responses[j.candidate + 1] = i.responses[1]`,
    [projectId, evaluationId],
  );
}

export interface LeasedJudgement {
  id: string;
  candidate_first: boolean;
  prompt: unknown;
  response: string;
  baseline: string;
}

/** Leases the next judgement that is free and that nobody is claiming at this moment. undefined: there is none. */
export async function claimJudgement(
  tx: Transaction,
  { projectId, evaluationId }: EvaluationKey,
  { lease, leaseSeconds }: { lease: Buffer; leaseSeconds: number },
): Promise<LeasedJudgement | undefined> {
  return (
    await tx.query<LeasedJudgement>(
      `with free as materialized (
         select id from finegrain.judgements
         where project_id = $1 and evaluation_id = $2 and judge_kind = 'llm' and state in ('open', 'leased')
           and (state = 'open' or lease_expires_at <= clock_timestamp())
         order by id limit 1 for update skip locked)
       update finegrain.judgements j set state = 'leased', lease_sha256 = $3, lease_seconds = $4::int,
         lease_expires_at = clock_timestamp() + make_interval(secs => $4::int)
       from free, finegrain.evaluation_items i
       where j.project_id = $1 and j.id = free.id
         and i.project_id = $1 and i.evaluation_id = $2 and i.number = j.number
       returning j.id, j.candidate_first, i.prompt, i.responses[j.candidate + 1] as response, i.responses[1] as baseline`,
      [projectId, evaluationId, lease, leaseSeconds],
    )
  )[0];
}

export interface JudgementLease {
  projectId: string;
  id: string;
  lease: Buffer;
}

/** The lease from now on again. False: another holds the judgement, or it is cancelled. */
export async function renewJudgement(
  tx: Transaction,
  { projectId, id, lease }: JudgementLease,
): Promise<boolean> {
  const rows = await tx.query(
    `update finegrain.judgements set lease_expires_at = clock_timestamp() + make_interval(secs => lease_seconds)
     where project_id = $1 and id = $2 and lease_sha256 = $3 and state = 'leased' returning id`,
    [projectId, id, lease],
  );
  return rows.length > 0;
}

export async function releaseJudgement(
  tx: Transaction,
  { projectId, id, lease }: JudgementLease,
): Promise<void> {
  await tx.query(
    `update finegrain.judgements set state = 'open', lease_sha256 = null, lease_seconds = null, lease_expires_at = null
     where project_id = $1 and id = $2 and lease_sha256 = $3 and state = 'leased'`,
    [projectId, id, lease],
  );
}

/** Changes nothing when another holds the judgement. */
export async function recordJudgement(
  tx: Transaction,
  { projectId, id, lease }: JudgementLease,
  { outcome, nullReason, detail }: Verdict,
): Promise<void> {
  await tx.query(
    `update finegrain.judgements set state = 'judged', outcome = $4, null_reason = $5, detail = $6,
       lease_expires_at = null, judged_at = clock_timestamp()
     where project_id = $1 and id = $2 and lease_sha256 = $3 and state = 'leased'`,
    [projectId, id, lease, outcome, nullReason, detail && JSON.stringify(detail)],
  );
}

/** Whether the judge has something to do. */
export async function hasOpenJudgements(
  tx: Transaction,
  { projectId, evaluationId }: EvaluationKey,
): Promise<boolean> {
  const rows = await tx.query(
    `select id from finegrain.judgements
     where project_id = $1 and evaluation_id = $2 and judge_kind = 'llm' and state in ('open', 'leased') limit 1`,
    [projectId, evaluationId],
  );
  return rows.length > 0;
}
