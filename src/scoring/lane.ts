// One model in use: its queue and its scorer processes, started when there is work, a second one when more waits. The
// requests in the queue take turns, a sequence each, so that one of two sequences does not wait for one of thousands. A
// process that dies or hangs is replaced, and what it held is tried once more; a server (http-scorer.ts) has its own tries. When other models wait for memory, idle
// processes give theirs away at once, busy ones after a turn.
import type { Logger } from 'pino';
import { Problem } from '../errors.ts';
import type { MemoryBudget } from './memory-budget.ts';
import { ModelRefused } from './model-json.ts';
import type { Places } from './places.ts';
import type { Scorer, Sequence, SequenceScore } from './scorer.ts';
import { ScorerDied } from './scorer-processes.ts';

export interface Job {
  sequence: Sequence;
  /** aborts when nobody waits for it any more */
  signal?: AbortSignal;
  /** @param milliseconds that scoring took */
  done(score: SequenceScore, milliseconds: number): void;
  fail(error: Problem): void;
}

export interface Lane {
  /** @param jobs of one request */
  add(jobs: Job[]): void;
  /** Takes back what has not begun. */
  remove(jobs: ReadonlySet<Job>): void;
  /** Why the model cannot be served; known after the first attempt. */
  readonly refusal: Problem | null;
  /** When work last ended (performance.now()) of a process that has none; null without such a process. */
  readonly idleSince: number | null;
  /** processes that are ready */
  readonly scorers: number;
  /** there is work, and no process yet */
  readonly loading: boolean;
  /** Ends the processes that have no work. */
  rest(): Promise<void>;
  /** Finishes the queue, then ends the processes. */
  close(): Promise<void>;
}

const turnMs = 5_000;
const refusalMs = 60_000;

export interface LaneOptions {
  /**
   * @param proven one before this one gave the rewards that the trainer gave
   * @throws ModelRefused, ScorerDied or a Problem
   */
  start(proven: boolean): Promise<Scorer>;
  /** that a process of this model takes, about */
  bytes: number;
  memory: MemoryBudget;
  /** of the machine: as many processes as there are compute at a time */
  cores: Places;
  maxScorers: number;
  log: Logger;
  idleMs: number;
  /** a process ended while it was needed and is replaced */
  onRestart(): void;
  /** nothing came for `idleMs`, or the refusal is old: the lane can be forgotten */
  onIdle(): void;
}

