// Every hour: answers under an Idempotency-Key are forgotten after a day.
import type { Task } from 'graphile-worker';

export const crontab = '17 * * * * forget-answers';

/** @param forget answers how many there were */
export function forgetAnswersTask(forget: () => Promise<number>): Task {
  return async (_payload, { logger }) => {
    const forgotten = await forget();
    if (forgotten > 0) logger.info(`${forgotten} answer(s) under an Idempotency-Key were forgotten`);
  };
}
