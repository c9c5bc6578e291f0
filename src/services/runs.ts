// Runs: pieces of work that a runner takes from the queue. What can be refused is refused when a run is created.
import { v7 as uuidv7 } from 'uuid';
import type { Transaction } from '../db/pool.ts';
import { type RunnerRow, selectLiveRunners } from '../db/runners.ts';
import * as db from '../db/runs.ts';
import { formatId, parseId } from '../domain/ids.ts';
import {
  hasEnded,
  type RunRequest,
  type RunStanding,
  type RunState,
  standingAfter,
} from '../domain/run-states.ts';
import { notFound, Problem } from '../errors.ts';
import type { ArtifactStore } from '../storage/artifact-store.ts';
import type { Caller, Services } from './context.ts';
import { ArtifactsGone, holdArtifacts } from './named-artifacts.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { checkPrecondition, type Precondition } from './preconditions.ts';
import { awaitedRuns, type DataInput, type PlannedInputs, resolveInputs } from './run-inputs.ts';
import { type KindSpec, type RunKind, resolveSpec } from './run-specs.ts';
import { BadRow, demonstrationRows, promptRows } from './training-rows.ts';

export interface RunProgress {
  step: number;
  total_steps: number;
  fraction: number;
  /** null until the rate is known */
  eta_seconds: number | null;
  stage: string;
}

export interface RunFailure {
  reason: string;
  detail: string;
  /** of the trainer; null when a signal or the runner ended it */
  exit_code: number | null;
  /** the trainer's last words on its standard error */
  log_tail: string[];
}

export interface RunAlarm {
  code: string;
  detail: string;
  step: number | null;
  value: number | null;
  threshold: number | null;
  action: 'warn' | 'pause' | 'stop';
}

export interface RunArtifact {
  name: string;
  digest: string;
  bytes: number;
  media_type: string;
}

export interface RunAttempt {
  attempt: number;
  runner: string;
  started_at: string;
  heartbeat_at: string;
  lease_expires_at: string;
  ended_at: string | null;
  outcome: string | null;
}

/** Why a queued run is not taken yet. */
export interface RunWaiting {
  reason: 'dependencies' | 'no_runner' | 'turn';
  detail: string;
}

/** What a run may ask of its runner. */
export const hardwareClasses = ['cpu', 'cuda'] as const;

export interface Run {
  id: string;
  kind: RunKind;
  spec: object;
  state: RunState;
  desired_state: RunStanding['desired_state'];
  hardware: string;
  labels: string[];
  priority: number;
  time_limit_seconds: number | null;
  max_attempts: number;
  after: string[];
  waiting: RunWaiting | null;
  progress: RunProgress | null;
  attempts: RunAttempt[];
  result: object | null;
  failure: RunFailure | null;
  alarms: RunAlarm[];
  artifacts: RunArtifact[];
  model_id: string | null;
  /** the checkpoint that it makes a model of, without training further */
  promoted_from: { run_id: string; step: number } | null;
  last_event: number;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
}

function renderAttempt(row: db.AttemptRow): RunAttempt {
  return {
    attempt: row.fence,
    runner: row.runner,
    started_at: row.started_at.toISOString(),
    heartbeat_at: row.heartbeat_at.toISOString(),
    lease_expires_at: row.lease_expires_at.toISOString(),
    ended_at: row.ended_at?.toISOString() ?? null,
    outcome: row.outcome,
  };
}

function waiting(row: db.RunRow, runners: RunnerRow[]): RunWaiting | null {
  if (row.state !== 'queued') return null;
  if (row.waits_for > 0)
    return {
      reason: 'dependencies',
      detail: `It waits for ${row.waits_for} of the ${row.after.length} run(s) of \`after\` to succeed.`,
    };
  const fits = (runner: RunnerRow): boolean =>
    runner.hardware.includes(row.hardware) && row.labels.every((label) => runner.labels.includes(label));
  if (runners.some(fits))
    return { reason: 'turn', detail: 'A runner that can take it is live, and takes it when its turn comes.' };
  const wanted = `${row.hardware}${row.labels.length > 0 ? ` and the labels ${row.labels.join(', ')}` : ''}`;
  const offers = [
    ...new Set(runners.map(({ hardware, labels }) => [...hardware, ...labels].join(' '))),
  ].sort();
  return {
    reason: 'no_runner',
    detail: `No live runner has ${wanted}. ${offers.length > 0 ? `Those that live have: ${offers.join('; ')}.` : 'No runner is live at all.'} Start one that does, or cancel the run.`,
  };
}

