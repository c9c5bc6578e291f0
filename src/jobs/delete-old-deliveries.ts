// Every night: deliveries of webhook events that nobody will ask about any more.
import type { Task } from 'graphile-worker';

export const crontab = '17 3 * * * delete-old-deliveries';

/** @param remove answers how many deliveries it deleted */
export function deleteOldDeliveriesTask(remove: () => Promise<number>): Task {
  return async (_payload, { logger }) => {
    const removed = await remove();
    if (removed > 0) logger.info(`${removed} old webhook deliveries were deleted`);
  };
}
