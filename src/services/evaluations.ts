import * as db from '../db/evaluations.ts';
import { countJudgements, type JudgementCounts } from '../db/judgements.ts';
import { type Limits, type LlmWorkRow, selectLlmWork } from '../db/llm-work.ts';
import type { ModelRow } from '../db/models.ts';
import { joinTransaction, type Transaction } from '../db/pool.ts';
import { lockRun } from '../db/runs.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { hasEnded, type RunState } from '../domain/run-states.ts';
import type { WinRateOptions } from '../domain/win-rate.ts';
import { notFound, Problem } from '../errors.ts';
import type { ModelFile } from '../storage/model-folder.ts';
import type { Caller, Services } from './context.ts';
import type { Responder, ResponseSource } from './evaluation-responses.ts';
import {
  cancelLlmJudge,
  type LlmJudgeSettings,
  type NewLlmJudge,
  renderLlmJudge,
  resumeLlmJudge,
} from './llm-judges.ts';
import type { Llm, LlmUsage, Stopped } from './llm-work.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import type { Prompt } from './pair-rows.ts';
import { checkPrecondition, type Precondition } from './preconditions.ts';
import type { DataInput } from './run-inputs.ts';
import { type RunProgress, steerRun } from './runs.ts';
import type { NamedModel } from './scoring.ts';

/** What moves an evaluation from one to the next. */
export const evaluationStates = {
  preparing: 'its runs write responses, then the worker makes the items',
  judging: 'judgements come in; the estimate is a running one',
  succeeded: 'every judgement that was wanted is there',
  failed: 'given up, `failure` says why; what was judged before stays',
  cancelled: 'somebody cancelled it; what was judged before stays',
} as const satisfies Record<db.EvaluationState, string>;

export const failureReasons = {
  run_failed: 'a run that was to write responses failed or was cancelled',
  bad_responses: 'the response sets cannot be put together, `detail` says where',
  judge_refused: 'the reward model cannot be served',
  no_progress: 'eight slices in a row ended without any progress: scorers, store or worker are in trouble',
} as const;

export type EvaluationFailure = { reason: keyof typeof failureReasons; detail: string };

export const judgeKinds = {
  reward: 'a reward model: of tokens, and the response with the higher total wins, or of whole responses',
  llm: 'a language model behind a chat endpoint of yours says which response is better; docs/llm-judge.md',
  person: 'people claim pairs of responses and say which is better, without knowing whose they are',
  external: 'programs of yours read the items and post judgements',
} as const;

export type Judge =
  | { kind: 'reward'; model?: string; tie_margin?: number }
  | ({ kind: 'llm' } & NewLlmJudge)
  | { kind: 'person'; per_item?: number; instructions?: string | null }
  | { kind: 'external'; per_item?: number };

/** People who judge beside the judge, to say how far it agrees with them. */
export interface People {
  /** so many items, drawn; null: all */
  items: number | null;
  per_item: number;
  instructions: string | null;
}

/** Exactly one form. */
export interface PromptSource {
  snapshot_id?: string;
  split?: 'train' | 'validation' | 'test';
  prompts?: string;
  items?: { id: string; prompt: Prompt }[];
}

/** What an evaluation does not choose itself. */
export type EvaluationOptions = Omit<WinRateOptions, 'trained_policies' | 'agreement'>;

/** An `llm` has its settings beside it (services/llm-judges.ts). */
export type AskedJudge = Exclude<Judge, { kind: 'llm' }> | { kind: 'llm' };

/** As it was asked for, with the defaults of then; posted texts are left out, as they are in files. */
export interface EvaluationRequest {
  candidates: ResponderSummary[];
  baseline: ResponderSummary;
  prompts: Omit<PromptSource, 'items'> | null;
  judge: AskedJudge;
  people: People | null;
  options: EvaluationOptions;
}

export type ResponderSummary = Omit<Responder, 'responses'>;

