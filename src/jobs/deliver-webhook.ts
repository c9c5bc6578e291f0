// One attempt to deliver a webhook event. Migration 0007 makes the job, and the one of the next attempt.
import type { Task } from 'graphile-worker';

interface DeliveryKey {
  projectId: string;
  deliveryId: string;
}

/** @param attempt answers what to log about a failed attempt, null when there is nothing */
export function deliverWebhookTask(attempt: (key: DeliveryKey) => Promise<string | null>): Task {
  return async (payload, { logger }) => {
    const { project_id: projectId, delivery_id: deliveryId } = payload as {
      project_id: string;
      delivery_id: string;
    };
    const failure = await attempt({ projectId, deliveryId });
    if (failure !== null) logger.warn(failure);
  };
}
