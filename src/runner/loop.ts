// The life of a runner: take the oldest run that fits, execute it, look again. It looks after each run, when Postgres
// says that one was queued, and every poll interval in case nobody said so.

import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import {
  claimRun,
  type Runner,
  type RunnerServices,
  registerRunner,
  stopRunner,
} from '../services/run-execution.ts';
import { type AttemptEnd, type AttemptSettings, executeAttempt } from './attempt.ts';
import { sweepWorkFolders } from './work-folders.ts';

export interface RunnerOptions extends Runner, Omit<AttemptSettings, 'leaseSeconds'> {
  /** take one run if there is one, then return */
  once: boolean;
}

/** A pause that `wake` ends early; a `wake` during work ends the next pause at once. */
export function openDoorbell() {
  let rung = false;
  let answer: (() => void) | null = null;
  return {
    wake(): void {
      rung = true;
      answer?.();
    },
    async wait(ms: number): Promise<void> {
      if (!rung) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, ms);
          answer = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      }
      rung = false;
      answer = null;
    },
  };
}

/**
 * Runs until `stop` is aborted; never throws for the sake of a run.
 * @throws with `once` what stood against taking the run or against its end, for whoever started this process
 */
export async function runRunner(
  services: RunnerServices,
  options: RunnerOptions,
  doorbell: ReturnType<typeof openDoorbell>,
  stop: AbortSignal,
  log: Logger,
): Promise<void> {
  stop.addEventListener('abort', doorbell.wake);
  log.info(
    { runner: options.name, hardware: options.hardware, labels: options.labels },
    'the runner looks for runs',
  );
  let registered = false;
  let givenUp = 0; // attempts in a row
  const look = async (): Promise<boolean> => {
    try {
      if (!registered) await registerRunner(services, options);
      registered = true;
      const run = await claimRun(services, options);
      if (!run) {
        await sweepWorkFolders(services, options.workFolders);
        return false;
      }
      const runLog = log.child({ run: run.id, kind: run.kind, attempt: run.fence });
      runLog.info('the run is taken');
      const end: AttemptEnd = await executeAttempt(services, options, run, stop, runLog);
      runLog.info({ end }, 'the attempt has ended');
      givenUp = end === 'gave_up' ? givenUp + 1 : 0;
      await sweepWorkFolders(services, options.workFolders);
      return true;
    } catch (error) {
      if (options.once) throw error;
      log.error({ err: error }, 'a run could not be taken or ended');
      registered = false; // another database may stand in its place by then, or have forgotten this runner
      return false; // wait before the next try
    }
  };
  try {
    while (!stop.aborted) {
      const found = await look();
      if (options.once) break;
      if (givenUp > 0) await rest(restMs(options.pollSeconds, givenUp), stop);
      else if (!found && !stop.aborted) await doorbell.wait(options.pollSeconds * 1000);
    }
  } finally {
    await stopRunner(services, options).catch((error) =>
      log.warn({ err: error }, 'the runner could not say that it stops'),
    );
  }
}

/**
 * A machine in trouble takes its time, so that it does not use up the attempts of one run after the other; but not longer
 * than a runner may be silent and count as live.
 */
function restMs(pollSeconds: number, givenUp: number): number {
  return pollSeconds * 1000 * Math.min(givenUp, 3);
}

const rest = (ms: number, stop: AbortSignal): Promise<void> =>
  sleep(ms, undefined, { signal: stop }).catch(() => {}); // aborted: no rest is needed
