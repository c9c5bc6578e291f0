// Statements on the judgements of evaluations. Whoever records one has locked its evaluation before (db/evaluations.ts).
import type { EvaluationKey, JudgeKind } from './evaluations.ts';
import type { Transaction } from './pool.ts';

export type JudgementState = 'open' | 'leased' | 'judged' | 'cancelled';

/** What is to be judged of each pair of responses. */
export interface Wanted {
  judgeKind: JudgeKind;
  /** null: whoever takes it */
  judgeName: string | null;
  /** null: the judge sees no order; `drawn`: half of them, by a hash of their ids */
  candidateFirst: boolean | null | 'drawn';
}

/**
 * Makes a judgement for each candidate's response to each item and each that is wanted, all items once before they come a
 * second time. Where the candidate or the baseline has no response it is judged already, with that reason.
 * @param first a UUIDv7; theirs are numbered from it
 * @param sample of so many items, drawn by a hash and in the order of it, so that whoever stops early has drawn fewer, and of
 *   those that have both responses; null: of all
 */
export async function insertWanted(
  tx: Transaction,
  { projectId, evaluationId }: EvaluationKey,
  {
    first,
    candidates,
    wanted,
    sample = null,
  }: { first: string; candidates: number; wanted: Wanted[]; sample?: number | null },
): Promise<void> {
  await tx.query(
    `with sampled as (
       select number from finegrain.evaluation_items where project_id = $1 and evaluation_id = $2
       order by hashtextextended(item_id, 0) limit $8::int),
     made as (
       select finegrain.numbered_uuid($3::uuid, row_number() over (order by w.slot,
           case when $8::int is not null then hashtextextended(i.item_id, 0) end, i.number, c.candidate)) as id,
         i.number, c.candidate, w.kind, w.name, w.first,
         i.responses[1] is null or i.responses[c.candidate + 1] is null as lacks
       from finegrain.evaluation_items i
       cross join generate_series(1, $4::int) as c (candidate)
       cross join unnest($5::text[], $6::text[], $7::text[]) with ordinality as w (kind, name, first, slot)
       where i.project_id = $1 and i.evaluation_id = $2 and ($8::int is null or i.number in (select number from sampled)))
     insert into finegrain.judgements (project_id, id, evaluation_id, number, candidate, state, judge_kind, judge_name,
       candidate_first, null_reason, judged_at)
     select $1, id, $2, number, candidate, case when lacks then 'judged' else 'open' end, kind,
       case when lacks then coalesce(name, 'nobody ' || row_number() over (partition by number, candidate order by id)) else name end,
       case first when 'drawn' then hashtextextended(id::text, 0) % 2 = 0 else first::boolean end,
       case when lacks then 'no_response' end, case when lacks then clock_timestamp() end
     from made where not (lacks and $8::int is not null)`,
    [
      projectId,
      evaluationId,
      first,
      candidates,
      wanted.map(({ judgeKind }) => judgeKind),
      wanted.map(({ judgeName }) => judgeName),
      wanted.map(({ candidateFirst }) => candidateFirst?.toString() ?? null),
      sample,
    ],
  );
}

/** Of the evaluation's own judge, and of others beside it. */
export interface JudgementCounts {
  evaluation_id: string;
  own: boolean;
  open: number;
  leased: number;
  judged: number;
  /** among those that are judged */
  nulls: number;
  cancelled: number;
}

/** Of some evaluations; one without judgements is missing. */
export function countJudgements(tx: Transaction, evaluationIds: string[]): Promise<JudgementCounts[]> {
  return tx.query<JudgementCounts>(
    `select evaluation_id, judge_kind = e.judge as own, count(*) filter (where j.state = 'open') as open,
       count(*) filter (where j.state = 'leased') as leased, count(*) filter (where j.state = 'judged') as judged,
       count(*) filter (where null_reason is not null) as nulls, count(*) filter (where j.state = 'cancelled') as cancelled
     from finegrain.judgements j join finegrain.evaluations e on e.project_id = j.project_id and e.id = j.evaluation_id
     where evaluation_id = any ($1) group by evaluation_id, own`,
    [evaluationIds],
  );
}

export interface OpenJudgement {
  id: string;
  candidate: number;
  prompt: unknown;
  response: string;
  baseline: string;
}