/** @param runners that live; only a queued run's rendering looks at them */
export function renderRun(row: db.RunRow, attempts: db.AttemptRow[], runners: RunnerRow[]): Run {
  return {
    id: formatId('run', row.id),
    kind: row.kind as RunKind,
    spec: row.spec as object,
    state: row.state as RunState,
    desired_state: row.desired_state as RunStanding['desired_state'],
    hardware: row.hardware,
    labels: row.labels,
    priority: row.priority,
    time_limit_seconds: row.time_limit_seconds,
    max_attempts: row.max_attempts,
    after: row.after.map((id) => formatId('run', id)),
    waiting: waiting(row, runners),
    progress: row.progress as RunProgress | null,
    attempts: attempts.filter(({ run_id }) => run_id === row.id).map(renderAttempt),
    result: row.result as object | null,
    failure: row.failure as RunFailure | null,
    alarms: (row.alarms as RunAlarm[]).map((alarm) => ({ ...alarm, action: alarm.action ?? 'warn' })), // older ones have none
    artifacts: row.artifacts as RunArtifact[],
    model_id: row.model_id && formatId('model', row.model_id),
    promoted_from: row.promoted_from,
    last_event: row.last_event,
    created_at: row.created_at.toISOString(),
    started_at: row.started_at?.toISOString() ?? null,
    finished_at: row.finished_at?.toISOString() ?? null,
  };
}

export type NewRun = KindSpec & {
  hardware?: (typeof hardwareClasses)[number];
  labels?: string[];
  priority?: number;
  time_limit_seconds?: number;
  max_attempts?: number;
  after?: string[];
  validate_only?: boolean;
};

/** What a run would be, had it been created. */
export type ValidatedRun = Pick<
  Run,
  'kind' | 'spec' | 'hardware' | 'labels' | 'priority' | 'time_limit_seconds' | 'max_attempts' | 'after'
> & { valid: true };

/**
 * Queues a run; with `validate_only` only says what it would do.
 * @throws Problem not_found, unprocessable or missing_scope, with pointers into the request
 */
export async function createRun(
  services: Services,
  caller: Caller,
  request: NewRun,
): Promise<Run | ValidatedRun> {
  const run = resolveSpec(request);
  const settings = {
    hardware: request.hardware ?? 'cpu',
    labels: request.labels ?? [],
    priority: request.priority ?? 0,
    time_limit_seconds: request.time_limit_seconds ?? null,
    max_attempts: request.max_attempts ?? 3,
  };
  const plan = async (tx: Transaction): Promise<{ inputs: PlannedInputs; after: string[] }> => {
    const inputs = await resolveInputs(services, tx, caller, run);
    const after = await lockDependencies(tx, request.after ?? [], awaitedRuns(inputs));
    return { inputs, after };
  };
  const planned = await services.db.transaction(caller.projectId, plan);
  await checkArtifacts(services.artifacts, run, planned.inputs);
  if (request.validate_only)
    return {
      valid: true,
      ...run,
      ...settings,
      after: planned.after.map((id) => formatId('run', id)),
    };
  return services.db.transaction(caller.projectId, async (tx) => {
    // a run that was waited for may have ended meanwhile; from here on none of them does
    const { inputs, after } = planned.after.length > 0 ? await plan(tx) : planned;
    await holdInputs(tx, services.artifacts, inputs);
    const row = await db.insertRun(tx, {
      projectId: caller.projectId,
      id: uuidv7(),
      ...run,
      inputs,
      after,
      hardware: settings.hardware,
      labels: settings.labels,
      priority: settings.priority,
      timeLimitSeconds: settings.time_limit_seconds,
      maxAttempts: settings.max_attempts,
    });
    return renderRun(row, [], await selectLiveRunners(tx));
  });
}

/**
 * The runs that a new one waits for, as UUIDs: those of `after` and those whose models it needs.
 * @throws Problem not_found, unprocessable for one that has failed already
 */
async function lockDependencies(tx: Transaction, after: string[], awaited: string[]): Promise<string[]> {
  const named = after.map((id) => parseId('run', id));
  const rows = await db.selectRunsForShare(tx, [
    ...new Set([...named.filter((id) => id !== null), ...awaited]),
  ]);
  for (const [index, uuid] of named.entries()) {
    const pointer = `/after/${index}`;
    const row = rows.find(({ id }) => id === uuid);
    if (!row) throw notFound('run', after[index]!, pointer);
    if (hasEnded(row.state as RunState) && row.state !== 'succeeded')
      throw unreadable(pointer, `the run ${after[index]} has ended as ${row.state}: retry it first`);
  }
  return rows.map(({ id }) => id);
}

/**
 * Until the transaction ends, the files that a run will read stay in the artifact store.
 * @throws Problem unprocessable for what is gone: whatever it belonged to was deleted since it was looked for
 */
