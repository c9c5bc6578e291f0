// Runners: the processes that take runs, what they have, and whether they live. They serve all projects.
import * as db from '../db/runners.ts';
import { formatId } from '../domain/ids.ts';
import type { Caller, Services } from './context.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';

export const runnerStates = ['idle', 'busy', 'silent', 'stopped'] as const;

export interface Runner {
  id: string;
  name: string;
  state: (typeof runnerStates)[number];
  hardware: string[];
  labels: string[];
  devices: object[];
  version: string;
  started_at: string;
  seen_at: string;
  busy_since: string | null;
}

function render(row: db.RunnerRow): Runner {
  const atWork = row.busy_since ? 'busy' : 'idle';
  return {
    id: formatId('runner', row.id),
    name: row.name,
    state: row.stopped_at ? 'stopped' : row.live ? atWork : 'silent',
    hardware: row.hardware,
    labels: row.labels,
    devices: row.devices as object[],
    version: row.version,
    started_at: row.started_at.toISOString(),
    seen_at: row.seen_at.toISOString(),
    busy_since: row.busy_since?.toISOString() ?? null,
  };
}

/** Newest first; those that were last seen more than a week ago are forgotten. */
export function listRunners(
  { db: database, cursors }: Services,
  caller: Caller,
  request: PageRequest & { live?: boolean },
): Promise<Page<Runner>> {
  return database.transaction(caller.projectId, (tx) =>
    readPage(
      { cursors, tx, projectId: caller.projectId, list: 'runners' },
      request,
      (page) => db.selectRunners(tx, { ...page, live: request.live ?? null }),
      render,
    ),
  );
}