/** What its names stood for when it was made. */
export interface EvaluationInputs {
  prompts: { data: DataInput; split: string | null } | null;
  /** of the baseline, then of the candidates */
  sources: ResponseSource[];
  /** of a reward judge */
  model: (NamedModel & { role: ModelRow['role']; files: ModelFile[] }) | null;
  /** names of candidates, or the baseline's, that the judge trained */
  circular: string[];
  /** some candidate comes from training, which another seed would have ended elsewhere */
  trained: boolean;
}

export interface Evaluation {
  id: string;
  name: string | null;
  state: db.EvaluationState;
  candidates: ResponderSummary[];
  baseline: ResponderSummary;
  prompts: EvaluationRequest['prompts'];
  judge: (Exclude<AskedJudge, { kind: 'llm' }> | ({ kind: 'llm' } & Llm<LlmJudgeSettings>)) & {
    circular: string[];
    scored_by: NamedModel | null;
  };
  people: People | null;
  options: EvaluationOptions;
  runs: { responder: string; run_id: string; own: boolean; state: string; progress: RunProgress | null }[];
  progress: {
    items: number | null;
    judged: number;
    nulls: number;
    leased: number;
    total: number | null;
    fraction: number;
    /** of further judges, such as people */
    beside: { judged: number; total: number };
  };
  failure: EvaluationFailure | null;
  /** of an `llm`; null for others */
  usage: LlmUsage | null;
  stopped: Stopped | null;
  created_at: string;
  finished_at: string | null;
}

const noJudgements = { open: 0, leased: 0, judged: 0, nulls: 0, cancelled: 0 };
type Counts = typeof noJudgements;

function progressOf({ items }: db.EvaluationRow, counts: JudgementCounts[]): Evaluation['progress'] {
  const totalOf = ({ open, leased, judged, cancelled }: Counts) => open + leased + judged + cancelled;
  const own: Counts = counts.find((one) => one.own) ?? noJudgements;
  const beside: Counts = counts.find((one) => !one.own) ?? noJudgements;
  const total = totalOf(own);
  return {
    items,
    judged: own.judged,
    nulls: own.nulls,
    leased: own.leased,
    total: items === null ? null : total,
    fraction: total === 0 ? (items === 0 ? 1 : 0) : own.judged / total,
    beside: { judged: beside.judged, total: totalOf(beside) },
  };
}

function render(
  row: db.EvaluationRow,
  runs: db.EvaluationRunRow[],
  llmWork: LlmWorkRow | undefined,
  counts: JudgementCounts[],
): Evaluation {
  const request = row.request as EvaluationRequest;
  const inputs = row.inputs as EvaluationInputs;
  const { files: _, role: __, ...model } = inputs.model ?? { files: [], role: null };
  const { llm, usage, stopped } = renderLlmJudge(llmWork);
  return {
    id: formatId('evaluation', row.id),
    name: row.name,
    state: row.state,
    candidates: request.candidates,
    baseline: request.baseline,
    prompts: request.prompts,
    judge: {
      ...(request.judge.kind === 'llm' ? { kind: 'llm' as const, ...llm! } : request.judge),
      circular: inputs.circular,
      scored_by: inputs.model && (model as NamedModel),
    },
    people: request.people,
    options: request.options,
    runs: runs
      .filter(({ evaluation_id }) => evaluation_id === row.id)
      .map(({ responder, run_id, own, state, progress }) => ({
        responder: [request.baseline, ...request.candidates][responder]!.name,
        run_id: formatId('run', run_id),
        own,
        state,
        progress: progress as RunProgress | null,
      })),
    progress: progressOf(row, counts),
    failure: row.failure as EvaluationFailure | null,
    usage,
    stopped,
    created_at: row.created_at.toISOString(),
    finished_at: row.finished_at?.toISOString() ?? null,
  };
}

async function renderAll(tx: Transaction, rows: db.EvaluationRow[]): Promise<Evaluation[]> {
  const ids = rows.map(({ id }) => id);
  const runs = await db.selectEvaluationRuns(tx, ids);
  const counts = await countJudgements(tx, ids);
  const llmWork = new Map((await selectLlmWork(tx, ids)).map((one) => [one.id, one]));
  return rows.map((row) =>
    render(
      row,
      runs,
      llmWork.get(row.id),
      counts.filter(({ evaluation_id }) => evaluation_id === row.id),
    ),
  );
}

