// A new evaluation: what its names stand for is looked up now, what can be refused is refused, and policies get the runs that
// write their responses; all in one transaction.
import { v7 as uuidv7 } from 'uuid';
import * as db from '../db/evaluations.ts';
import { joinTransaction, type Transaction } from '../db/pool.ts';
import { selectRunThatWrote } from '../db/runs.ts';
import { parseId } from '../domain/ids.ts';
import { Problem, type ProblemDetail, unprocessable } from '../errors.ts';
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
  type AskedJudge,
  type Evaluation,
  type EvaluationInputs,
  type EvaluationOptions,
  type EvaluationRequest,
  type Judge,
  type People,
  type PromptSource,
  readEvaluation,
} from './evaluations.ts';
import { addLlmJudge } from './llm-judges.ts';
import { ArtifactsGone, holdArtifacts } from './named-artifacts.ts';
import { writeNdjson } from './ndjson.ts';
import { lineageOf, type PolicyLineage } from './policy-lineage.ts';
import type { DataInput } from './run-inputs.ts';
import type { GenerateSpec } from './run-specs.ts';
import { createRun, type NewRun, type Run } from './runs.ts';
import { findNamedModel, renderModel } from './scoring.ts';
import { findSnapshot } from './snapshots.ts';
import { promptRows, responseRows } from './training-rows.ts';

export interface NewEvaluation {
  name?: string | null;
  candidates: (Omit<Responder, 'name'> & { name?: string })[];
  baseline: Omit<Responder, 'name'> & { name?: string };
  prompts?: PromptSource;
  judge: Judge;
  people?: Partial<People> | null;
  options?: EvaluationOptions;
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
    return readEvaluation(tx, row.id);
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
