// Statements on evaluations, the runs that they wait for, and their items. Migration 0022 keeps a job at due_at.
import type { Transaction } from './pool.ts';
import { textArray } from './text-array.ts';

export type EvaluationState = 'preparing' | 'judging' | 'succeeded' | 'failed' | 'cancelled';
export type JudgeKind = 'reward' | 'llm' | 'person' | 'external';

export interface EvaluationRow {
  id: string;
  name: string | null;
  state: EvaluationState;
  judge: JudgeKind;
  request: unknown;
  inputs: unknown;
  items: number | null;
  failure: unknown;
  created_at: Date;
  finished_at: Date | null;
}

const columns = 'id, name, state, judge, request, inputs, items, failure, created_at, finished_at';

/** @param evaluation is worked on at once, or when the last of its runs has ended */
export async function insertEvaluation(
  tx: Transaction,
  evaluation: {
    projectId: string;
    id: string;
    name: string | null;
    judge: JudgeKind;
    request: object;
    inputs: object;
    due: boolean;
  },
): Promise<EvaluationRow> {
  const rows = await tx.query<EvaluationRow>(
    `insert into finegrain.evaluations (project_id, id, name, judge, request, inputs, due_at)
     values ($1, $2, $3, $4, $5, $6, case when $7::boolean then clock_timestamp() end) returning ${columns}`,
    [
      evaluation.projectId,
      evaluation.id,
      evaluation.name,
      evaluation.judge,
      JSON.stringify(evaluation.request),
      JSON.stringify(evaluation.inputs),
      evaluation.due,
    ],
  );
  return rows[0]!;
}

export interface AwaitedRun {
  /** 0: the baseline, then the candidates in their order */
  responder: number;
  /** UUID */
  runId: string;
  /** made for this evaluation, and cancelled with it */
  own: boolean;
}

export async function insertEvaluationRun(
  tx: Transaction,
  { projectId, evaluationId }: EvaluationKey,
  { responder, runId, own }: AwaitedRun,
): Promise<void> {
  await tx.query(
    `insert into finegrain.evaluation_runs (project_id, evaluation_id, responder, run_id, own)
     values ($1, $2, $3, $4, $5)`,
    [projectId, evaluationId, responder, runId, own],
  );
}

export interface EvaluationRunRow {
  evaluation_id: string;
  responder: number;
  run_id: string;
  own: boolean;
  state: string;
  /** of the run */
  progress: unknown;
  artifacts: unknown;
}

/** The runs of some evaluations, as they are now. */
export function selectEvaluationRuns(tx: Transaction, evaluationIds: string[]): Promise<EvaluationRunRow[]> {
  return tx.query<EvaluationRunRow>(
    `select e.evaluation_id, e.responder, e.run_id, e.own, r.state, r.progress, r.artifacts
     from finegrain.evaluation_runs e
     join finegrain.runs r on r.project_id = e.project_id and r.id = e.run_id
     where e.evaluation_id = any ($1) order by e.evaluation_id, e.responder`,
    [evaluationIds],
  );
}

export async function selectEvaluation(tx: Transaction, id: string): Promise<EvaluationRow | undefined> {
  return (
    await tx.query<EvaluationRow>(`select ${columns} from finegrain.evaluations where id = $1`, [id])
  )[0];
}

/**
 * Nobody else records a judgement in it, cancels or ends it until the transaction ends. To be called before the judgements
 * themselves are touched, by everybody who records one.
 */
export async function lockEvaluation(tx: Transaction, id: string): Promise<EvaluationRow | undefined> {
  return (
    await tx.query<EvaluationRow>(
      `select ${columns} from finegrain.evaluations where id = $1 for no key update`,
      [id],
    )
  )[0];
}

