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
  stopped_at: Date | null;
  live: boolean;
}

const columns = `r.id, r.name, r.hardware, r.labels, r.devices, r.version, r.started_at, r.seen_at, r.busy_since, r.stopped_at,
  finegrain.is_live(r) as live`;

/** Those that have been seen lately. */
export function selectLiveRunners(tx: Transaction): Promise<RunnerRow[]> {
  return tx.query<RunnerRow>(
    `select ${columns} from finegrain.runners r where r.stopped_at is null and finegrain.is_live(r) order by r.id`,
  );
}

/** A page, newest first, before the given id. */
export function selectRunners(
  tx: Transaction,
  page: { after: string | null; limit: number; live: boolean | null },
): Promise<RunnerRow[]> {
  return tx.query<RunnerRow>(
    `select ${columns} from finegrain.runners r
     where ($1::uuid is null or r.id < $1) and ($3::boolean is null or finegrain.is_live(r) = $3)
     order by r.id desc limit $2`,
    [page.after, page.limit, page.live],
  );
}
