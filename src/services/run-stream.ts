// Events of runs as they come, for streams that stay open. The API reaches Postgres through a transaction pooler, where
// nobody can LISTEN, so it looks: one look for all streams of a run in this process, in a transaction of its own that is
// over before anything is sent. A stream is no more than the number of the last event that it has sent: a slow reader holds
// nothing but that, and a reader that comes back names it, to this process or to another.
import type { Database, Transaction } from '../db/pool.ts';
import { selectKeyIsActive, selectRunStanding } from '../db/run-watching.ts';
import { selectRunEvents } from '../db/runs.ts';
import { parseId } from '../domain/ids.ts';
import { hasEnded, type RunState } from '../domain/run-states.ts';
import { notFound, Problem } from '../errors.ts';
import type { Caller } from './context.ts';
import { isDatabaseUnreachable } from './database-errors.ts';
import { type RunEvent, renderEvent } from './runs.ts';

export interface StreamSettings {
  /** without anything else to say */
  heartbeatMs: number;
  /** between two looks while events come, and while none do */
  busyMs: number;
  idleMs: number;
  /** in this process */
  mostStreams: number;
}

export const streamSettings: StreamSettings = {
  heartbeatMs: 15_000,
  busyMs: 250,
  idleMs: 2_000,
  mostStreams: 1_000,
};

/** What a stream says next. */
export type StreamItem =
  | { events: RunEvent[] }
  /** nothing has happened for a while, or cannot be known for now */
  | { quiet: 'heartbeat' | 'database' }
  /** the run has ended, and every event was sent */
  | { ended: RunState; lastEvent: number };

export interface RunStreams {
  /** @throws Problem not_found */
  find(caller: Caller, id: string): Promise<FoundRun>;
  /** Every stream ends at an event boundary, and new ones are refused. */
  close(): void;
}

export interface FoundRun {
  /** nothing comes after this event: the run has ended with it, or before */
  isOver(after: number): boolean;
  /**
   * The events after a number as they come, until the run has ended.
   * @param gone the reader has left
   * @throws Problem overloaded when too many streams are open
   */
  follow(after: number, gone: AbortSignal): AsyncGenerator<StreamItem>;
}

const pageSize = 500;
const keptEvents = 2_000;
const keyCheckMs = 60_000;

export function openRunStreams(db: Database, settings: StreamSettings): RunStreams {
  const watches = new Map<string, RunWatch>();
  const open = new Set<AbortController>();
  let closed = false;

  /** The one watch of a run in this process. */
  const watchOf = (projectId: string, uuid: string, standing: Standing): RunWatch => {
    const key = `${projectId} ${uuid}`;
    const known = watches.get(key);
    if (known) return known;
    const watch = watchRun(db, settings, projectId, uuid, standing, () => watches.delete(key));
    watches.set(key, watch);
    return watch;
  };

  async function* items(
    caller: Caller,
    uuid: string,
    after: number,
    watch: RunWatch,
    over: AbortSignal,
  ): AsyncGenerator<StreamItem> {
    let sent = after;
    let keyCheckedAt = performance.now();
    const look = async (): Promise<Page | null> =>
      watch.isBlind() ? null : (watch.kept(sent) ?? reached(readPage(db, caller.projectId, uuid, sent)));
    while (!over.aborted) {
      if (performance.now() - keyCheckedAt > keyCheckMs) {
        if ((await reached(keyStillWorks(db, caller))) === false) return;
        keyCheckedAt = performance.now();
      }
      const version = watch.version(); // before the look: what happens during it is not missed
      const page = await look();
      if (page && page.events.length > 0) {
        sent = page.events.at(-1)!.sequence;
        yield { events: page.events };
      } else if (page && hasEnded(page.state)) {
        yield { ended: page.state, lastEvent: page.lastEvent };
        return;
      } else {
        if (!page) yield { quiet: 'database' };
        const silent = await watch.silence(version, page ? settings.heartbeatMs : settings.idleMs, over);
        if (silent && page) yield { quiet: 'heartbeat' };
      }
    }
  }

  return {
    async find(caller, id) {
      const uuid = parseId('run', id);
      const standing = uuid && (await db.transaction(caller.projectId, (tx) => readStanding(tx, uuid)));
      if (!standing) throw notFound('run', id);
      return {
        isOver: (after) => hasEnded(standing.state) && after >= standing.lastEvent,
        follow(after, gone) {
          if (closed)
            throw new Problem('unavailable', 'The service is stopping. Connect again.', {
              retryAfterSeconds: 1,
            });
          if (open.size >= settings.mostStreams)
            throw new Problem(
              'overloaded',
              'This process has as many streams open as it may. Try again, or read the events as JSON.',
              { retryAfterSeconds: 5 },
            );
          const over = new AbortController();
          const watch = watchOf(caller.projectId, uuid, standing);
          open.add(over);
          watch.join();
          const release = (): void => {
            over.abort();
            if (open.delete(over)) watch.leave();
          };
          gone.addEventListener('abort', release);
          return releasing(items(caller, uuid, after, watch, over.signal), release);
        },
      };
    },
    close() {
      closed = true;
      for (const over of open) over.abort();
    },
  };
}

