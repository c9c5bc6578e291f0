// Webhooks: URLs of a project that are told what happens in it, and what was told. Telling is webhook-delivery.ts.
import { randomBytes } from 'node:crypto';
import { v7 as uuidv7 } from 'uuid';
import type { Transaction } from '../db/pool.ts';
import * as deliveries from '../db/webhook-deliveries.ts';
import * as db from '../db/webhooks.ts';
import { formatId, type IdKind, parseId } from '../domain/ids.ts';
import { formatSigningSecret, pingEvent, type WebhookEvent } from '../domain/webhooks.ts';
import { notFound, Problem } from '../errors.ts';
import { OutgoingError, outgoingErrors } from '../outgoing/errors.ts';
import { recordAct } from './audit.ts';
import type { Caller, Services } from './context.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { type Place, seal } from './sealing.ts';

export interface Webhook {
  id: string;
  url: string;
  events: WebhookEvent[];
  description: string | null;
  state: 'active' | 'disabled';
  failing_since: string | null;
  disabled_at: string | null;
  disabled_reason: string | null;
  created_at: string;
}

function render(row: db.WebhookRow): Webhook {
  return {
    id: formatId('webhook', row.id),
    url: row.url,
    events: row.events as WebhookEvent[],
    description: row.description,
    state: row.disabled_at === null ? 'active' : 'disabled',
    failing_since: row.failing_since?.toISOString() ?? null,
    disabled_at: row.disabled_at?.toISOString() ?? null,
    disabled_reason: row.disabled_reason,
    created_at: row.created_at.toISOString(),
  };
}

/** Where a webhook's signing secret is sealed for. No secret of the project has a name like this. */
export const signingSecretPlace = (projectId: string, webhookId: string): Place => ({
  projectId,
  name: `webhook/${webhookId}`,
});

/** The answer is the only place where the signing secret is ever seen. @throws Problem unprocessable */
export async function createWebhook(
  { db: database, secretKeys, outgoing }: Services,
  caller: Caller,
  input: { url: string; events: WebhookEvent[]; description?: string | null },
): Promise<Webhook & { secret: string }> {
  try {
    outgoing.check(input.url);
  } catch (error) {
    if (!(error instanceof OutgoingError)) throw error;
    throw new Problem('unprocessable', error.message, {
      errors: [{ pointer: '/url', detail: error.message, in: 'body' }],
    });
  }
  const { projectId } = caller;
  const id = uuidv7();
  const secret = formatSigningSecret(randomBytes(32));
  const { keyId, bytes } = seal(secretKeys, signingSecretPlace(projectId, id), secret);
  return database.transaction(projectId, async (tx) => {
    const row = await db.insertWebhook(tx, {
      projectId,
      id,
      url: input.url,
      events: input.events,
      description: input.description ?? null,
      keyId,
      sealed: bytes,
    });
    const webhook = render(row);
    await recordAct(tx, caller, {
      action: 'webhook.created',
      subject: webhook.id,
      detail: { host: new URL(input.url).host, events: input.events }, // a path may hold a secret
    });
    return { ...webhook, secret };
  });
}

export function listWebhooks(
  { db: database, cursors }: Services,
  caller: Caller,
  request: PageRequest,
): Promise<Page<Webhook>> {
  return database.transaction(caller.projectId, (tx) =>
    readPage(
      { cursors, tx, projectId: caller.projectId, list: 'webhooks' },
      request,
      (page) => db.selectWebhooks(tx, page),
      render,
    ),
  );
}

/** @throws Problem not_found */
async function findWebhook(tx: Transaction, id: string): Promise<db.WebhookRow> {
  const uuid = parseId('webhook', id);
  const row = uuid ? await db.selectWebhook(tx, uuid) : undefined;
  if (!row) throw notFound('webhook', id);
  return row;
}

export function getWebhook({ db: database }: Services, caller: Caller, id: string): Promise<Webhook> {
  return database.transaction(caller.projectId, async (tx) => render(await findWebhook(tx, id)));
}