export async function holdInputs(
  tx: Transaction,
  artifacts: ArtifactStore,
  { model, reward_model, kl_reference, data, evaluation_data, checkpoint }: PlannedInputs,
): Promise<void> {
  const folders = [model, reward_model, kl_reference, checkpoint].filter((input) => input !== undefined);
  const rows = [data, evaluation_data].filter((input) => input !== undefined);
  const digests = [
    ...folders.flatMap((input) => ('files' in input ? input.files.map(({ digest }) => digest) : [])),
    ...rows.map((input) => ('rows' in input ? input.rows : input.snapshot)),
  ];
  await holdArtifacts(tx, artifacts, digests).catch((error) => {
    if (!(error instanceof ArtifactsGone)) throw error;
    throw new Problem('unprocessable', `${error.message} The run needs it. Was a model just deleted?`);
  });
}

const checkedRows = 1000;

/** The files that the run will read are there, and the first rows of the caller's own are rows. */
async function checkArtifacts(
  artifacts: ArtifactStore,
  { kind }: KindSpec,
  inputs: PlannedInputs,
): Promise<void> {
  for (const model of [inputs.model, inputs.reward_model, inputs.kl_reference]) {
    if (!model || !('files' in model)) continue;
    for (const { digest, path } of model.files) {
      if (!(await artifacts.has(digest))) {
        throw new Problem(
          'unprocessable',
          `The file ${path} of the model ${model.model_id} is missing from the artifact store.`,
        );
      }
    }
  }
  const pointer =
    kind === 'sft'
      ? '/spec/data'
      : kind === 'reward' || kind === 'dpo'
        ? '/spec/snapshot_id'
        : '/spec/prompts';
  await checkRows(artifacts, inputs.data, kind === 'sft' ? demonstrationRows : promptRows, pointer);
  if (inputs.evaluation_data)
    await checkRows(artifacts, inputs.evaluation_data, promptRows, '/spec/evaluation/prompts');
}

async function checkRows(
  artifacts: ArtifactStore,
  data: DataInput,
  read: typeof demonstrationRows | typeof promptRows,
  pointer: string,
): Promise<void> {
  const digest = 'rows' in data ? data.rows : data.snapshot;
  if (!(await artifacts.has(digest)))
    throw unreadable(pointer, `the artifact ${digest} is missing from the artifact store`);
  if (!('rows' in data)) return;
  let rows = 0;
  try {
    for await (const _ of read(artifacts, digest)) {
      if (++rows === checkedRows) break;
    }
  } catch (error) {
    if (error instanceof BadRow) throw unreadable(pointer, error.message);
    throw error;
  }
}

function unreadable(pointer: string, detail: string): Problem {
  return new Problem('unprocessable', `${pointer}: ${detail}.`, {
    errors: [{ pointer, detail, in: 'body' }],
  });
}

/** Newest first. */
export function listRuns(
  { db: database, cursors }: Services,
  caller: Caller,
  request: PageRequest & { state?: string; kind?: string },
): Promise<Page<Run>> {
  return database.transaction(caller.projectId, async (tx) => {
    const page = await readPage(
      { cursors, tx, projectId: caller.projectId, list: 'runs' },
      request,
      (page) => db.selectRuns(tx, { ...page, state: request.state ?? null, kind: request.kind ?? null }),
      (row) => row,
    );
    const attempts = await db.selectAttempts(
      tx,
      page.items.map(({ id }) => id),
    );
    const runners = page.items.some(({ state }) => state === 'queued') ? await selectLiveRunners(tx) : [];
    return { ...page, items: page.items.map((row) => renderRun(row, attempts, runners)) };
  });
}

/** @throws Problem not_found */
export async function findRun(tx: Transaction, id: string): Promise<db.RunRow> {
  const uuid = parseId('run', id);
  const row = uuid ? await db.selectRun(tx, uuid) : undefined;
  if (!row) throw notFound('run', id);
  return row;
}

export async function readRun(tx: Transaction, uuid: string): Promise<Run> {
  const row = (await db.selectRun(tx, uuid))!;
  return renderRun(
    row,
    await db.selectAttempts(tx, [uuid]),
    row.state === 'queued' ? await selectLiveRunners(tx) : [],
  );
}

export function getRun({ db: database }: Services, caller: Caller, id: string): Promise<Run> {
  return database.transaction(caller.projectId, async (tx) => readRun(tx, (await findRun(tx, id)).id));
}

/**
 * Changes a run that nobody else changes meanwhile, its runner included, and answers what has become of it.
 * @throws Problem not_found, precondition_failed, and what `change` throws
 */