export function openLane({
  start,
  bytes,
  memory,
  cores,
  maxScorers,
  log,
  idleMs,
  onRestart,
  onIdle,
}: LaneOptions): Lane {
  const requests: Job[][] = []; // none of them empty
  const alive = new Set<Scorer>();
  const idle: Scorer[] = [];
  const working = new Set<Promise<void>>();
  const retried = new WeakSet<Job>();
  let held = 0;
  let idleSince = 0;
  let proven = false;
  let aloneUntil = 0; // since a second process could not be started
  let refusal: Problem | null = null;
  let idleTimer: NodeJS.Timeout | undefined;

  function next(): Job | undefined {
    const request = requests.shift();
    const job = request?.shift();
    if (request && request.length > 0) requests.push(request);
    return job;
  }

  /** @param reserved its memory was taken already */
  async function startOne(reserved: boolean): Promise<Scorer> {
    if (!reserved) await memory.take(bytes);
    const scorer = await start(proven).catch((error) => {
      memory.give(bytes);
      throw error;
    });
    proven = true;
    alive.add(scorer);
    void scorer.ended.then(() => {
      alive.delete(scorer);
      if (idle.includes(scorer)) idle.splice(idle.indexOf(scorer), 1);
      memory.give(bytes);
    });
    wake(); // there may be work for more of them
    return scorer;
  }

  async function startTwice(reserved: boolean): Promise<Scorer> {
    try {
      return await startOne(reserved);
    } catch (error) {
      if (!(error instanceof ScorerDied)) throw error;
      log.warn({ err: error }, 'a scorer ended while it loaded; trying once more');
      onRestart();
      return startOne(false);
    }
  }

  function giveUp(error: unknown): void {
    log.error({ err: error }, 'a model cannot be served');
    if (working.size > 1) {
      aloneUntil = performance.now() + refusalMs;
      return;
    }
    const problem = explain(error);
    if (error instanceof ModelRefused) refusal = problem;
    for (const job of requests.splice(0).flat()) job.fail(problem);
  }

  /** Scores one sequence after the other until none is left. */
  async function work(reserved: boolean): Promise<void> {
    let scorer = idle.pop();
    let since = performance.now();
    for (;;) {
      if (!scorer) {
        try {
          scorer = await startTwice(reserved);
        } catch (error) {
          return giveUp(error);
        }
        since = performance.now();
        reserved = false;
      }
      if (!(await scoreNext(scorer))) scorer = undefined;
      else if (requests.length === 0) break;
      if (scorer && memory.wanted && (working.size > 1 || performance.now() - since > turnMs)) {
        await scorer.close();
        scorer = undefined;
      }
      if (!scorer && (requests.length === 0 || working.size > 1)) return;
    }
    idleSince = performance.now();
    idle.push(scorer);
    if (memory.wanted) void rest();
  }

  /** False: the process is no longer there. */
  async function scoreNext(scorer: Scorer): Promise<boolean> {
    await cores.take();
    const job = next(); // not before there is a core for it, as until then it can be taken back
    if (!job) {
      cores.give();
      return true;
    }
    held++;
    let died = false;
    const started = performance.now();
    try {
      const score = await scorer.score(job.sequence, job.signal);
      job.done(score, performance.now() - started);
    } catch (error) {
      died = error instanceof ScorerDied;
      if (died) {
        log.warn({ err: error }, 'a scorer ended while it held a sequence');
        onRestart();
        if (retried.has(job)) job.fail(explain(error));
        else {
          retried.add(job);
          requests.unshift([job]);
        }
      } else if (!job.signal?.aborted) {
        log.warn({ err: error }, 'the server of a model did not score a sequence');
        proven = false; // what serves there next may be another model
        void rest();
        job.fail(explain(error));
      }
    } finally {
      held--;
      cores.give();
    }
    if (proven && !died) return true;
    void scorer.close();
    return false;
  }

  function wake(): void {
    if (requests.length > 0) clearTimeout(idleTimer);
    const waiting = requests.reduce((sum, { length }) => sum + length, 0);
    while (working.size < Math.min(maxScorers, held + waiting)) {
      const first = working.size === 0;
      const reserved = !first && idle.length === 0;
      // memory that others may need is taken for a second process only if it is free
      if (reserved && !(proven && performance.now() > aloneUntil && memory.tryTake(bytes))) return;
      const loop: Promise<void> = work(reserved).finally(() => {
        working.delete(loop);
        if (working.size === 0) idleTimer = setTimeout(onIdle, refusal ? refusalMs : idleMs).unref();
        wake(); // something may have come in between
      });
      working.add(loop);
    }
  }

  async function rest(): Promise<void> {
    await Promise.all(idle.splice(0).map((scorer) => scorer.close()));
  }

  return {
    add(jobs) {
      if (jobs.length > 0) requests.push([...jobs]);
      wake();
    },
    remove(jobs) {
      for (const [position, request] of [...requests.entries()].reverse()) {
        const left = request.filter((job) => !jobs.has(job));
        requests.splice(position, 1, ...(left.length > 0 ? [left] : []));
      }
    },
    get refusal() {
      return refusal;
    },
    get idleSince() {
      return idle.length > 0 ? idleSince : null;
    },
    get scorers() {
      return alive.size;
    },
    get loading() {
      return working.size > 0 && alive.size === 0;
    },
    rest,
    async close() {
      while (working.size > 0) await Promise.all(working);
      clearTimeout(idleTimer);
      await rest();
    },
  };
}

/** What a caller is told; the log has the rest. */
export function explain(error: unknown): Problem {
  if (error instanceof Problem) return error;
  if (error instanceof ModelRefused)
    return new Problem('unprocessable', `The model cannot be served: ${error.message}.`);
  return new Problem(
    'unavailable',
    'The process that scores with this model ended unexpectedly, twice. Try again; if it happens again, the log of the service says more.',
    {
      retryAfterSeconds: 5,
    },
  );
}