/** The next ones of the evaluation's own reward model. */
export function selectOpen(
  tx: Transaction,
  { projectId, evaluationId }: EvaluationKey,
  limit: number,
): Promise<OpenJudgement[]> {
  return tx.query<OpenJudgement>(
    `select j.id, j.candidate, i.prompt, i.responses[j.candidate + 1] as response, i.responses[1] as baseline
     from finegrain.judgements j
     join finegrain.evaluation_items i on i.project_id = j.project_id and i.evaluation_id = j.evaluation_id and i.number = j.number
     where j.project_id = $1 and j.evaluation_id = $2 and j.state = 'open' and j.judge_kind = 'reward'
     order by j.id limit $3`,
    [projectId, evaluationId, limit],
  );
}

export interface Verdict {
  /** the candidate's share, 0..1; null: there is none, for this reason */
  outcome: number | null;
  nullReason: string | null;
  detail: object | null;
}

/** Records verdicts of open judgements; one that is not open any more is left as it is. */
export async function judgeOpen(
  tx: Transaction,
  { projectId, evaluationId }: EvaluationKey,
  verdicts: (Verdict & { id: string })[],
): Promise<void> {
  await tx.query(
    `update finegrain.judgements j set state = 'judged', outcome = v.outcome, null_reason = v.null_reason,
       detail = v.detail, judged_at = clock_timestamp()
     from unnest($3::uuid[], $4::double precision[], $5::text[], $6::jsonb[]) as v (id, outcome, null_reason, detail)
     where j.project_id = $1 and j.evaluation_id = $2 and j.id = v.id and j.state = 'open'`,
    [
      projectId,
      evaluationId,
      verdicts.map(({ id }) => id),
      verdicts.map(({ outcome }) => outcome),
      verdicts.map(({ nullReason }) => nullReason),
      verdicts.map(({ detail }) => detail && JSON.stringify(detail)),
    ],
  );
}

export interface JudgementRow {
  id: string;
  number: number;
  item_id: string;
  candidate: number;
  state: JudgementState;
  judge_kind: JudgeKind;
  judge_name: string | null;
  candidate_first: boolean | null;
  outcome: number | null;
  null_reason: string | null;
  detail: unknown;
  judged_at: Date | null;
}

const columns = `j.id, j.number, i.item_id, j.candidate, j.state, j.judge_kind, j.judge_name, j.candidate_first,
  j.outcome, j.null_reason, j.detail, j.judged_at`;
const withItems = `finegrain.judgements j join finegrain.evaluation_items i
  on i.project_id = j.project_id and i.evaluation_id = j.evaluation_id and i.number = j.number`;

/** A page, in the order of the work. */
export function selectJudgements(
  tx: Transaction,
  evaluationId: string,
  page: { after: string | null; limit: number; state: JudgementState | null },
): Promise<JudgementRow[]> {
  return tx.query<JudgementRow>(
    `select ${columns} from ${withItems}
     where j.evaluation_id = $1 and ($2::uuid is null or j.id > $2) and ($4::text is null or j.state = $4)
     order by j.id limit $3`,
    [evaluationId, page.after, page.limit, page.state],
  );
}

/** What the figures of an evaluation are computed from: its judgements with the lengths of both responses, in characters. */
export interface JudgedRow {
  number: number;
  item_id: string;
  candidate: number;
  judge_kind: JudgeKind;
  judge_name: string;
  candidate_first: boolean | null;
  outcome: number | null;
  null_reason: string | null;
  length_candidate: number | null;
  length_baseline: number | null;
}

/** Of all items, or of those with a number in after + 1..until. */
export function selectJudged(
  tx: Transaction,
  evaluationId: string,
  { after, until }: { after: number; until: number | null } = { after: 0, until: null },
): Promise<JudgedRow[]> {
  return tx.query<JudgedRow>(
    `select j.number, i.item_id, j.candidate, j.judge_kind, j.judge_name, j.candidate_first, j.outcome, j.null_reason,
       length(i.responses[j.candidate + 1]) as length_candidate, length(i.responses[1]) as length_baseline
     from ${withItems}
     where j.evaluation_id = $1 and j.state = 'judged' and j.number > $2 and ($3::int is null or j.number <= $3)
     order by j.number, j.candidate, j.id`,
    [evaluationId, after, until],
  );
}