function changeRun(
  { db: database }: Pick<Services, 'db'>,
  caller: Pick<Caller, 'projectId'>,
  id: string,
  condition: Precondition,
  change: (tx: Transaction, uuid: string, run: Run) => Promise<void>,
): Promise<Run> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findRun(tx, id);
    await db.lockRun(tx, uuid);
    const run = await readRun(tx, uuid);
    checkPrecondition(condition, run);
    await change(tx, uuid, run);
    return readRun(tx, uuid);
  });
}

const told: Record<Exclude<RunRequest, 'retry'>, { event: string; refusal: string }> = {
  cancel: { event: 'cancel_requested', refusal: 'cannot be cancelled any more' },
  pause: { event: 'pause_requested', refusal: 'cannot be paused any more' },
  resume: {
    event: 'resume_requested',
    refusal: 'cannot be resumed; a failed or cancelled run can be retried',
  },
};

/**
 * Cancels, pauses or resumes a run: at once while no runner holds it, else with the next heartbeat of its runner. Asking
 * for what has been asked for already changes nothing.
 * @throws Problem not_found, precondition_failed, conflict
 */
export function steerRun(
  services: Pick<Services, 'db'>,
  caller: Pick<Caller, 'projectId'>,
  id: string,
  request: keyof typeof told,
  condition: Precondition,
): Promise<Run> {
  return changeRun(services, caller, id, condition, async (tx, uuid, run) => {
    const standing = { state: run.state, desired_state: run.desired_state };
    const next = standingAfter(standing, request);
    if (!next) throw conflict(run, told[request].refusal);
    if (next.state === run.state && next.desired_state === run.desired_state) return;
    await db.appendRunEvents(tx, uuid, [{ type: told[request].event }]);
    await db.moveRun(tx, uuid, next);
  });
}

/**
 * Queues a failed or cancelled run again, with the whole of its attempts and of its time limit; it goes on from its last
 * checkpoint unless `restart` is asked for.
 * @throws Problem not_found, precondition_failed, conflict
 */
export function retryRun(
  services: Services,
  caller: Caller,
  id: string,
  { restart = false }: { restart?: boolean },
  condition: Precondition,
): Promise<Run> {
  return changeRun(services, caller, id, condition, async (tx, uuid, run) => {
    if (!standingAfter(run, 'retry'))
      throw conflict(run, 'cannot be retried; only a failed or cancelled run can');
    const dependencies = await db.selectRunsForShare(
      tx,
      run.after.map((after) => parseId('run', after)!),
    );
    const ended = dependencies.find(({ state }) => state === 'failed' || state === 'cancelled');
    if (ended)
      throw new Problem(
        'conflict',
        `The run waits for ${formatId('run', ended.id)}, which has ended as ${ended.state}: retry that one first.`,
      );
    await db.appendRunEvents(tx, uuid, [{ type: 'retry_requested' }]);
    await db.renewRun(tx, uuid, { restart });
  });
}

/** @throws Problem not_found, precondition_failed, conflict for a run that has ended */
export function setPriority(
  services: Services,
  caller: Caller,
  id: string,
  priority: number,
  condition: Precondition,
): Promise<Run> {
  return changeRun(services, caller, id, condition, async (tx, uuid, run) => {
    if (hasEnded(run.state)) throw conflict(run, 'has no place in the queue to be changed');
    await db.setRunPriority(tx, uuid, priority);
  });
}

function conflict({ state, desired_state }: RunStanding, refusal: string): Problem {
  const cancelled = desired_state === 'cancelled' && !hasEnded(state) ? ', and about to be cancelled' : '';
  return new Problem('conflict', `The run is ${state}${cancelled}: it ${refusal}.`);
}

export interface RunEvent {
  sequence: number;
  attempt: number;
  type: string;
  created_at: string;
  data: Record<string, unknown>;
}

export const renderEvent = (row: db.RunEventRow): RunEvent => ({
  sequence: row.sequence,
  attempt: row.fence,
  type: row.type,
  created_at: row.created_at.toISOString(),
  data: row.payload,
});

/** Events after a sequence number, in order; `next_after` goes into the next request. */
export function listRunEvents(
  { db: database }: Services,
  caller: Caller,
  id: string,
  request: { after?: number; limit?: number },
): Promise<{ items: RunEvent[]; next_after: number }> {
  const after = request.after ?? 0;
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findRun(tx, id);
    const rows = await db.selectRunEvents(tx, uuid, { after, limit: request.limit ?? 100 });
    return {
      items: rows.map(renderEvent),
      next_after: rows.at(-1)?.sequence ?? after,
    };
  });
}
