// Runs: pieces of work that a runner takes from the queue. What can be refused is refused when a run is created.
import { v7 as uuidv7 } from 'uuid';
import type { Transaction } from '../db/pool.ts';
import * as db from '../db/runs.ts';
import { formatId, parseId } from '../domain/ids.ts';
import type { RunState } from '../domain/run-states.ts';
import { notFound, Problem } from '../errors.ts';
import type { ArtifactStore } from '../storage/artifact-store.ts';
import type { Caller, Services } from './context.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { checkPrecondition, type Precondition } from './preconditions.ts';
import { type DataInput, type RunInputs, resolveInputs } from './run-inputs.ts';
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

/** What a run may ask of its runner. */
export const hardwareClasses = ['cpu', 'cuda'] as const;

export interface Run {
  id: string;
  kind: RunKind;
  spec: object;
  state: RunState;
  desired_state: string;
  hardware: string;
  labels: string[];
  max_attempts: number;
  progress: RunProgress | null;
  attempts: RunAttempt[];
  result: object | null;
  failure: RunFailure | null;
  alarms: RunAlarm[];
  artifacts: RunArtifact[];
  model_id: string | null;
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

function render(row: db.RunRow, attempts: db.AttemptRow[]): Run {
  return {
    id: formatId('run', row.id),
    kind: row.kind as RunKind,
    spec: row.spec as object,
    state: row.state as RunState,
    desired_state: row.desired_state,
    hardware: row.hardware,
    labels: row.labels,
    max_attempts: row.max_attempts,
    progress: row.progress as RunProgress | null,
    attempts: attempts.filter(({ run_id }) => run_id === row.id).map(renderAttempt),
    result: row.result as object | null,
    failure: row.failure as RunFailure | null,
    alarms: row.alarms as RunAlarm[],
    artifacts: row.artifacts as RunArtifact[],
    model_id: row.model_id && formatId('model', row.model_id),
    last_event: row.last_event,
    created_at: row.created_at.toISOString(),
    started_at: row.started_at?.toISOString() ?? null,
    finished_at: row.finished_at?.toISOString() ?? null,
  };
}

export type NewRun = KindSpec & {
  hardware?: (typeof hardwareClasses)[number];
  max_attempts?: number;
  labels?: string[];
  validate_only?: boolean;
};

/** What a run would be, had it been created. */
export type ValidatedRun = Pick<Run, 'kind' | 'spec' | 'hardware' | 'labels' | 'max_attempts'> & {
  valid: true;
};

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
    max_attempts: request.max_attempts ?? 3,
  };
  const inputs = await services.db.transaction(caller.projectId, (tx) =>
    resolveInputs(services, tx, caller, run),
  );
  await checkArtifacts(services.artifacts, run, inputs);
  if (request.validate_only) return { valid: true, ...run, ...settings };
  return services.db.transaction(caller.projectId, async (tx) =>
    render(
      await db.insertRun(tx, {
        projectId: caller.projectId,
        id: uuidv7(),
        ...run,
        inputs,
        hardware: settings.hardware,
        labels: settings.labels,
        maxAttempts: settings.max_attempts,
      }),
      [],
    ),
  );
}

const checkedRows = 1000;

/** The files that the run will read are there, and the first rows of the caller's own are rows. */
async function checkArtifacts(
  artifacts: ArtifactStore,
  { kind }: KindSpec,
  inputs: RunInputs,
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
  const pointer = kind === 'sft' ? '/spec/data' : kind === 'reward' ? '/spec/snapshot_id' : '/spec/prompts';
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
    return { ...page, items: page.items.map((row) => render(row, attempts)) };
  });
}

/** @throws Problem not_found */
async function findRun(tx: Transaction, id: string): Promise<db.RunRow> {
  const uuid = parseId('run', id);
  const row = uuid ? await db.selectRun(tx, uuid) : undefined;
  if (!row) throw notFound('run', id);
  return row;
}

const readRun = async (tx: Transaction, uuid: string): Promise<Run> =>
  render((await db.selectRun(tx, uuid))!, await db.selectAttempts(tx, [uuid]));

export function getRun({ db: database }: Services, caller: Caller, id: string): Promise<Run> {
  return database.transaction(caller.projectId, async (tx) => readRun(tx, (await findRun(tx, id)).id));
}

/**
 * Cancels a queued run at once and asks the runner of a running one to stop.
 * @throws Problem not_found, precondition_failed, conflict
 */
export function cancelRun(
  { db: database }: Services,
  caller: Caller,
  id: string,
  condition: Precondition,
): Promise<Run> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findRun(tx, id);
    await db.lockRun(tx, uuid);
    checkPrecondition(condition, await readRun(tx, uuid));
    const asked = await db.cancelRun(tx, uuid);
    const run = await readRun(tx, uuid);
    if (!asked) throw new Problem('conflict', `The run has already ended: it is ${run.state}.`);
    return run;
  });
}

export interface RunEvent {
  sequence: number;
  attempt: number;
  type: string;
  created_at: string;
  data: Record<string, unknown>;
}

/** Events after a sequence number, in order and without gaps; `next_after` goes into the next request. */
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
      items: rows.map((row) => ({
        sequence: row.sequence,
        attempt: row.fence,
        type: row.type,
        created_at: row.created_at.toISOString(),
        data: row.payload,
      })),
      next_after: rows.at(-1)?.sequence ?? after,
    };
  });
}
