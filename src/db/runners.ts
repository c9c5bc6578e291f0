// Statements of the API on runners, which serve all projects.
import type { Transaction } from './pool.ts';

export interface RunnerRow {
  id: string;
  name: string;
  hardware: string[];
  labels: string[];
  devices: unknown;
  version: string;
  started_at: Date;
  seen_at: Date;
  busy_since: Date | null;
}

/** Those that have been seen lately, the longest at work first. */
export function selectLiveRunners(tx: Transaction): Promise<RunnerRow[]> {
  return tx.query<RunnerRow>(
    `select id, name, hardware, labels, devices, version, started_at, seen_at, busy_since
     from finegrain.runners r where stopped_at is null and finegrain.is_live(r) order by started_at, id`,
  );
}