/** What was not delivered yet is not delivered any more. @throws Problem not_found */
export function deleteWebhook({ db: database }: Services, caller: Caller, id: string): Promise<void> {
  return database.transaction(caller.projectId, async (tx) => {
    const uuid = parseId('webhook', id);
    if (!uuid || !(await db.deleteWebhook(tx, uuid))) throw notFound('webhook', id);
    await recordAct(tx, caller, { action: 'webhook.deleted', subject: id, detail: {} });
  });
}

/** Why an attempt did not deliver, for the project to see. */
export const deliveryErrors = {
  ...outgoingErrors,
  not_2xx: 'The receiver answered with a status other than 2xx',
  redirected: 'The receiver answered with a redirect, which is not followed',
  secret_unreadable: 'The service could not read the signing secret, for lack of the key of its operator',
} as const;

export type DeliveryError = keyof typeof deliveryErrors;

export interface Delivery {
  id: string;
  webhook_id: string;
  type: string;
  data: Record<string, unknown>;
  state: deliveries.DeliveryState;
  attempts: deliveries.DeliveryAttempt[];
  next_attempt_at: string | null;
  created_at: string;
  finished_at: string | null;
}

const idsInData: Record<string, IdKind> = {
  run_id: 'run',
  model_id: 'model',
  edit_request_id: 'editRequest',
  dataset_id: 'dataset',
  webhook_id: 'webhook',
  score_job_id: 'scoreJob',
  evaluation_id: 'evaluation',
};

/** What an event is about, as outsiders see it: the database knows bare UUIDs. */
export function renderData(data: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(data).map(([name, value]) => {
      const kind = idsInData[name];
      return [name, kind && typeof value === 'string' ? formatId(kind, value) : value];
    }),
  );
}

function renderDelivery(row: deliveries.DeliveryRow): Delivery {
  return {
    id: formatId('webhookDelivery', row.id),
    webhook_id: formatId('webhook', row.webhook_id),
    type: row.event,
    data: renderData(row.data),
    state: row.state,
    attempts: row.attempts,
    next_attempt_at: row.due_at?.toISOString() ?? null,
    created_at: row.created_at.toISOString(),
    finished_at: row.finished_at?.toISOString() ?? null,
  };
}

/** Newest first. @throws Problem not_found */
export function listDeliveries(
  { db: database, cursors }: Services,
  caller: Caller,
  webhookId: string,
  request: PageRequest,
): Promise<Page<Delivery>> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id } = await findWebhook(tx, webhookId);
    return readPage(
      { cursors, tx, projectId: caller.projectId, list: `deliveries of ${id}` },
      request,
      (page) => deliveries.selectDeliveries(tx, id, page),
      renderDelivery,
    );
  });
}

/** Sends an ended delivery again, under its old id. @throws Problem not_found; conflict while it is pending */
export function redeliver(
  { db: database }: Services,
  caller: Caller,
  webhookId: string,
  deliveryId: string,
): Promise<Delivery> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id } = await findWebhook(tx, webhookId);
    const uuid = parseId('webhookDelivery', deliveryId);
    const found = uuid ? await deliveries.selectDelivery(tx, id, uuid) : undefined;
    if (!found) throw notFound('delivery', deliveryId);
    const row = await deliveries.restartDelivery(tx, found.id);
    if (!row)
      throw new Problem(
        'conflict',
        'The delivery is still pending: it is attempted again without being asked.',
      );
    return renderDelivery(row);
  });
}

/** Sends a ping, to a disabled webhook too. It is attempted once. @throws Problem not_found */
export function testWebhook(
  { db: database }: Services,
  caller: Caller,
  webhookId: string,
): Promise<Delivery> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id } = await findWebhook(tx, webhookId);
    return renderDelivery(
      await deliveries.insertDelivery(tx, {
        projectId: caller.projectId,
        id: uuidv7(),
        webhookId: id,
        event: pingEvent,
        data: { webhook_id: id },
      }),
    );
  });
}