/** Newest first. */
export function listEvaluations(
  { db: database, cursors }: Services,
  caller: Caller,
  request: PageRequest & { state?: db.EvaluationState },
): Promise<Page<Evaluation>> {
  return database.transaction(caller.projectId, async (tx) => {
    const page = await readPage(
      { cursors, tx, projectId: caller.projectId, list: 'evaluations' },
      request,
      (page) => db.selectEvaluations(tx, { ...page, state: request.state ?? null }),
      (row) => row,
    );
    return { ...page, items: await renderAll(tx, page.items) };
  });
}

/** @throws Problem not_found */
export async function findEvaluation(
  tx: Transaction,
  id: string,
  select: typeof db.selectEvaluation = db.selectEvaluation,
): Promise<db.EvaluationRow> {
  const uuid = parseId('evaluation', id);
  const row = uuid ? await select(tx, uuid) : undefined;
  if (!row) throw notFound('evaluation', id);
  return row;
}

export const readEvaluation = async (tx: Transaction, uuid: string): Promise<Evaluation> =>
  (await renderAll(tx, [(await db.selectEvaluation(tx, uuid))!]))[0]!;

/** @throws Problem not_found */
export function getEvaluation({ db: database }: Services, caller: Caller, id: string): Promise<Evaluation> {
  return database.transaction(
    caller.projectId,
    async (tx) => (await renderAll(tx, [await findEvaluation(tx, id)]))[0]!,
  );
}

/**
 * Ends an evaluation for good, with its own runs; what is judged stays. Repeated, or on one that has ended, it changes nothing.
 * @throws Problem not_found, precondition_failed
 */
export function cancelEvaluation(
  { db: database }: Services,
  caller: Caller,
  id: string,
  condition: Precondition,
): Promise<Evaluation> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findEvaluation(tx, id);
    await lockOwnRuns(tx, uuid);
    const row = await findEvaluation(tx, id, db.lockEvaluation);
    checkPrecondition(condition, (await renderAll(tx, [row]))[0]!);
    await db.cancelEvaluation(tx, row.id);
    await cancelLlmJudge(tx, row.id);
    await cancelOwnRuns(tx, caller.projectId, row.id);
    return readEvaluation(tx, row.id);
  });
}

/** Before the evaluation itself is locked: whoever ends a run has locked it first, too, so that nobody waits for each other. */
export async function lockOwnRuns(tx: Transaction, uuid: string): Promise<void> {
  const own = (await db.selectEvaluationRuns(tx, [uuid])).filter((run) => run.own).map((run) => run.run_id);
  for (const run of own.sort()) await lockRun(tx, run);
}

/** Nobody waits for their responses any more. */
export async function cancelOwnRuns(tx: Transaction, projectId: string, uuid: string): Promise<void> {
  const within = { db: joinTransaction(tx, projectId) };
  for (const { own, run_id, state } of await db.selectEvaluationRuns(tx, [uuid])) {
    if (own && !hasEnded(state as RunState))
      await steerRun(within, { projectId }, formatId('run', run_id), 'cancel', {});
  }
}

export interface EvaluationResumption {
  limits?: Limits | null;
}

/**
 * Lets an `llm` go on, under new limits where they are given. Where it has not stopped nothing changes but the limits.
 * @throws Problem not_found, conflict, precondition_failed, unprocessable, missing_scope
 */
export function resumeEvaluation(
  { db: database }: Services,
  caller: Caller,
  id: string,
  { limits = null }: EvaluationResumption,
  condition: Precondition,
): Promise<Evaluation> {
  return database.transaction(caller.projectId, async (tx) => {
    const row = await findEvaluation(tx, id, db.lockEvaluation);
    checkPrecondition(condition, (await renderAll(tx, [row]))[0]!);
    if (row.finished_at !== null)
      throw new Problem('conflict', `The evaluation has ended: it is ${row.state}.`);
    await resumeLlmJudge(tx, caller, row.id, limits);
    return (await renderAll(tx, [row]))[0]!;
  });
}