/** A page, newest first. */
export function selectEvaluations(
  tx: Transaction,
  page: { after: string | null; limit: number; state: EvaluationState | null },
): Promise<EvaluationRow[]> {
  return tx.query<EvaluationRow>(
    `select ${columns} from finegrain.evaluations
     where ($1::uuid is null or id < $1) and ($3::text is null or state = $3)
     order by id desc limit $2`,
    [page.after, page.limit, page.state],
  );
}

/** Of the project. */
export async function countUnfinishedEvaluations(tx: Transaction): Promise<number> {
  const rows = await tx.query<{ count: number }>(
    'select count(*) as count from finegrain.evaluations where finished_at is null',
  );
  return rows[0]!.count;
}

/** Ends it, if it has not ended; what is judged stays, what is open is not judged any more. It must be locked. */
export async function cancelEvaluation(tx: Transaction, id: string): Promise<void> {
  const rows = await tx.query(
    `update finegrain.evaluations set state = 'cancelled', due_at = null, finished_at = clock_timestamp()
     where id = $1 and finished_at is null returning id`,
    [id],
  );
  if (rows.length === 0) return;
  await tx.query(
    `update finegrain.judgements set state = 'cancelled', lease_expires_at = null
     where evaluation_id = $1 and state in ('open', 'leased')`,
    [id],
  );
}

/** Names the project itself, because the worker's role sees all of them. */
export interface EvaluationKey {
  projectId: string;
  evaluationId: string;
}

/** Ends an evaluation that is judged, when nothing of its own judge is open any more. It must be locked. */
export async function settleEvaluation(
  tx: Transaction,
  { projectId, evaluationId }: EvaluationKey,
): Promise<void> {
  await tx.query(
    `update finegrain.evaluations e set state = 'succeeded', due_at = null, finished_at = clock_timestamp()
     where project_id = $1 and id = $2 and state = 'judging' and not exists (
       select from finegrain.judgements j
       where j.project_id = $1 and j.evaluation_id = $2 and j.judge_kind = e.judge and j.state in ('open', 'leased'))`,
    [projectId, evaluationId],
  );
}

export interface EvaluationSlice extends EvaluationKey {
  fence: number;
}

export type EvaluationSliceRow = Pick<EvaluationRow, 'state' | 'judge' | 'request' | 'inputs'> & {
  fence: number;
  troubles: number;
};

/** Begins a slice that is due, for as long as the lease: none begins before that is over. undefined when none is due. */
export async function beginSlice(
  tx: Transaction,
  { projectId, evaluationId }: EvaluationKey,
  leaseSeconds: number,
): Promise<EvaluationSliceRow | undefined> {
  return (
    await tx.query<EvaluationSliceRow>(
      `update finegrain.evaluations set fence = fence + 1, troubles = troubles + 1,
         due_at = clock_timestamp() + make_interval(secs => $3)
       where project_id = $1 and id = $2 and due_at <= clock_timestamp()
       returning state, judge, request, inputs, fence, troubles`,
      [projectId, evaluationId, leaseSeconds],
    )
  )[0];
}

/** Whether the slice may go on: its lease runs from now on again. */
export async function renewSlice(
  tx: Transaction,
  { projectId, evaluationId, fence }: EvaluationSlice,
  leaseSeconds: number,
): Promise<boolean> {
  const rows = await tx.query(
    `update finegrain.evaluations set due_at = clock_timestamp() + make_interval(secs => $4), troubles = 0
     where project_id = $1 and id = $2 and fence = $3 and due_at is not null returning id`,
    [projectId, evaluationId, fence, leaseSeconds],
  );
  return rows.length > 0;
}

/** The next slice begins after the rest; none does with null. */
export async function endSlice(
  tx: Transaction,
  { projectId, evaluationId, fence }: EvaluationSlice,
  { restSeconds, troubles }: { restSeconds: number | null; troubles: number },
): Promise<void> {
  await tx.query(
    `update finegrain.evaluations set troubles = $5, due_at = clock_timestamp() + make_interval(secs => $4)
     where project_id = $1 and id = $2 and fence = $3 and due_at is not null`,
    [projectId, evaluationId, fence, restSeconds, troubles],
  );
}

