// Statements on score jobs: what is asked for, and the slices of the work on them. Migration 0019 keeps a job at due_at.
import type { Transaction } from './pool.ts';

export type ScoreJobState = 'queued' | 'running' | 'succeeded' | 'failed' | 'cancelled';

export interface ScoreJobRow {
  id: string;
  state: ScoreJobState;
  request: unknown;
  inputs: unknown;
  source_bytes: number;
  read_bytes: number;
  total: number | null;
  done: number;
  failed: number;
  tokens: number;
  result: unknown;
  failure: unknown;
  created_at: Date;
  started_at: Date | null;
  finished_at: Date | null;
}

const columns = `id, state, request, inputs, source_bytes, read_bytes, total, done, failed, tokens, result, failure,
  created_at, started_at, finished_at`;

/** The job that begins the work is there when the transaction commits. */
export async function insertScoreJob(
  tx: Transaction,
  job: {
    projectId: string;
    id: string;
    request: object;
    inputs: object;
    sourceBytes: number;
    total: number | null;
  },
): Promise<ScoreJobRow> {
  const rows = await tx.query<ScoreJobRow>(
    `insert into finegrain.score_jobs (project_id, id, request, inputs, source_bytes, total)
     values ($1, $2, $3, $4, $5, $6) returning ${columns}`,
    [
      job.projectId,
      job.id,
      JSON.stringify(job.request),
      JSON.stringify(job.inputs),
      job.sourceBytes,
      job.total,
    ],
  );
  return rows[0]!;
}

export async function selectScoreJob(tx: Transaction, id: string): Promise<ScoreJobRow | undefined> {
  return (await tx.query<ScoreJobRow>(`select ${columns} from finegrain.score_jobs where id = $1`, [id]))[0];
}

/** Jobs of the project that have not ended. */
export async function countUnfinished(tx: Transaction): Promise<number> {
  const rows = await tx.query<{ count: number }>(
    'select count(*) as count from finegrain.score_jobs where due_at is not null',
  );
  return rows[0]!.count;
}

/** Nobody else changes it until the transaction ends, its worker included. */
export async function lockScoreJob(tx: Transaction, id: string): Promise<ScoreJobRow | undefined> {
  return (
    await tx.query<ScoreJobRow>(
      `select ${columns} from finegrain.score_jobs where id = $1 for no key update`,
      [id],
    )
  )[0];
}

/** A page, oldest first, after the given id. */
export function selectScoreJobs(
  tx: Transaction,
  page: { after: string | null; limit: number; state: ScoreJobState | null },
): Promise<ScoreJobRow[]> {
  return tx.query<ScoreJobRow>(
    `select ${columns} from finegrain.score_jobs
     where ($1::uuid is null or id > $1) and ($3::text is null or state = $3)
     order by id limit $2`,
    [page.after, page.limit, page.state],
  );
}

/** Ends it, if it has not ended; a slice that is at work notices with its next heartbeat. */
export async function cancelScoreJob(tx: Transaction, id: string): Promise<void> {
  await tx.query(
    `update finegrain.score_jobs set state = 'cancelled', due_at = null, finished_at = clock_timestamp()
     where id = $1 and due_at is not null`,
    [id],
  );
  await tx.query('delete from finegrain.score_job_parts where score_job_id = $1', [id]);
}

/** Names the project itself, because the worker's role sees all of them. */
export interface ScoreJobKey {
  projectId: string;
  jobId: string;
}

export interface ScoreJobSlice extends ScoreJobKey {
  fence: number;
}

export type SliceRow = Pick<
  ScoreJobRow,
  'request' | 'inputs' | 'source_bytes' | 'read_bytes' | 'total' | 'done'
> & { read_lines: number; fence: number; troubles: number };

/** Begins a slice that is due, for as long as the lease: none begins before that is over. undefined when none is due. */
export async function beginSlice(
  tx: Transaction,
  { projectId, jobId }: ScoreJobKey,
  leaseSeconds: number,
): Promise<SliceRow | undefined> {
  return (
    await tx.query<SliceRow>(
      `update finegrain.score_jobs set fence = fence + 1, troubles = troubles + 1, state = 'running',
         started_at = coalesce(started_at, clock_timestamp()),
         due_at = clock_timestamp() + make_interval(secs => $3)
       where project_id = $1 and id = $2 and due_at <= clock_timestamp()
       returning request, inputs, source_bytes, read_bytes, read_lines, total, done, fence, troubles`,
      [projectId, jobId, leaseSeconds],
    )
  )[0];
}

