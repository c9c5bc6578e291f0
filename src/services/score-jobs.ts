// Score jobs: the rewards of a whole file or snapshot, asked for here, worked on by score-job-work.ts.
import { v7 as uuidv7 } from 'uuid';
import { selectArtifact } from '../db/artifacts.ts';
import type { Transaction } from '../db/pool.ts';
import * as db from '../db/score-jobs.ts';
import { formatId, parseId } from '../domain/ids.ts';
import type { Unit } from '../domain/text.ts';
import { notFound, Problem, unprocessable } from '../errors.ts';
import type { Precision } from '../scoring/engine.ts';
import type { ModelFile } from '../storage/model-folder.ts';
import type { Caller, Services } from './context.ts';
import { ArtifactsGone, holdArtifacts } from './named-artifacts.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { checkPrecondition, type Precondition } from './preconditions.ts';
import { findScoringModel, renderScoringModel, type ScoringModel } from './scoring.ts';
import { completeCounts, type SnapshotCounts } from './snapshot-content.ts';
import { findSnapshot } from './snapshots.ts';

/** What moves a job from one to the next. */
export const scoreJobStates = {
  queued: 'waits for a worker',
  running: 'a worker scores it, or has begun and takes turns with other jobs',
  succeeded: 'every line has its answer, be it an error of its own; `result` names them',
  failed: 'given up, `failure` says why; a new job begins anew',
  cancelled: 'somebody cancelled it; what was scored is gone',
} as const satisfies Record<db.ScoreJobState, string>;

export const failureReasons = {
  model_refused: 'the model cannot be served',
  no_progress: 'eight slices in a row ended without any progress: scorers, store or worker are in trouble',
} as const;

export type FailureReason = keyof typeof failureReasons;

/** What of a snapshot is scored, as items with these ids. */
export const snapshotParts = {
  responses: 'both responses of each pair: `KEY/a`, `KEY/b`',
  edits: 'the edited versions: `KEY/edits/0` and so on',
  all: 'of each pair the responses and then the edited versions',
} as const;

export type SnapshotPart = keyof typeof snapshotParts;

export interface ScoreJobInput {
  snapshot_id?: string;
  what?: SnapshotPart;
  artifact?: string;
}

export interface NewScoreJob {
  model?: string;
  input: ScoreJobInput;
  unit?: Unit;
  truncate?: boolean;
  include_eos?: boolean;
  precision?: Precision;
}

/** As it was asked for, with the defaults of then. */
export interface ScoreJobRequest extends Required<Omit<NewScoreJob, 'model' | 'precision' | 'input'>> {
  input: ScoreJobInput;
}

/** What the names of the request stood for when the job was made. */
export interface ScoreJobInputs {
  model: ScoringModel & { files: ModelFile[] };
  /** digest of the artifact, of a snapshot's too */
  source: string;
}

export interface ScoreJobResult {
  digest: string;
  bytes: number;
  media_type: string;
}

export interface ScoreJob extends ScoreJobRequest {
  id: string;
  state: db.ScoreJobState;
  model: ScoringModel;
  progress: { done: number; failed: number; total: number | null; tokens: number; fraction: number };
  result: ScoreJobResult | null;
  failure: { reason: FailureReason; detail: string } | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
}

function render(row: db.ScoreJobRow): ScoreJob {
  const { files: _, ...model } = (row.inputs as ScoreJobInputs).model;
  const fraction = row.source_bytes === 0 ? 1 : row.read_bytes / row.source_bytes;
  return {
    id: formatId('scoreJob', row.id),
    state: row.state,
    model,
    ...(row.request as ScoreJobRequest),
    progress: {
      done: row.done,
      failed: row.failed,
      total: row.total,
      tokens: row.tokens,
      fraction: row.state === 'succeeded' ? 1 : fraction,
    },
    result: row.result as ScoreJob['result'],
    failure: row.failure as ScoreJob['failure'],
    created_at: row.created_at.toISOString(),
    started_at: row.started_at?.toISOString() ?? null,
    finished_at: row.finished_at?.toISOString() ?? null,
  };
}

/** Of a project; some more where many are made at the same moment. */
export const maxUnfinishedJobs = 1000;

/**
 * The work begins with the commit, by the model that the name stands for now.
 * @throws Problem not_found for the model, the snapshot or the artifact; unprocessable; overloaded
 */
