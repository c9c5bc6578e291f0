// Tells a webhook what happened, at least once: signed (Standard Webhooks), tried again for about a day until a 2xx comes.
// Two short transactions with the request between them; a worker that dies in between leaves a lease that runs out.
import * as deliveries from '../db/webhook-deliveries.ts';
import * as webhooks from '../db/webhooks.ts';
import { formatId } from '../domain/ids.ts';
import { readRetryAfter } from '../domain/retry-after.ts';
import { maxTries, pingEvent, retryDelaySeconds, signedHeaders } from '../domain/webhooks.ts';
import { OutgoingError } from '../outgoing/errors.ts';
import type { Services } from './context.ts';
import { seal, UnreadableSecret, unseal } from './sealing.ts';
import { type DeliveryError, renderData, signingSecretPlace } from './webhooks.ts';

export type DeliveryServices = Pick<Services, 'db' | 'secretKeys' | 'outgoing'>;

const timeoutMs = 15_000;
const leaseSeconds = 120; // longer than a worker can be at it
const disabledAfterSeconds = 3 * 86_400;
const keptDays = 30;

interface Outcome {
  status: number | null;
  error: DeliveryError | null;
  retryAfterSeconds: number | null;
  /** for the operator's log; may name addresses of the inside */
  detail: string;
}

/** Attempts a delivery that is due. Answers what to log about a failure, null when there was none. */
export async function attemptDelivery(
  services: DeliveryServices,
  key: deliveries.DeliveryKey,
): Promise<string | null> {
  const due = await services.db.transaction(null, (tx) => deliveries.beginAttempt(tx, key, leaseSeconds));
  if (!due) return null;
  const at = new Date();
  const { status, error, retryAfterSeconds, detail } = await send(services, key, due, at);
  const attempt = { at: at.toISOString(), status, error, duration_ms: Date.now() - at.getTime() };
  const tries = due.tries + 1;
  const last = due.event === pingEvent || due.disabled || tries >= maxTries;
  const next =
    error === null
      ? { state: 'delivered' as const }
      : last
        ? { state: 'failed' as const }
        : {
            state: 'pending' as const,
            inSeconds: retryDelaySeconds(tries, Math.random(), retryAfterSeconds),
          };
  const webhook = { projectId: key.projectId, webhookId: due.webhook_id };
  await services.db.transaction(null, async (tx) => {
    await webhooks.lockWebhook(tx, webhook);
    if (!(await deliveries.recordAttempt(tx, key, attempt, next))) return;
    if (error === null) return webhooks.recordHealthy(tx, webhook);
    if (due.event === pingEvent) return;
    const seconds = await webhooks.recordFailing(tx, webhook);
    // at the end of a delivery only: after a quiet week one failed attempt proves nothing
    if (last && seconds > disabledAfterSeconds)
      await webhooks.disableWebhook(tx, webhook, disabledReason(seconds, attempt));
  });
  return error && `webhook ${formatId('webhook', due.webhook_id)}: ${error}: ${detail}`;
}

function disabledReason(failingSeconds: number, { status, error }: deliveries.DeliveryAttempt): string {
  const days = Math.floor(failingSeconds / 86_400);
  return `Nothing was delivered for ${days} days; the last attempt ended with ${status === null ? error : `${error} (${status})`}. A test or a redelivery that arrives enables the webhook again.`;
}

async function send(
  services: DeliveryServices,
  { projectId, deliveryId }: deliveries.DeliveryKey,
  due: deliveries.DueDeliveryRow,
  at: Date,
): Promise<Outcome> {
  const body = JSON.stringify({
    type: due.event,
    timestamp: due.created_at.toISOString(),
    data: renderData(due.data),
  });
  try {
    const signingSecret = await readSigningSecret(services, projectId, due);
    const answer = await services.outgoing.request(due.url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...signedHeaders(signingSecret, {
          id: formatId('webhookDelivery', deliveryId),
          body,
          unixSeconds: Math.floor(at.getTime() / 1000),
        }),
      },
      body,
      timeoutMs,
      maxAnswerBytes: 0,
    });
    return judge(answer.status, answer.headers['retry-after']);
  } catch (error) {
    const code = error instanceof OutgoingError ? error.code : 'secret_unreadable';
    if (!(error instanceof OutgoingError || error instanceof UnreadableSecret)) throw error;
    return { status: null, error: code, retryAfterSeconds: null, detail: error.message };
  }
}

function judge(status: number, retryAfter: string | string[] | undefined): Outcome {
  const delivered = status >= 200 && status < 300;
  const redirected = status >= 300 && status < 400;
  return {
    status,
    error: delivered ? null : redirected ? 'redirected' : 'not_2xx',
    retryAfterSeconds: readRetryAfter([retryAfter].flat()[0], Date.now()),
    detail: `it answered ${status}`,
  };
}

/** Sealed again under the current key if that is another: a webhook lives long, and its secret is never written anew. */
async function readSigningSecret(
  { db, secretKeys }: DeliveryServices,
  projectId: string,
  due: deliveries.DueDeliveryRow,
): Promise<string> {
  const place = signingSecretPlace(projectId, due.webhook_id);
  const secret = unseal(secretKeys, place, { keyId: due.key_id, bytes: due.sealed });
  if (secretKeys !== null && due.key_id !== secretKeys.current.id) {
    const { keyId, bytes } = seal(secretKeys, place, secret);
    await db.transaction(null, (tx) =>
      webhooks.resealWebhook(tx, { projectId, webhookId: due.webhook_id }, { key_id: keyId, sealed: bytes }),
    );
  }
  return secret;
}

/** Forgets deliveries that ended and are older than 30 days. Answers how many. */
export function deleteOldDeliveries({ db }: Pick<Services, 'db'>): Promise<number> {
  return db.transaction(null, (tx) => deliveries.deleteOldDeliveries(tx, keptDays));
}