/** Whether the slice may go on: its lease runs from now on again. */
export async function renewSlice(
  tx: Transaction,
  { projectId, jobId, fence }: ScoreJobSlice,
  leaseSeconds: number,
): Promise<boolean> {
  const rows = await tx.query(
    `update finegrain.score_jobs set due_at = clock_timestamp() + make_interval(secs => $4)
     where project_id = $1 and id = $2 and fence = $3 and due_at is not null returning id`,
    [projectId, jobId, fence, leaseSeconds],
  );
  return rows.length > 0;
}

export async function setTotal(
  tx: Transaction,
  { projectId, jobId, fence }: ScoreJobSlice,
  total: number,
): Promise<void> {
  await tx.query(
    'update finegrain.score_jobs set total = $4 where project_id = $1 and id = $2 and fence = $3',
    [projectId, jobId, fence, total],
  );
}

export interface ScoredPart {
  digest: string;
  readBytes: number;
  readLines: number;
  done: number;
  failed: number;
  tokens: number;
}

/** Adds the next part and moves the place from which the work goes on. False: the slice was lost. */
export async function insertPart(
  tx: Transaction,
  { projectId, jobId, fence }: ScoreJobSlice,
  part: ScoredPart,
): Promise<boolean> {
  const rows = await tx.query(
    `with moved as (
       update finegrain.score_jobs set parts = parts + 1, troubles = 0, read_bytes = $5, read_lines = $6,
         done = done + $7, failed = failed + $8, tokens = tokens + $9
       where project_id = $1 and id = $2 and fence = $3 and due_at is not null
       returning parts)
     insert into finegrain.score_job_parts (project_id, score_job_id, number, digest)
     select $1, $2, parts, $4 from moved returning number`,
    [
      projectId,
      jobId,
      fence,
      part.digest,
      part.readBytes,
      part.readLines,
      part.done,
      part.failed,
      part.tokens,
    ],
  );
  return rows.length > 0;
}

/** Digests of the parts, in their order. */
export async function selectParts(tx: Transaction, { projectId, jobId }: ScoreJobKey): Promise<string[]> {
  const rows = await tx.query<{ digest: string }>(
    'select digest from finegrain.score_job_parts where project_id = $1 and score_job_id = $2 order by number',
    [projectId, jobId],
  );
  return rows.map(({ digest }) => digest);
}

/** The next slice begins after the rest. */
export async function endSlice(
  tx: Transaction,
  { projectId, jobId, fence }: ScoreJobSlice,
  { restSeconds, troubles }: { restSeconds: number; troubles: number | null },
): Promise<void> {
  await tx.query(
    `update finegrain.score_jobs set troubles = coalesce($5, troubles),
       due_at = clock_timestamp() + make_interval(secs => $4)
     where project_id = $1 and id = $2 and fence = $3 and due_at is not null`,
    [projectId, jobId, fence, restSeconds, troubles],
  );
}

/** Ends the job; its parts are needed no longer. False: the slice was lost. */
export async function finishScoreJob(
  tx: Transaction,
  { projectId, jobId, fence }: ScoreJobSlice,
  end: { result: object } | { failure: object },
): Promise<boolean> {
  const [result, failure] = 'result' in end ? [end.result, null] : [null, end.failure];
  const rows = await tx.query(
    `update finegrain.score_jobs set state = case when $4::jsonb is null then 'failed' else 'succeeded' end,
       result = $4, failure = $5, due_at = null, finished_at = clock_timestamp(),
       total = case when $4::jsonb is null then total else done end
     where project_id = $1 and id = $2 and fence = $3 and due_at is not null returning id`,
    [projectId, jobId, fence, result && JSON.stringify(result), failure && JSON.stringify(failure)],
  );
  if (rows.length === 0) return false;
  await tx.query('delete from finegrain.score_job_parts where project_id = $1 and score_job_id = $2', [
    projectId,
    jobId,
  ]);
  return true;
}
