// The fenced functions of a runner (migrations 0003, 0009, 0011, 0014 and 0015), and the channel that wakes it. Every write names the fence of its
// attempt; under an old one nothing changes and the answer is false or null.
import pg from 'pg';
import type { Transaction } from './pool.ts';

export interface FencedRun {
  project_id: string;
  run_id: string;
  fence: number;
}

export interface CheckpointFile {
  path: string;
  digest: string;
  bytes: number;
}

export interface ClaimRow extends FencedRun {
  kind: string;
  spec: unknown;
  inputs: unknown;
  hardware: string;
  checkpoint: { step: number; files: CheckpointFile[] } | null;
  /** of the time limit; null without one */
  seconds_left: number | null;
}

export interface RunnerRecord {
  /** UUID, a new one for each process */
  id: string;
  name: string;
  hardware: string[];
  labels: string[];
  devices: object[];
  version: string;
  leaseSeconds: number;
  pollSeconds: number;
}

/** Makes the runner known; registering again changes nothing. */
export async function registerRunner(tx: Transaction, runner: RunnerRecord): Promise<void> {
  await tx.query('select finegrain.runner_register($1, $2, $3, $4, $5, $6, $7, $8)', [
    runner.id,
    runner.name,
    runner.hardware,
    runner.labels,
    JSON.stringify(runner.devices),
    runner.version,
    runner.leaseSeconds,
    runner.pollSeconds,
  ]);
}

/** The runner says that it takes no more runs. */
export async function stopRunner(tx: Transaction, runnerId: string): Promise<void> {
  await tx.query('select finegrain.runner_stop($1)', [runnerId]);
}

/** The first queued run that fits, by priority and age, now held by a new attempt. */
export async function claimRun(tx: Transaction, runnerId: string): Promise<ClaimRow | undefined> {
  return (await tx.query<ClaimRow>('select * from finegrain.runner_claim($1)', [runnerId]))[0];
}

/** Renews the lease; answers the desired state, null when the run is held no longer. */
export async function heartbeatRun(
  tx: Transaction,
  run: FencedRun,
  leaseSeconds: number,
): Promise<string | null> {
  const rows = await tx.query<{ desired: string | null }>(
    'select finegrain.runner_heartbeat($1, $2, $3, $4) as desired',
    [run.project_id, run.run_id, run.fence, leaseSeconds],
  );
  return rows[0]!.desired;
}

/** @param batch counts the batches of this attempt from 1; one that is written already is not written again */
export async function reportRunEvents(
  tx: Transaction,
  run: FencedRun,
  batch: number,
  events: object[],
): Promise<boolean> {
  const rows = await tx.query<{ held: boolean }>(
    'select finegrain.runner_report($1, $2, $3, $4, $5) as held',
    [run.project_id, run.run_id, run.fence, batch, JSON.stringify(events)],
  );
  return rows[0]!.held;
}

export async function saveRunCheckpoint(
  tx: Transaction,
  run: FencedRun,
  step: number,
  files: CheckpointFile[],
): Promise<boolean> {
  const rows = await tx.query<{ held: boolean }>(
    'select finegrain.runner_save_checkpoint($1, $2, $3, $4, $5) as held',
    [run.project_id, run.run_id, run.fence, step, JSON.stringify(files)],
  );
  return rows[0]!.held;
}

export async function saveRunRollouts(
  tx: Transaction,
  run: FencedRun,
  rollouts: { step: number; digest: string; bytes: number; count: number },
): Promise<boolean> {
  const rows = await tx.query<{ held: boolean }>(
    'select finegrain.runner_save_rollouts($1, $2, $3, $4, $5, $6, $7) as held',
    [run.project_id, run.run_id, run.fence, rollouts.step, rollouts.digest, rollouts.bytes, rollouts.count],
  );
  return rows[0]!.held;
}

