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
  priority: number;
  time_limit_seconds: number | null;
  max_attempts: number;
  waits_for: number;
  after: string[];
  progress: unknown;
  result: unknown;
  failure: unknown;
  alarms: unknown;
  artifacts: unknown;
  model_id: string | null;
  /** with a public id */
  promoted_from: { run_id: string; step: number } | null;
  last_event: number;
  created_at: Date;
  started_at: Date | null;
  finished_at: Date | null;
}

const columns = `r.id, r.kind, r.spec, r.state, r.desired_state, r.hardware, r.labels, r.priority,
  r.time_limit_seconds, r.max_attempts, r.waits_for, r.progress, r.result, r.failure, r.alarms, r.artifacts, r.last_event, r.created_at, r.started_at, r.finished_at,
  (select m.id from finegrain.models m where m.project_id = r.project_id and m.run_id = r.id) as model_id,
  array(select d.after_run_id from finegrain.run_dependencies d where d.project_id = r.project_id and d.run_id = r.id
    order by d.after_run_id) as after,
  case when r.inputs ? 'checkpoint' then jsonb_build_object('run_id', r.inputs -> 'checkpoint' -> 'run_id',
    'step', r.inputs -> 'checkpoint' -> 'step') end as promoted_from`;

/**
 * Queues a run and wakes the runners that listen, when the transaction commits. It waits for those of `after` that have not
 * succeeded; the caller has locked them with `selectRunsForShare`.
 */
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
    priority: number;
    timeLimitSeconds: number | null;
    maxAttempts: number;
    /** ids of runs */
    after: string[];
  },
): Promise<RunRow> {
  await tx.query(
    `insert into finegrain.runs (project_id, id, kind, spec, inputs, hardware, labels, priority, time_limit_seconds, max_attempts, waits_for)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10,
       (select count(*) from finegrain.runs where id = any ($11::uuid[]) and state <> 'succeeded'))`,
    [
      run.projectId,
      run.id,
      run.kind,
      JSON.stringify(run.spec),
      JSON.stringify(run.inputs),
      run.hardware,
      run.labels,
      run.priority,
      run.timeLimitSeconds,
      run.maxAttempts,
      run.after,
    ],
  );
  await tx.query(
    `insert into finegrain.run_dependencies (project_id, run_id, after_run_id) select $1, $2, after from unnest($3::uuid[]) as after`,
    [run.projectId, run.id, run.after],
  );
  await wakeRunners(tx);
  return (await selectRun(tx, run.id))!;
}

export async function selectRun(tx: Transaction, id: string): Promise<RunRow | undefined> {
  return (await tx.query<RunRow>(`select ${columns} from finegrain.runs r where r.id = $1`, [id]))[0];
}

/** What the names in its spec stood for (services/run-inputs.ts). */
export async function selectRunInputs(
  tx: Transaction,
  id: string,
): Promise<{ kind: string; inputs: unknown } | undefined> {
  const rows = await tx.query<{ kind: string; inputs: unknown }>(
    'select kind, inputs from finegrain.runs where id = $1',
    [id],
  );
  return rows[0];
}

/** UUID of a `generate` run that wrote the artifact; undefined: none did. */
export async function selectRunThatWrote(tx: Transaction, digest: string): Promise<string | undefined> {
  const rows = await tx.query<{ id: string }>(
    "select id from finegrain.runs where kind = 'generate' and artifacts @> $1::jsonb order by id desc limit 1",
    [JSON.stringify([{ digest }])],
  );
  return rows[0]?.id;
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

export interface DependencyRow {
  id: string;
  kind: string;
  state: string;
  spec: unknown;
}

/** Runs that another one is to wait for: none of them ends before the transaction does. In the order of their ids. */
export function selectRunsForShare(tx: Transaction, ids: string[]): Promise<DependencyRow[]> {
  return tx.query<DependencyRow>(
    'select id, kind, state, spec from finegrain.runs where id = any ($1::uuid[]) order by id for share',
    [ids],
  );
}

/** Moves a run that the caller has locked; a move that is not legal is refused by the database. */
export async function moveRun(
  tx: Transaction,
  id: string,
  { state, desired_state }: { state: string; desired_state: string },
): Promise<void> {
  await tx.query(
    `update finegrain.runs set state = $2, desired_state = $3,
       finished_at = case when $2 in ('succeeded', 'failed', 'cancelled') then clock_timestamp() end
     where id = $1`,
    [id, state, desired_state],
  );
  if (state === 'queued') await wakeRunners(tx);
}

/** Clears what the last end of a run left behind, and with `restart` also passes over its checkpoints. */
export async function renewRun(
  tx: Transaction,
  id: string,
  { restart }: { restart: boolean },
): Promise<void> {
  await tx.query(
    `update finegrain.runs r set failure = null, result = null, progress = null, alarms = '[]', finished_at = null,
       state = 'queued', desired_state = 'running', retried_fence = fence,
       restart_fence = case when $2 then fence else restart_fence end,
       waits_for = (select count(*) from finegrain.run_dependencies d join finegrain.runs a
         on a.project_id = d.project_id and a.id = d.after_run_id where d.run_id = r.id and a.state <> 'succeeded')
     where r.id = $1`,
    [id, restart],
  );
  await wakeRunners(tx);
}

export async function setRunPriority(tx: Transaction, id: string, priority: number): Promise<void> {
  await tx.query('update finegrain.runs set priority = $2 where id = $1', [id, priority]);
}

/** Writes events of the API's own, in the name of the newest attempt. */
export async function appendRunEvents(
  tx: Transaction,
  id: string,
  events: { type: string }[],
): Promise<void> {
  await tx.query(
    'select finegrain.append_run_events(project_id, id, fence, $2) from finegrain.runs where id = $1',
    [id, JSON.stringify(events)],
  );
}

async function wakeRunners(tx: Transaction): Promise<void> {
  await tx.query("select pg_notify('finegrain_runs', '')");
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
