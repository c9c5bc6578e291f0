// What is removed of runs in time; for the system role, over all projects. Rows only: what they named in the artifact store
// is collected when no row names it any more.
import type { Transaction } from './pool.ts';

// what a promotion takes up, as long as that run has not ended
const unpromoted = `not exists (select from finegrain.runs p
  where p.project_id = c.project_id and p.finished_at is null
    and p.inputs -> 'checkpoint' ->> 'run_id' = 'run_' || replace(c.run_id::text, '-', '')
    and (p.inputs -> 'checkpoint' ->> 'step')::bigint = c.step)`;

const newerCheckpoints = `(select count(*) from finegrain.run_checkpoints n
  where n.project_id = c.project_id and n.run_id = c.run_id and (n.created_at, n.step) > (c.created_at, c.step))`;

/** Of runs that have not ended all but the newest. */
export async function deleteOvertakenCheckpoints(tx: Transaction, keep: number): Promise<number> {
  const rows = await tx.query(
    `delete from finegrain.run_checkpoints c using finegrain.runs r
     where r.project_id = c.project_id and r.id = c.run_id and r.finished_at is null
       and ${newerCheckpoints} >= $1 and ${unpromoted}
     returning c.run_id`,
    [keep],
  );
  return rows.length;
}

/** Of runs that ended so many days ago, all but the newest `keep`. */
export async function deleteOldCheckpoints(tx: Transaction, days: number, keep: number): Promise<number> {
  const rows = await tx.query(
    `delete from finegrain.run_checkpoints c using finegrain.runs r
     where r.project_id = c.project_id and r.id = c.run_id and r.finished_at < clock_timestamp() - make_interval(days => $1)
       and ${newerCheckpoints} >= $2 and ${unpromoted}
     returning c.run_id`,
    [days, keep],
  );
  return rows.length;
}

export async function deleteOldRollouts(tx: Transaction, days: number): Promise<number> {
  const rows = await tx.query(
    `delete from finegrain.run_rollouts o using finegrain.runs r
     where r.project_id = o.project_id and r.id = o.run_id and r.finished_at < clock_timestamp() - make_interval(days => $1)
     returning o.run_id`,
    [days],
  );
  return rows.length;
}

export async function deleteOldLogs(tx: Transaction, days: number): Promise<number> {
  const rows = await tx.query(
    `delete from finegrain.run_logs l using finegrain.runs r
     where r.project_id = l.project_id and r.id = l.run_id and r.finished_at < clock_timestamp() - make_interval(days => $1)
     returning l.run_id`,
    [days],
  );
  return rows.length;
}

/**
 * Removes what was said for those who watched, of up to a hundred runs that ended so many days ago; what says how a run
 * went stays. Answers how many runs there were.
 */
export async function trimOldEvents(tx: Transaction, days: number): Promise<number> {
  const rows = await tx.query(
    `with old as (
       select project_id, id from finegrain.runs
       where finished_at is not null and (trimmed_at is null or trimmed_at < finished_at)
         and finished_at < clock_timestamp() - make_interval(days => $1)
       order by finished_at limit 100 for no key update skip locked
     ), trimmed as (
       delete from finegrain.run_events e using old
       where e.project_id = old.project_id and e.run_id = old.id and e.type in ('progress', 'metrics', 'log')
     )
     update finegrain.runs r set trimmed_at = clock_timestamp() from old
     where r.project_id = old.project_id and r.id = old.id
     returning r.id`,
    [days],
  );
  return rows.length;
}
