// Every minute: runs whose runner was lost are queued again. Runners do the same before they claim; this also serves
// when none is left.
import type { Task } from 'graphile-worker';

export const crontab = '* * * * * reap-lost-attempts';

/** @param reap answers how many attempts were lost */
export function reapLostAttemptsTask(reap: () => Promise<number>): Task {
  return async (_payload, { logger }) => {
    const reaped = await reap();
    if (reaped > 0) logger.info(`${reaped} attempt(s) were lost with their runners`);
  };
}
