// One model in use: its queue, first come first served, and its scorer process, started when there is work. A process
// that dies or hangs is replaced, and what it held is tried once more. When other models wait for a place for their
// process, an idle lane gives its place away at once and a busy one after its turn.
import type { Logger } from 'pino';
import { Problem } from '../errors.ts';
import { ModelRefused } from './model-json.ts';
import type { Places } from './places.ts';
import { type Scorer, ScorerDied, type Sequence, type SequenceScore } from './scorer.ts';

export interface Job {
  sequence: Sequence;
  done(score: SequenceScore): void;
  fail(error: Problem): void;
}

export interface Lane {
  add(jobs: Job[]): void;
  /** Takes back what has not begun. */
  remove(jobs: ReadonlySet<Job>): void;
  /** Why the model cannot be served; known after the first attempt. */
  readonly refusal: Problem | null;
  /** When the last work ended (performance.now()), null while there is work or no process. */
  readonly idleSince: number | null;
  /** its process is there */
  readonly loaded: boolean;
  /** there is work, and its process is not there yet */
  readonly loading: boolean;
  /** Ends the process without waiting for more work. */
  rest(): Promise<void>;
  /** Finishes the queue, then ends the process. */
  close(): Promise<void>;
}

const turnMs = 5_000;
const refusalMs = 60_000;

export interface LaneOptions {
  /** @throws ModelRefused, ScorerDied or a Problem */
  start(): Promise<Scorer>;
  places: Places;
  log: Logger;
  idleMs: number;
  /** a process ended while it was needed and is replaced */
  onRestart(): void;
  /** nothing came for `idleMs`, or the refusal is old: the lane can be forgotten */
  onIdle(): void;
}

export function openLane({ start, places, log, idleMs, onRestart, onIdle }: LaneOptions): Lane {
  const queue: Job[] = [];
  const retried = new WeakSet<Job>();
  let scorer: Scorer | null = null;
  let startedAt = 0;
  let idleSince = 0;
  let refusal: Problem | null = null;
  let working: Promise<void> | null = null;
  let idleTimer: NodeJS.Timeout | undefined;

  async function startInPlace(): Promise<Scorer> {
    await places.take();
    const started = await start().catch((error) => {
      places.give();
      throw error;
    });
    void started.ended.then(() => {
      if (scorer === started) scorer = null;
      places.give();
    });
    startedAt = performance.now();
    return started;
  }

  async function startTwice(): Promise<Scorer> {
    try {
      return await startInPlace();
    } catch (error) {
      if (!(error instanceof ScorerDied)) throw error;
      log.warn({ err: error }, 'a scorer ended while it loaded; trying once more');
      onRestart();
      return startInPlace();
    }
  }

  async function rest(): Promise<void> {
    const ending = scorer;
    scorer = null;
    await ending?.close();
  }

  async function work(): Promise<void> {
    for (let job = queue.shift(); job; job = queue.shift()) {
      try {
        scorer ??= await startTwice();
      } catch (error) {
        const problem = explain(error);
        if (error instanceof ModelRefused) refusal = problem;
        log.error({ err: error }, 'a model cannot be served');
        for (const hopeless of [job, ...queue.splice(0)]) hopeless.fail(problem);
        return;
      }
      try {
        job.done(await scorer.score(job.sequence));
      } catch (error) {
        log.warn({ err: error }, 'a scorer ended while it held a sequence');
        onRestart();
        void rest();
        if (retried.has(job)) job.fail(explain(error));
        else {
          retried.add(job);
          queue.unshift(job);
        }
      }
      if (places.wanted && performance.now() - startedAt > turnMs) await rest();
    }
  }

  function wake(): void {
    if (working || queue.length === 0) return;
    clearTimeout(idleTimer);
    working = work().finally(() => {
      working = null;
      idleSince = performance.now();
      idleTimer = setTimeout(onIdle, refusal ? refusalMs : idleMs).unref();
      if (places.wanted) void rest();
      wake(); // something may have come in between
    });
  }

  return {
    add(jobs) {
      queue.push(...jobs);
      wake();
    },
    remove(jobs) {
      for (const [position, job] of [...queue.entries()].reverse())
        if (jobs.has(job)) queue.splice(position, 1);
    },
    get refusal() {
      return refusal;
    },
    get idleSince() {
      return scorer && !working ? idleSince : null;
    },
    get loaded() {
      return scorer !== null;
    },
    get loading() {
      return working !== null && scorer === null;
    },
    rest,
    async close() {
      while (working) await working;
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
