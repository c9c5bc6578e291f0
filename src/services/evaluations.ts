// Evaluations: candidates against a baseline on the same prompts, under a judge. Asked for here; the items are made, and a
// reward model judges, in evaluation-work.ts; what comes of it is in evaluation-results.ts.
import { v7 as uuidv7 } from 'uuid';
import * as db from '../db/evaluations.ts';
import { countJudgements, type JudgementCounts } from '../db/judgements.ts';
import { type Limits, type LlmWorkRow, selectLlmWork } from '../db/llm-work.ts';
import type { ModelRow } from '../db/models.ts';
import { joinTransaction, type Transaction } from '../db/pool.ts';
import { lockRun, selectRunThatWrote } from '../db/runs.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { hasEnded, type RunState } from '../domain/run-states.ts';
import type { WinRateOptions } from '../domain/win-rate.ts';
import { notFound, Problem, type ProblemDetail, unprocessable } from '../errors.ts';
import type { ModelFile } from '../storage/model-folder.ts';
import { putArtifact } from './artifacts.ts';
import { type Caller, requireScope, type Services } from './context.ts';
import {
  checkForm,
  checkRowFile,
  findGenerateRun,
  type Responder,
  type ResponseSource,
  responderPointer,
} from './evaluation-responses.ts';
import {
  addLlmJudge,
  cancelLlmJudge,
  type LlmJudgeSettings,
  type NewLlmJudge,
  renderLlmJudge,
  resumeLlmJudge,
} from './llm-judges.ts';
import type { Llm, LlmUsage, Stopped } from './llm-work.ts';
import { ArtifactsGone, holdArtifacts } from './named-artifacts.ts';
import { writeNdjson } from './ndjson.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import type { Prompt } from './pair-rows.ts';
import { lineageOf, type PolicyLineage } from './policy-lineage.ts';
import { checkPrecondition, type Precondition } from './preconditions.ts';
import type { DataInput } from './run-inputs.ts';
import type { GenerateSpec } from './run-specs.ts';
import { createRun, type NewRun, type Run, type RunProgress, steerRun } from './runs.ts';
import { findNamedModel, type NamedModel, renderModel } from './scoring.ts';
import { findSnapshot } from './snapshots.ts';
import { promptRows, responseRows } from './training-rows.ts';

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