export interface PostedJudgement extends Verdict {
  id: string;
  /** of the item */
  number: number;
  candidate: number;
  judgeKind: JudgeKind;
  judgeName: string;
  candidateFirst: boolean | null;
}

/** The same judgement as it is stored, if it is. */
export async function selectSame(
  tx: Transaction,
  evaluationId: string,
  { number, candidate, judgeKind, judgeName, candidateFirst }: PostedJudgement,
): Promise<Pick<JudgementRow, 'state' | 'outcome' | 'null_reason'> | undefined> {
  const rows = await tx.query<Pick<JudgementRow, 'state' | 'outcome' | 'null_reason'>>(
    `select state, outcome, null_reason from finegrain.judgements
     where evaluation_id = $1 and number = $2 and candidate = $3 and judge_kind = $4 and judge_name = $5
       and candidate_first is not distinct from $6`,
    [evaluationId, number, candidate, judgeKind, judgeName, candidateFirst],
  );
  return rows[0];
}

/** In an open place for it, if there is one that nobody is claiming at this moment. False: there is none. */
export async function fillOpen(
  tx: Transaction,
  evaluationId: string,
  posted: PostedJudgement,
): Promise<boolean> {
  const rows = await tx.query(
    `update finegrain.judgements set state = 'judged', judge_name = $5, candidate_first = $6, outcome = $7,
       null_reason = $8, detail = $9, judged_at = clock_timestamp()
     where (project_id, id) = (
       select project_id, id from finegrain.judgements
       where evaluation_id = $1 and number = $2 and candidate = $3 and judge_kind = $4 and judge_name is null and state = 'open'
       order by id limit 1 for no key update skip locked)
     returning id`,
    [evaluationId, posted.number, posted.candidate, posted.judgeKind, posted.judgeName, ...verdictOf(posted)],
  );
  return rows.length > 0;
}

/** Beside those that are wanted. */
export async function insertJudgement(
  tx: Transaction,
  { projectId, evaluationId }: EvaluationKey,
  posted: PostedJudgement,
): Promise<void> {
  await tx.query(
    `insert into finegrain.judgements (project_id, id, evaluation_id, number, candidate, state, judge_kind, judge_name,
       candidate_first, outcome, null_reason, detail, judged_at)
     values ($1, $2, $3, $4, $5, 'judged', $6, $7, $8, $9, $10, $11, clock_timestamp())`,
    [
      projectId,
      posted.id,
      evaluationId,
      posted.number,
      posted.candidate,
      posted.judgeKind,
      posted.judgeName,
      ...verdictOf(posted),
    ],
  );
}

/** Many at once, of an evaluation that has none yet. */
export async function insertPosted(
  tx: Transaction,
  { projectId, evaluationId }: EvaluationKey,
  posted: PostedJudgement[],
): Promise<void> {
  await tx.query(
    `insert into finegrain.judgements (project_id, id, evaluation_id, number, candidate, state, judge_kind, judge_name,
       candidate_first, outcome, null_reason, judged_at)
     select $1, p.id, $2, p.number, p.candidate, 'judged', p.kind, p.name, p.first, p.outcome, p.reason, clock_timestamp()
     from unnest($3::uuid[], $4::int[], $5::int[], $6::text[], $7::text[], $8::boolean[], $9::double precision[], $10::text[])
       as p (id, number, candidate, kind, name, first, outcome, reason)`,
    [
      projectId,
      evaluationId,
      posted.map(({ id }) => id),
      posted.map(({ number }) => number),
      posted.map(({ candidate }) => candidate),
      posted.map(({ judgeKind }) => judgeKind),
      posted.map(({ judgeName }) => judgeName),
      posted.map(({ candidateFirst }) => candidateFirst),
      posted.map(({ outcome }) => outcome),
      posted.map(({ nullReason }) => nullReason),
    ],
  );
}

const verdictOf = ({ candidateFirst, outcome, nullReason, detail }: PostedJudgement) => [
  candidateFirst,
  outcome,
  nullReason,
  detail && JSON.stringify(detail),
];