async function* releasing<T>(items: AsyncGenerator<T>, release: () => void): AsyncGenerator<T> {
  try {
    yield* items;
  } finally {
    release();
  }
}

/** Null when the database cannot be reached. */
async function reached<T>(asked: Promise<T>): Promise<T | null> {
  try {
    return await asked;
  } catch (error) {
    if (isDatabaseUnreachable(error)) return null;
    throw error;
  }
}

interface Standing {
  state: RunState;
  lastEvent: number;
}

interface Page extends Standing {
  events: RunEvent[];
}

async function readStanding(tx: Transaction, uuid: string): Promise<Standing | null> {
  const row = await selectRunStanding(tx, uuid);
  return row ? { state: row.state as RunState, lastEvent: row.last_event } : null;
}

/** Events after a number. The standing is read before them: a run that had ended then has no later ones. */
function readPage(db: Database, projectId: string, uuid: string, after: number): Promise<Page> {
  return db.transaction(projectId, async (tx) => {
    const standing = (await readStanding(tx, uuid))!;
    const rows =
      standing.lastEvent > after ? await selectRunEvents(tx, uuid, { after, limit: pageSize }) : [];
    return { ...standing, events: rows.map(renderEvent) };
  });
}

async function keyStillWorks(db: Database, { projectId, keyId }: Caller): Promise<boolean> {
  return keyId === null || db.transaction(projectId, (tx) => selectKeyIsActive(tx, keyId));
}

interface RunWatch {
  join(): void;
  leave(): void;
  /** Another number after each change. */
  version(): number;
  /** True after `ms` without a change since `version`; false at the change, or at the end of the stream. */
  silence(version: number, ms: number, over: AbortSignal): Promise<boolean>;
  /** What came after a number; null when that is not known here. @throws what the last look threw */
  kept(after: number): Page | null;
  /** the last look did not reach the database */
  isBlind(): boolean;
}

/** Looks at one run for as long as somebody watches it. */
function watchRun(
  db: Database,
  { busyMs, idleMs }: StreamSettings,
  projectId: string,
  uuid: string,
  first: Standing,
  onLeft: () => void,
): RunWatch {
  let watchers = 0;
  let standing = first;
  let seen = first.lastEvent; // what came before was read, or is older than this watch
  const events: RunEvent[] = [];
  let knownAfter = first.lastEvent; // `events` are all events from here to `seen`
  let trouble: unknown = null;
  let pauseMs = busyMs;
  let timer: NodeJS.Timeout | undefined;
  let version = 0;
  const waiting = new Set<() => void>();
  const tell = (): void => {
    version += 1;
    for (const wake of [...waiting]) wake();
  };

  const look = async (): Promise<void> => {
    try {
      const page = await readPage(db, projectId, uuid, seen);
      const moved = page.events.length > 0 || page.state !== standing.state || trouble !== null;
      trouble = null;
      standing = page;
      for (const event of page.events) events.push(event);
      seen = page.events.at(-1)?.sequence ?? seen;
      const dropped = events.splice(0, Math.max(0, events.length - keptEvents));
      knownAfter = dropped.at(-1)?.sequence ?? knownAfter;
      pauseMs = page.events.length > 0 ? busyMs : Math.min(pauseMs * 1.5, idleMs);
      if (moved) tell();
    } catch (error) {
      pauseMs = idleMs;
      if (trouble === null) {
        trouble = error;
        tell();
      }
    }
    if (watchers > 0) timer = setTimeout(look, pauseMs);
  };

  return {
    join() {
      watchers += 1;
      if (watchers === 1) timer = setTimeout(look, busyMs);
    },
    leave() {
      watchers -= 1;
      if (watchers > 0) return;
      clearTimeout(timer);
      onLeft();
    },
    version: () => version,
    silence: (known, ms, over) =>
      new Promise((resolve) => {
        if (known !== version || over.aborted) return resolve(false);
        const end = (silent: boolean): void => {
          clearTimeout(silenceTimer);
          waiting.delete(wake);
          over.removeEventListener('abort', wake);
          resolve(silent);
        };
        const wake = (): void => end(false);
        const silenceTimer = setTimeout(() => end(true), ms);
        waiting.add(wake);
        over.addEventListener('abort', wake);
      }),
    kept(after) {
      if (trouble !== null) throw trouble;
      if (after < knownAfter) return null;
      const from = events.findIndex(({ sequence }) => sequence > after);
      // an end that was seen before its last events were read is none yet
      const state = seen >= standing.lastEvent ? standing.state : 'running';
      return { ...standing, state, events: from === -1 ? [] : events.slice(from, from + pageSize) };
    },
    isBlind: () => trouble !== null && isDatabaseUnreachable(trouble),
  };
}