/** Gives an evaluation up. False: the slice was lost, or the evaluation has ended. */
export async function failEvaluation(
  tx: Transaction,
  { projectId, evaluationId, fence }: EvaluationSlice,
  failure: { reason: string; detail: string },
): Promise<boolean> {
  const rows = await tx.query(
    `update finegrain.evaluations set state = 'failed', failure = $4, due_at = null, finished_at = clock_timestamp()
     where project_id = $1 and id = $2 and fence = $3 and finished_at is null returning id`,
    [projectId, evaluationId, fence, JSON.stringify(failure)],
  );
  if (rows.length === 0) return false;
  await tx.query(
    `update finegrain.judgements set state = 'cancelled', lease_expires_at = null
     where project_id = $1 and evaluation_id = $2 and state in ('open', 'leased')`,
    [projectId, evaluationId],
  );
  return true;
}

export interface NewItem {
  item_id: string;
  prompt: unknown;
  /** of the baseline, then of the candidates; null where there is none */
  responses: (string | null)[];
}

/** @param first number of the first of them */
export async function insertItems(
  tx: Transaction,
  { projectId, evaluationId }: EvaluationKey,
  first: number,
  items: NewItem[],
): Promise<void> {
  const responders = items[0]!.responses.length;
  await tx.query(
    `with texts as (
       select $6::text[] as all_of_them)
     insert into finegrain.evaluation_items (project_id, evaluation_id, number, item_id, prompt, responses)
     select $1, $2, $3 + n - 1, i.item_id, i.prompt::jsonb,
       (select array_agg(t.response order by t.place)
        from unnest((texts.all_of_them)[(n - 1) * $7 + 1 : n * $7]) with ordinality as t (response, place))
     from texts, unnest($4::text[], $5::text[]) with ordinality as i (item_id, prompt, n)`,
    [
      projectId,
      evaluationId,
      first,
      textArray(items.map(({ item_id }) => item_id)),
      textArray(items.map(({ prompt }) => JSON.stringify(prompt))),
      textArray(items.flatMap(({ responses }) => responses)),
      responders,
    ],
  );
}

/** Ends the preparation. False: the slice was lost, or the evaluation has ended. */
export async function startJudging(
  tx: Transaction,
  { projectId, evaluationId, fence }: EvaluationSlice,
  { items, due }: { items: number; due: boolean },
): Promise<boolean> {
  const rows = await tx.query(
    `update finegrain.evaluations set state = 'judging', items = $4, troubles = 0,
       due_at = case when $5::boolean then clock_timestamp() end
     where project_id = $1 and id = $2 and fence = $3 and state = 'preparing' returning id`,
    [projectId, evaluationId, fence, items, due],
  );
  return rows.length > 0;
}

export interface ItemRow {
  number: number;
  item_id: string;
  prompt: unknown;
  responses: (string | null)[];
}

/** A page in the order of the items, after the given number. */
export function selectItems(
  tx: Transaction,
  evaluationId: string,
  page: { after: number; limit: number },
): Promise<ItemRow[]> {
  return tx.query<ItemRow>(
    `select number, item_id, prompt, responses from finegrain.evaluation_items
     where evaluation_id = $1 and number > $2 order by number limit $3`,
    [evaluationId, page.after, page.limit],
  );
}

/** Numbers of items by their ids; what is no item of the evaluation is missing. */
export async function selectItemNumbers(
  tx: Transaction,
  evaluationId: string,
  itemIds: string[],
): Promise<Map<string, number>> {
  const rows = await tx.query<Pick<ItemRow, 'number' | 'item_id'>>(
    'select number, item_id from finegrain.evaluation_items where evaluation_id = $1 and item_id = any ($2)',
    [evaluationId, itemIds],
  );
  return new Map(rows.map(({ number, item_id }) => [item_id, number]));
}
