// What is read of a run while it works and after: its standing, metrics, logs, rollouts and checkpoints.
import type { Transaction } from './pool.ts';
import type { CheckpointFile } from './run-execution.ts';

export interface StandingRow {
  state: string;
  last_event: number;
}

/** The least that says whether something has happened. */
export async function selectRunStanding(tx: Transaction, runId: string): Promise<StandingRow | undefined> {
  return (
    await tx.query<StandingRow>('select state, last_event from finegrain.runs where id = $1', [runId])
  )[0];
}

/** Whether the key still opens what it did. */
export async function selectKeyIsActive(tx: Transaction, keyId: string): Promise<boolean> {
  const rows = await tx.query<{ active: boolean }>(
    `select finegrain.key_state(revoked_at, expires_at) = 'active' as active from finegrain.api_keys where id = $1`,
    [keyId],
  );
  return rows[0]?.active ?? false;
}

export interface MetricBlockRow {
  steps: number[];
  measured: (number | null)[];
}

/** Blocks of a series in the order in which their points were reported, since the run was last restarted. */
export function selectMetricBlocks(tx: Transaction, runId: string, name: string): Promise<MetricBlockRow[]> {
  return tx.query<MetricBlockRow>(
    `select m.steps::double precision[] as steps, m.measured from finegrain.run_metrics m
     join finegrain.runs r on r.project_id = m.project_id and r.id = m.run_id
     where m.run_id = $1 and m.name = $2 and m.fence > r.restart_fence
     order by m.fence, m.block`,
    [runId, name],
  );
}

export async function selectMetricNames(tx: Transaction, runId: string): Promise<string[]> {
  const rows = await tx.query<{ name: string }>(
    `select distinct m.name from finegrain.run_metrics m
     join finegrain.runs r on r.project_id = m.project_id and r.id = m.run_id
     where m.run_id = $1 and m.fence > r.restart_fence order by m.name`,
    [runId],
  );
  return rows.map(({ name }) => name);
}

export async function selectHasAttempt(tx: Transaction, runId: string, fence: number): Promise<boolean> {
  const rows = await tx.query('select from finegrain.run_attempts where run_id = $1 and fence = $2', [
    runId,
    fence,
  ]);
  return rows.length > 0;
}

export interface LogRow {
  fence: number;
  line_count: number;
  newest: string[];
  digest: string | null;
  bytes: number | null;
  complete: boolean | null;
  updated_at: Date;
}

/** The log of an attempt; without a fence that of the newest attempt which has one. */
export async function selectLog(
  tx: Transaction,
  runId: string,
  fence: number | null,
): Promise<LogRow | undefined> {
  const rows = await tx.query<LogRow>(
    `select fence, line_count, newest, digest, bytes, complete, updated_at from finegrain.run_logs
     where run_id = $1 and ($2::bigint is null or fence = $2) order by fence desc limit 1`,
    [runId, fence],
  );
  return rows[0];
}

export interface RolloutsRow {
  step: number;
  fence: number;
  digest: string;
  bytes: number;
  row_count: number;
  created_at: Date;
}

/** The steps that have rollouts, after the given one. */
export function selectRolloutSteps(
  tx: Transaction,
  runId: string,
  page: { after: number; limit: number },
): Promise<RolloutsRow[]> {
  return tx.query<RolloutsRow>(
    `select step, fence, digest, bytes, row_count, created_at from finegrain.run_rollouts
     where run_id = $1 and step > $2 order by step limit $3`,
    [runId, page.after, page.limit],
  );
}

export async function selectRollouts(
  tx: Transaction,
  runId: string,
  step: number,
): Promise<RolloutsRow | undefined> {
  const rows = await tx.query<RolloutsRow>(
    `select step, fence, digest, bytes, row_count, created_at from finegrain.run_rollouts
     where run_id = $1 and step = $2`,
    [runId, step],
  );
  return rows[0];
}

export interface CheckpointRow {
  step: number;
  fence: number;
  files: CheckpointFile[];
  created_at: Date;
}

/** Newest first, before the given step. */
export function selectCheckpoints(
  tx: Transaction,
  runId: string,
  page: { before: number | null; limit: number },
): Promise<CheckpointRow[]> {
  return tx.query<CheckpointRow>(
    `select step, fence, files, created_at from finegrain.run_checkpoints
     where run_id = $1 and ($2::bigint is null or step < $2) order by step desc limit $3`,
    [runId, page.before, page.limit],
  );
}

export async function selectCheckpoint(
  tx: Transaction,
  runId: string,
  step: number,
): Promise<CheckpointRow | undefined> {
  const rows = await tx.query<CheckpointRow>(
    'select step, fence, files, created_at from finegrain.run_checkpoints where run_id = $1 and step = $2',
    [runId, step],
  );
  return rows[0];
}

/** What the ids in the spec of a run stood for when it was made. */
export async function selectRunInputs(tx: Transaction, runId: string): Promise<unknown> {
  const rows = await tx.query<{ inputs: unknown }>('select inputs from finegrain.runs where id = $1', [
    runId,
  ]);
  return rows[0]!.inputs;
}