export interface NewEvaluation {
  name?: string | null;
  candidates: (Omit<Responder, 'name'> & { name?: string })[];
  baseline: Omit<Responder, 'name'> & { name?: string };
  prompts?: PromptSource;
  judge: Judge;
  people?: Partial<People> | null;
  options?: EvaluationOptions;
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

/** Of a project. */
export const maxUnfinishedEvaluations = 1000;

/**
 * The work begins with the commit; what a name stands for is looked up now.
 * @throws Problem not_found, unprocessable, missing_scope, overloaded
 */
export function createEvaluation(
  services: Services,
  caller: Caller,
  asked: NewEvaluation,
): Promise<Evaluation> {
  return services.db.transaction(caller.projectId, async (tx) => {
    if ((await db.countUnfinishedEvaluations(tx)) >= maxUnfinishedEvaluations)
      throw new Problem(
        'overloaded',
        `The project has ${maxUnfinishedEvaluations} evaluations that have not ended. Cancel some, or wait.`,
        { retryAfterSeconds: 60 },
      );
    const within = { ...services, db: joinTransaction(tx, caller.projectId) };
    const responders = nameResponders(asked);
    const prompts = await resolvePrompts(within, tx, caller, asked.prompts);
    const places: Place[] = [];
    for (const [index, responder] of responders.entries())
      places.push(await resolveResponder(within, tx, caller, responder, responderPointer(index), prompts));
    const judge = await resolveJudge(services, tx, asked.judge);
    await holdFiles(services, tx, prompts, places, judge);
    const lineages: (PolicyLineage | null)[] = [];
    for (const { run, source } of places) {
      const writer = run?.runId ?? ('rows' in source ? await selectRunThatWrote(tx, source.rows) : undefined);
      lineages.push(writer === undefined ? null : await lineageOf(tx, writer));
    }
    const [baseline, ...candidates] = responders.map(({ responses: _, ...summary }) => summary);
    const inputs: EvaluationInputs = {
      prompts: prompts.data && { data: prompts.data, split: prompts.asked?.split ?? null },
      sources: places.map(({ source }) => source),
      model: judge.model,
      circular: [
        ...new Set(
          responders
            .filter((_, index) => lineages[index]?.rewardModels.includes(judge.model?.digest ?? ''))
            .map(({ name }) => name),
        ),
      ],
      trained: lineages.slice(1).some((lineage) => lineage?.trained),
    };
    const request: EvaluationRequest = {
      candidates,
      baseline: baseline!,
      prompts: prompts.asked,
      judge: judge.asked,
      people: resolvePeople(asked),
      options: asked.options ?? {},
    };
    const id = uuidv7();
    const key = { projectId: caller.projectId, evaluationId: id };
    const runs = places.flatMap(({ run }, responder) => (run ? [{ ...run, responder }] : []));
    const row = await db.insertEvaluation(tx, {
      ...key,
      id,
      name: asked.name ?? null,
      judge: asked.judge.kind,
      request,
      inputs,
      due: runs.every(({ ended }) => ended),
    });
    for (const run of runs) await db.insertEvaluationRun(tx, key, run);
    if (asked.judge.kind === 'llm') await addLlmJudge(services, tx, caller, id, asked.judge);
    return (await renderAll(tx, [row]))[0]!;
  });
}

/** @throws Problem unprocessable */
function resolvePeople({ judge, people }: NewEvaluation): People | null {
  if (!people) return null;
  if (judge.kind === 'person')
    throw unprocessable('/people', 'is for another judge: here people judge anyway');
  return { items: null, per_item: 1, instructions: null, ...people };
}

/** The baseline, then the candidates. @throws Problem unprocessable for names that say two things */
function nameResponders({ baseline, candidates }: NewEvaluation): Responder[] {
  const named = candidates.map((one, index) => ({
    ...one,
    name: one.name ?? (candidates.length === 1 ? 'candidate' : `candidate ${index + 1}`),
  }));
  const responders = [{ ...baseline, name: baseline.name ?? 'baseline' }, ...named];
  const seen = new Set<string>();
  for (const [index, responder] of responders.entries()) {
    const pointer = responderPointer(index);
    checkForm(responder, pointer);
    const identity = JSON.stringify([responder.name, responder.training_seed?.toString() ?? null]);
    if (seen.has(identity) || (index > 0 && responder.name === responders[0]!.name))
      throw unprocessable(
        `${pointer}/name`,
        `is taken: ${JSON.stringify(responder.name)}. Give each its own, or one name with a training_seed each to policies that differ in nothing else`,
      );
    seen.add(identity);
  }
  return responders;
}

interface ResolvedPrompts {
  asked: EvaluationRequest['prompts'];
  data: DataInput | null;
  /** as a `generate` run takes them */
  spec: GenerateSpec['prompts'] | null;
}

const ndjson = 'application/x-ndjson';

async function resolvePrompts(
  services: Services,
  tx: Transaction,
  caller: Caller,
  prompts: PromptSource | undefined,
): Promise<ResolvedPrompts> {
  if (prompts === undefined) return { asked: null, data: null, spec: null };
  const { snapshot_id, split, prompts: file, items } = prompts;
  const given = [snapshot_id, file, items].filter((form) => form !== undefined).length;
  if (given !== 1) throw unprocessable('/prompts', 'needs exactly one of snapshot_id, prompts, items');
  if (split !== undefined && snapshot_id === undefined)
    throw unprocessable('/prompts/split', 'is for a snapshot');
  if (snapshot_id !== undefined) {
    const { digest } = await findSnapshot(tx, snapshot_id, '/prompts/snapshot_id');
    const spec = { snapshot_id, split: split ?? ('test' as const) };
    return { asked: spec, data: { snapshot: digest }, spec };
  }
  if (file !== undefined) {
    await checkRowFile(tx, services.artifacts, file, promptRows, '/prompts/prompts');
    return { asked: { prompts: file }, data: { rows: file }, spec: { prompts: file } };
  }
  const { digest } = await putArtifact(services, caller, ndjson, rowsOf(items!));
  return { asked: { prompts: digest }, data: { rows: digest }, spec: { prompts: digest } };
}

interface Place {
  source: ResponseSource;
  run: (db.AwaitedRun & { ended: boolean }) | null;
}

/** Makes the run that writes the responses of a model. */
async function resolveResponder(
  services: Services,
  tx: Transaction,
  caller: Caller,
  responder: Responder,
  pointer: string,
  { spec }: ResolvedPrompts,
): Promise<Place> {
  const { model, seed, hyperparameters, generate_run_id, artifact, responses } = responder;
  if (artifact !== undefined) {
    await checkRowFile(tx, services.artifacts, artifact, responseRows, `${pointer}/artifact`);
    return { source: { rows: artifact }, run: null };
  }
  if (responses !== undefined) {
    const { digest } = await putArtifact(services, caller, ndjson, rowsOf(responses));
    return { source: { rows: digest }, run: null };
  }
  if (generate_run_id !== undefined) {
    const run = await findGenerateRun(tx, generate_run_id, `${pointer}/generate_run_id`);
    return { source: { run: true }, run: { ...run, responder: 0, own: false } };
  }
  if (spec === null) throw unprocessable('/prompts', 'is needed: a model writes responses to prompts');
  requireScope(caller, 'runs:write');
  const run = { kind: 'generate' as const, spec: { model: model!, prompts: spec, seed, hyperparameters } };
  const made = await createRun(services, caller, run as NewRun).catch((error) => {
    throw error instanceof Problem ? moved(error, { '/spec/prompts': '/prompts', '/spec': pointer }) : error;
  });
  const runId = parseId('run', (made as Run).id)!;
  return { source: { run: true }, run: { runId, responder: 0, own: true, ended: false } };
}

/** The same problem, where it lies in this request. */
function moved(problem: Problem, places: Record<string, string>): Problem {
  const move = (text: string): string => {
    const from = Object.keys(places).find((prefix) => text.startsWith(prefix));
    return from === undefined ? text : places[from] + text.slice(from.length);
  };
  return new Problem(problem.code, move(problem.message), {
    ...(problem.errors && {
      errors: problem.errors.map((one): ProblemDetail => ({ ...one, pointer: move(one.pointer) })),
    }),
  });
}

async function* each<T>(rows: T[]): AsyncGenerator<T> {
  yield* rows;
}

async function* rowsOf(rows: object[]): AsyncGenerator<Uint8Array> {
  for await (const line of writeNdjson(each(rows))) yield Buffer.from(line);
}

interface ResolvedJudge {
  asked: AskedJudge;
  model: EvaluationInputs['model'];
}

async function resolveJudge(services: Services, tx: Transaction, judge: Judge): Promise<ResolvedJudge> {
  if (judge.kind === 'llm') return { asked: { kind: 'llm' }, model: null };
  if (judge.kind !== 'reward') {
    const asked =
      judge.kind === 'person' ? { instructions: null, per_item: 1, ...judge } : { per_item: 1, ...judge };
    return { asked, model: null };
  }
  const model = await findNamedModel(services, tx, judge.model).catch((error) => {
    throw error instanceof Problem ? moved(error, { '/model': '/judge/model' }) : error;
  });
  if (model.role === 'policy')
    throw unprocessable(
      '/judge/model',
      'is a policy; a reward model judges, of tokens or of whole responses',
    );
  return {
    asked: { kind: 'reward', tie_margin: judge.tie_margin ?? 0, ...(judge.model && { model: judge.model }) },
    model: { ...renderModel(services, model, judge.model), role: model.role, files: model.files },
  };
}

/** @throws Problem unprocessable for what is gone */
async function holdFiles(
  services: Services,
  tx: Transaction,
  prompts: ResolvedPrompts,
  places: Place[],
  { model }: ResolvedJudge,
): Promise<void> {
  const digests = [
    ...(prompts.data ? Object.values(prompts.data) : []),
    ...places.flatMap(({ source }) => ('rows' in source ? [source.rows] : [])),
    ...(model?.files ?? []).map(({ digest }) => digest),
  ];
  await holdArtifacts(tx, services.artifacts, digests).catch((error) => {
    if (!(error instanceof ArtifactsGone)) throw error;
    throw new Problem('unprocessable', `${error.message} The evaluation needs it. Was it just deleted?`);
  });
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
  services: Services,
  caller: Caller,
  id: string,
  condition: Precondition,
): Promise<Evaluation> {
  return services.db.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findEvaluation(tx, id);
    // whoever ends a run has locked it before its evaluations: in the same order nobody waits for each other
    const own = (await db.selectEvaluationRuns(tx, [uuid])).filter((run) => run.own).map((run) => run.run_id);
    for (const run of own.sort()) await lockRun(tx, run);
    const row = await findEvaluation(tx, id, db.lockEvaluation);
    checkPrecondition(condition, (await renderAll(tx, [row]))[0]!);
    await db.cancelEvaluation(tx, row.id);
    await cancelLlmJudge(tx, row.id);
    const within = { ...services, db: joinTransaction(tx, caller.projectId) };
    for (const { own, run_id, state } of await db.selectEvaluationRuns(tx, [row.id])) {
      if (own && !hasEnded(state as RunState))
        await steerRun(within, caller, formatId('run', run_id), 'cancel', {});
    }
    return readEvaluation(tx, row.id);
  });
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
