// Every hour: checkpoints that were overtaken, and what nobody asks of old runs any more. Hourly, as a run that works may
// write a large checkpoint every few minutes.
import type { Task } from 'graphile-worker';

export const crontab = '37 * * * * trim-runs';

/** @param trim answers how many of each it removed */
export function trimRunsTask(trim: () => Promise<object>): Task {
  return async (_payload, { logger }) => {
    const trimmed = Object.entries(await trim()).filter(([, count]) => count > 0);
    if (trimmed.length > 0)
      logger.info(`removed of runs: ${trimmed.map(([what, count]) => `${count} ${what}`).join(', ')}`);
  };
}
