// A slice of the time of a worker at a long piece of work, under a lease that heartbeats renew (migrations 0019, 0022): ended
// by its own end, by the worker's, by trouble that may pass, or because another has taken over. The next one goes on.
import { setTimeout as sleep } from 'node:timers/promises';

export interface SliceTimes {
  /** no batch is begun after it */
  sliceMs: number;
  heartbeatMs: number;
  /** renewed by each heartbeat */
  leaseSeconds: number;
  /** until the next slice after one that was in trouble, doubled with each further one */
  troubleSeconds: number;
}

export const usualTimes: SliceTimes = {
  sliceMs: 30_000,
  heartbeatMs: 5000,
  leaseSeconds: 30,
  troubleSeconds: 15,
};

const longestTroubleSeconds = 900;
const troublesInRow = 8;

export interface SliceEnd {
  restSeconds: number;
  /** slices in a row without progress; null: as many as are counted */
  troubles: number | null;
}

/** What is done in the slice, and what becomes of it. */
export interface SliceWork<Reason extends string> {
  /** as the log names it */
  name: string;
  /** false: the work was cancelled, or another goes on with it */
  renew(): Promise<boolean>;
  /** @param endsAt no batch is begun after it */
  work(stop: AbortSignal, lost: AbortController, endsAt: number): Promise<void>;
  end(end: SliceEnd): Promise<void>;
  /** null: trouble that may pass */
  failureOf(error: unknown): { reason: Reason; detail: string } | null;
  giveUp(failure: { reason: Reason | 'no_progress'; detail: string }): Promise<void>;
}

/**
 * @param troubles slices in a row that began without progress, this one included
 * @returns what to log, null when there is nothing
 */
export async function workInSlice<Reason extends string>(
  { name, renew, work, end, failureOf, giveUp }: SliceWork<Reason>,
  { troubles, times, signal }: { troubles: number; times: SliceTimes; signal: AbortSignal },
): Promise<string | null> {
  const lost = new AbortController();
  const stop = AbortSignal.any([lost.signal, signal]);
  const done = new AbortController();
  const beating = heartbeats().catch(() => lost.abort()); // the lease runs out
  const endsAt = Date.now() + times.sliceMs;
  try {
    if (troubles > troublesInRow)
      return await gaveUp({
        reason: 'no_progress',
        detail: 'Slice after slice ended without any progress. The log of the service says more.',
      });
    await work(stop, lost, endsAt);
    return null;
  } catch (error) {
    if (lost.signal.aborted) return null; // cancelled, or another goes on
    if (signal.aborted) {
      await end({ restSeconds: 0, troubles: troubles - 1 });
      return null;
    }
    const failure = failureOf(error);
    if (failure) return await gaveUp(failure);
    const restSeconds = Math.min(longestTroubleSeconds, times.troubleSeconds * 2 ** (troubles - 1));
    await end({ restSeconds, troubles: null });
    return `${name} rests for ${restSeconds} s: ${(error as Error).stack}`;
  } finally {
    done.abort();
    await beating;
  }

  async function gaveUp(failure: { reason: Reason | 'no_progress'; detail: string }): Promise<string> {
    await giveUp(failure);
    return `${name} is given up: ${failure.detail}`;
  }

  async function heartbeats(): Promise<void> {
    for (;;) {
      await sleep(times.heartbeatMs, undefined, { signal: done.signal }).catch(() => {}); // there is nothing left to hold
      if (done.signal.aborted || stop.aborted) return;
      if (!(await renew())) lost.abort();
    }
  }
}