export function createScoreJob(services: Services, caller: Caller, job: NewScoreJob): Promise<ScoreJob> {
  const { projectId } = caller;
  return services.db.transaction(projectId, async (tx) => {
    if ((await db.countUnfinished(tx)) >= maxUnfinishedJobs)
      throw new Problem(
        'overloaded',
        `The project has ${maxUnfinishedJobs} score jobs that have not ended. Cancel some, or wait; larger files make fewer jobs.`,
        { retryAfterSeconds: 60 },
      );
    const model = await findScoringModel(services, tx, job.model);
    const { input, source, total } = await resolveInput(tx, job.input);
    const artifact = (await selectArtifact(tx, source))!;
    const inputs: ScoreJobInputs = {
      model: { ...renderScoringModel(services, model, job), files: model.files },
      source,
    };
    const digests = [source, ...model.files.map(({ digest }) => digest)];
    await holdArtifacts(tx, services.artifacts, digests).catch((error) => {
      if (!(error instanceof ArtifactsGone)) throw error;
      throw new Problem('unprocessable', `${error.message} The job needs it. Was the model just deleted?`);
    });
    const { unit = 'utf16', truncate = false, include_eos = false } = job;
    const request: ScoreJobRequest = { input, unit, truncate, include_eos };
    return render(
      await db.insertScoreJob(tx, {
        projectId,
        id: uuidv7(),
        request,
        inputs,
        sourceBytes: artifact.bytes,
        total,
      }),
    );
  });
}

/** @throws Problem not_found; unprocessable unless it is exactly one of the forms */
async function resolveInput(
  tx: Transaction,
  { snapshot_id, what, artifact }: ScoreJobInput,
): Promise<{ input: ScoreJobInput; source: string; total: number | null }> {
  if ((snapshot_id === undefined) === (artifact === undefined))
    throw unprocessable('/input', 'needs either snapshot_id or artifact');
  if (artifact !== undefined) {
    if (what !== undefined) throw unprocessable('/input/what', 'is for a snapshot');
    if (!(await selectArtifact(tx, artifact))) throw notFound('artifact', artifact, '/input/artifact');
    return { input: { artifact }, source: artifact, total: null };
  }
  const snapshot = await findSnapshot(tx, snapshot_id!, '/input/snapshot_id');
  const { pairs, edits } = completeCounts(snapshot.counts as SnapshotCounts);
  const part = what ?? 'responses';
  const total = (part === 'edits' ? 0 : 2 * pairs) + (part === 'responses' ? 0 : edits);
  return { input: { snapshot_id: snapshot_id!, what: part }, source: snapshot.digest, total };
}

export function listScoreJobs(
  { db: database, cursors }: Services,
  caller: Caller,
  request: PageRequest & { state?: db.ScoreJobState },
): Promise<Page<ScoreJob>> {
  return database.transaction(caller.projectId, (tx) =>
    readPage(
      { cursors, tx, projectId: caller.projectId, list: 'score jobs' },
      request,
      (page) => db.selectScoreJobs(tx, { ...page, state: request.state ?? null }),
      render,
    ),
  );
}

/** @throws Problem not_found */
export function getScoreJob({ db: database }: Services, caller: Caller, id: string): Promise<ScoreJob> {
  return database.transaction(caller.projectId, async (tx) => {
    const uuid = parseId('scoreJob', id);
    const row = uuid ? await db.selectScoreJob(tx, uuid) : undefined;
    if (!row) throw notFound('score job', id);
    return render(row);
  });
}

/**
 * Ends a job for good; repeated, or on one that has ended, it changes nothing.
 * @throws Problem not_found, precondition_failed
 */
export function cancelScoreJob(
  { db: database }: Services,
  caller: Caller,
  id: string,
  condition: Precondition,
): Promise<ScoreJob> {
  return database.transaction(caller.projectId, async (tx) => {
    const uuid = parseId('scoreJob', id);
    const row = uuid ? await db.lockScoreJob(tx, uuid) : undefined;
    if (!row) throw notFound('score job', id);
    checkPrecondition(condition, render(row));
    await db.cancelScoreJob(tx, row.id);
    return render((await db.selectScoreJob(tx, row.id))!);
  });
}
