// Webhooks without the network: what is told, how it is signed (https://www.standardwebhooks.com), when it is tried again.
import { createHmac } from 'node:crypto';

/** What moves each on is a trigger in migration 0007; of score jobs, in 0019. */
export const webhookEvents = {
  'run.succeeded': 'A run ended well; its model, if it made one, is registered',
  'run.failed': 'A run failed for good: its attempts are used up, or its trainer gave up',
  'run.cancelled': 'A run was cancelled and has stopped',
  'edit_request.completed': 'Every task of an edit request is done, or was given up',
  'model.registered': 'A model was registered',
  'score_job.succeeded': 'A score job is done; its result can be downloaded',
  'score_job.failed': 'A score job was given up; it says why',
  'evaluation.succeeded': 'An evaluation has every judgement that was wanted',
  'evaluation.failed': 'An evaluation was given up; it says why',
} as const;

export type WebhookEvent = keyof typeof webhookEvents;

/** Sent by the test route only. */
export const pingEvent = 'ping';

const secretPrefix = 'whsec_';

/** @param key 24 to 64 random bytes */
export const formatSigningSecret = (key: Buffer): string => secretPrefix + key.toString('base64');

/** The headers of one attempt. `id` and body stay the same in all attempts, the time does not. */
export function signedHeaders(
  signingSecret: string,
  message: { id: string; body: string; unixSeconds: number },
): Record<'webhook-id' | 'webhook-timestamp' | 'webhook-signature', string> {
  const key = Buffer.from(signingSecret.slice(secretPrefix.length), 'base64');
  const content = `${message.id}.${message.unixSeconds}.${message.body}`;
  return {
    'webhook-id': message.id,
    'webhook-timestamp': String(message.unixSeconds),
    'webhook-signature': `v1,${createHmac('sha256', key).update(content).digest('base64')}`,
  };
}

/** With the delays below the last one is tried 18 to 27 hours after the first. */
export const maxTries = 13;

const firstDelaySeconds = 20;
const longestRetryAfterSeconds = 6 * 3600;

/**
 * Seconds until the next attempt: doubled with each, moved by up to a fifth, so that a receiver that comes back is not met
 * by everything at once. A receiver may ask for more, up to six hours.
 * @param tries failed attempts so far, at least 1
 * @param random from 0 to 1
 */
export function retryDelaySeconds(tries: number, random: number, retryAfterSeconds: number | null): number {
  const delay = firstDelaySeconds * 2 ** (tries - 1) * (0.8 + 0.4 * random);
  return Math.max(delay, Math.min(retryAfterSeconds ?? 0, longestRetryAfterSeconds));
}
