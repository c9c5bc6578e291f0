// What of runs is removed in time, and what stays: the run, its model and artifacts, its metrics, and the events that say how
// it went. docs/operation.md has the rules with their reasons.
import type { Database } from '../db/pool.ts';
import * as db from '../db/run-retention.ts';

/** 0: for ever, or all of them. Days count from the end of the run. */
export interface RunRetention {
  /** newest checkpoints of a run that has not ended */
  checkpoints: number;
  /** checkpoints but the last one */
  checkpointDays: number;
  lastCheckpointDays: number;
  /** rollouts and logs */
  rolloutDays: number;
  /** `progress`, `metrics` and `log` events */
  eventDays: number;
}

export interface Trimmed {
  checkpoints: number;
  rollouts: number;
  logs: number;
  /** runs whose events were thinned out */
  runs: number;
}

/** @param database of the system role */
export async function trimRuns(database: Database, retention: RunRetention): Promise<Trimmed> {
  // in transactions of their own: none holds locks for long
  const apply = async (limit: number, statement: Parameters<Database['transaction']>[1]): Promise<number> =>
    limit === 0 ? 0 : ((await database.transaction(null, statement)) as number);
  const { checkpoints, checkpointDays, lastCheckpointDays, rolloutDays, eventDays } = retention;
  const trimmed: Trimmed = {
    checkpoints:
      (await apply(checkpoints, (tx) => db.deleteOvertakenCheckpoints(tx, checkpoints))) +
      (await apply(checkpointDays, (tx) => db.deleteOldCheckpoints(tx, checkpointDays, 1))) +
      (await apply(lastCheckpointDays, (tx) => db.deleteOldCheckpoints(tx, lastCheckpointDays, 0))),
    rollouts: await apply(rolloutDays, (tx) => db.deleteOldRollouts(tx, rolloutDays)),
    logs: await apply(rolloutDays, (tx) => db.deleteOldLogs(tx, rolloutDays)),
    runs: 0,
  };
  for (let runs = -1; runs !== 0; trimmed.runs += runs)
    runs = await apply(eventDays, (tx) => db.trimOldEvents(tx, eventDays));
  return trimmed;
}
