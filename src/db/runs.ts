// Statements of the API on runs. A runner works through src/db/run-execution.ts instead.
import type { Transaction } from './pool.ts';

export interface RunRow {
  id: string;
  kind: string;
  spec: unknown;
  state: string;
  desired_state: string;
  hardware: string;
  labels: string[];
  max_attempts: number;
  progress: unknown;
  result: unknown;
  failure: unknown;
  alarms: unknown;
  artifacts: unknown;
  model_id: string | null;
  last_event: number;
  created_at: Date;
  started_at: Date | null;
  finished_at: Date | null;
}

const columns = `r.id, r.kind, r.spec, r.state, r.desired_state, r.hardware, r.labels, r.max_attempts, r.progress, r.result,
  r.failure, r.alarms, r.artifacts, r.last_event, r.created_at, r.started_at, r.finished_at,
  (select m.id from finegrain.models m where m.project_id = r.project_id and m.run_id = r.id) as model_id`;

/** Queues a run and wakes the runners that listen, when the transaction commits. */
export async function insertRun(
  tx: Transaction,
  run: {
    projectId: string;
    id: string;
    kind: string;
    spec: unknown;
    inputs: unknown;
    hardware: string;
    labels: string[];
    maxAttempts: number;
  },
): Promise<RunRow> {
  await tx.query(
    `insert into finegrain.runs (project_id, id, kind, spec, inputs, hardware, labels, max_attempts)
     values ($1, $2, $3, $4, $5, $6, $7, $8)`,
    [
      run.projectId,
      run.id,
      run.kind,
      JSON.stringify(run.spec),
      JSON.stringify(run.inputs),
      run.hardware,
      run.labels,
      run.maxAttempts,
    ],
  );
  await tx.query("select pg_notify('finegrain_runs', '')");
  return (await selectRun(tx, run.id))!;
}

export async function selectRun(tx: Transaction, id: string): Promise<RunRow | undefined> {
  return (await tx.query<RunRow>(`select ${columns} from finegrain.runs r where r.id = $1`, [id]))[0];
}

/** Nobody else changes the run, its runner included, until the transaction ends. */
export async function lockRun(tx: Transaction, id: string): Promise<void> {
  await tx.query('select from finegrain.runs where id = $1 for no key update', [id]);
}

/** A page, newest first, before the given id. */
export function selectRuns(
  tx: Transaction,
  page: { after: string | null; limit: number; state: string | null; kind: string | null },
): Promise<RunRow[]> {
  return tx.query<RunRow>(
    `select ${columns} from finegrain.runs r
     where ($1::uuid is null or r.id < $1) and ($3::text is null or r.state = $3) and ($4::text is null or r.kind = $4)
     order by r.id desc limit $2`,
    [page.after, page.limit, page.state, page.kind],
  );
}

export interface AttemptRow {
  run_id: string;
  fence: number;
  runner: string;
  started_at: Date;
  heartbeat_at: Date;
  lease_expires_at: Date;
  ended_at: Date | null;
  outcome: string | null;
}

export function selectAttempts(tx: Transaction, runIds: string[]): Promise<AttemptRow[]> {
  return tx.query<AttemptRow>(
    `select run_id, fence, runner, started_at, heartbeat_at, lease_expires_at, ended_at, outcome
     from finegrain.run_attempts where run_id = any ($1::uuid[]) order by run_id, fence`,
    [runIds],
  );
}

/**
 * A queued run is cancelled at once; one that a runner holds is told so by its next heartbeat. Asking twice changes
 * nothing. False when the run has ended already.
 */
export async function cancelRun(tx: Transaction, id: string): Promise<boolean> {
  const rows = await tx.query(
    `with asked as (
       update finegrain.runs set
         desired_state = 'cancelled',
         state = case when state in ('queued', 'paused') then 'cancelled' else state end,
         finished_at = case when state in ('queued', 'paused') then clock_timestamp() end,
         last_event = last_event + case when desired_state = 'cancelled' then 0 else 1 end
       where id = $1 and state not in ('succeeded', 'failed', 'cancelled')
       returning project_id, id, last_event, fence
     ), said as (
       insert into finegrain.run_events (project_id, run_id, sequence, fence, type, payload)
       select project_id, id, last_event, fence, 'cancel_requested', '{}' from asked
       on conflict do nothing
     )
     select id from asked`,
    [id],
  );
  return rows.length > 0;
}

export interface RunEventRow {
  sequence: number;
  fence: number;
  type: string;
  payload: Record<string, unknown>;
  created_at: Date;
}

export function selectRunEvents(
  tx: Transaction,
  runId: string,
  page: { after: number; limit: number },
): Promise<RunEventRow[]> {
  return tx.query<RunEventRow>(
    `select sequence, fence, type, payload, created_at from finegrain.run_events
     where run_id = $1 and sequence > $2 order by sequence limit $3`,
    [runId, page.after, page.limit],
  );
}