export interface RunLogRecord {
  lineCount: number;
  newest: string[];
  /** the whole, once nothing more comes */
  kept: { digest: string; bytes: number; complete: boolean } | null;
}

export async function reportRunLog(tx: Transaction, run: FencedRun, log: RunLogRecord): Promise<boolean> {
  const rows = await tx.query<{ held: boolean }>(
    'select finegrain.runner_log($1, $2, $3, $4, $5, $6) as held',
    [run.project_id, run.run_id, run.fence, log.lineCount, log.newest, log.kept && JSON.stringify(log.kept)],
  );
  return rows[0]!.held;
}

export interface RunEnding {
  outcome: 'succeeded' | 'failed' | 'cancelled' | 'interrupted' | 'paused' | 'lost';
  result: object | null;
  failure: object | null;
  /** what the run shows under names */
  runArtifacts: object[];
  /** every digest that becomes visible to the project */
  newArtifacts: { digest: string; bytes: number; media_type: string }[];
  model: object | null;
  alias: string | null;
  /** said with the end */
  events: object[];
}

/** All of it or nothing. */
export async function finishRun(tx: Transaction, run: FencedRun, ending: RunEnding): Promise<boolean> {
  const rows = await tx.query<{ held: boolean }>(
    'select finegrain.runner_finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) as held',
    [
      run.project_id,
      run.run_id,
      run.fence,
      ending.outcome,
      ending.result && JSON.stringify(ending.result),
      ending.failure && JSON.stringify(ending.failure),
      JSON.stringify(ending.runArtifacts),
      JSON.stringify(ending.newArtifacts),
      ending.model && JSON.stringify(ending.model),
      ending.alias,
      JSON.stringify(ending.events),
    ],
  );
  return rows[0]!.held;
}

/** Those of these attempts that have ended. */
export async function selectEndedAttempts(
  tx: Transaction,
  attempts: Pick<FencedRun, 'run_id' | 'fence'>[],
): Promise<Pick<FencedRun, 'run_id' | 'fence'>[]> {
  return tx.query('select run_id, fence from finegrain.runner_ended_attempts($1, $2)', [
    attempts.map(({ run_id }) => run_id),
    attempts.map(({ fence }) => fence),
  ]);
}

/** For the system role: marks attempts whose lease is over as lost; answers how many there were. */
export async function reapLostAttempts(tx: Transaction): Promise<number> {
  return (await tx.query<{ reaped: number }>('select finegrain.reap_lost_attempts() as reaped'))[0]!.reaped;
}

/**
 * Calls `wake` whenever a run may have been queued, until the returned function is called. Needs a connection of its
 * own, not a pooler's; a broken one is replaced after `retryMs`. Notifications are lost meanwhile: it is only a hint.
 */
export function listenForRuns(
  url: string,
  wake: () => void,
  onError: (error: Error) => void,
  retryMs = 2000,
) {
  let client: pg.Client | null = null;
  let retry: NodeJS.Timeout | undefined;
  let closed = false;

  const connect = async (): Promise<void> => {
    const fresh = new pg.Client({
      connectionString: url,
      application_name: 'finegrain_runner listen',
      keepAlive: true,
      connectionTimeoutMillis: 10_000,
    });
    client = fresh;
    const lost = (error?: Error): void => {
      if (client !== fresh) return;
      client = null;
      if (closed) return;
      if (error) onError(error);
      retry = setTimeout(connect, retryMs);
      fresh.end().catch(() => {}); // it is broken already
    };
    fresh.on('error', lost);
    fresh.on('end', () => lost());
    fresh.on('notification', wake);
    try {
      await fresh.connect();
      await fresh.query('listen finegrain_runs');
      wake(); // whatever was queued while nobody listened
    } catch (error) {
      lost(error as Error);
    }
  };
  void connect();

  return async function stopListening(): Promise<void> {
    closed = true;
    clearTimeout(retry);
    await client?.end();
  };
}
