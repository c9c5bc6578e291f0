// Statements on webhooks.

import type { Transaction } from './pool.ts';
import type { SealedRow } from './secrets.ts';

export interface WebhookRow {
  id: string;
  url: string;
  events: string[];
  description: string | null;
  failing_since: Date | null;
  disabled_at: Date | null;
  disabled_reason: string | null;
  created_at: Date;
}

const columns = 'id, url, events, description, failing_since, disabled_at, disabled_reason, created_at';

export async function insertWebhook(
  tx: Transaction,
  webhook: {
    projectId: string;
    id: string;
    url: string;
    events: string[];
    description: string | null;
    keyId: string;
    sealed: Buffer;
  },
): Promise<WebhookRow> {
  const rows = await tx.query<WebhookRow>(
    `insert into finegrain.webhooks (project_id, id, url, events, description, key_id, sealed)
     values ($1, $2, $3, $4, $5, $6, $7) returning ${columns}`,
    [
      webhook.projectId,
      webhook.id,
      webhook.url,
      webhook.events,
      webhook.description,
      webhook.keyId,
      webhook.sealed,
    ],
  );
  return rows[0]!;
}

export async function selectWebhook(tx: Transaction, id: string): Promise<WebhookRow | undefined> {
  return (await tx.query<WebhookRow>(`select ${columns} from finegrain.webhooks where id = $1`, [id]))[0];
}

/** A page in the order of creation, after the given id. */
export function selectWebhooks(
  tx: Transaction,
  page: { after: string | null; limit: number },
): Promise<WebhookRow[]> {
  return tx.query<WebhookRow>(
    `select ${columns} from finegrain.webhooks where $1::uuid is null or id > $1 order by id limit $2`,
    [page.after, page.limit],
  );
}

/** Its deliveries go with it. */
export async function deleteWebhook(tx: Transaction, id: string): Promise<boolean> {
  return (await tx.query('delete from finegrain.webhooks where id = $1 returning id', [id])).length > 0;
}

/** Of the worker, which sees every project: names it. */
export interface WebhookKey {
  projectId: string;
  webhookId: string;
}

/** Holds back others that write what came of this webhook's deliveries, so that they lock its rows in one order. */
export async function lockWebhook(tx: Transaction, { projectId, webhookId }: WebhookKey): Promise<void> {
  await tx.query('select from finegrain.webhooks where project_id = $1 and id = $2 for no key update', [
    projectId,
    webhookId,
  ]);
}

/** Something arrived: what was said against the webhook is forgotten. */
export async function recordHealthy(tx: Transaction, { projectId, webhookId }: WebhookKey): Promise<void> {
  await tx.query(
    `update finegrain.webhooks set failing_since = null, disabled_at = null, disabled_reason = null
     where project_id = $1 and id = $2 and (failing_since is not null or disabled_at is not null)`,
    [projectId, webhookId],
  );
}

/** Answers for how many seconds nothing has arrived. */
export async function recordFailing(tx: Transaction, { projectId, webhookId }: WebhookKey): Promise<number> {
  const rows = await tx.query<{ seconds: number }>(
    `update finegrain.webhooks set failing_since = coalesce(failing_since, clock_timestamp())
     where project_id = $1 and id = $2
     returning extract(epoch from clock_timestamp() - failing_since)::float8 as seconds`,
    [projectId, webhookId],
  );
  return rows[0]?.seconds ?? 0;
}

/** No more events for it, and no more attempts at those that wait. */
export async function disableWebhook(
  tx: Transaction,
  { projectId, webhookId }: WebhookKey,
  reason: string,
): Promise<void> {
  await tx.query(
    `with disabled as (
       update finegrain.webhooks set disabled_at = clock_timestamp(), disabled_reason = $3
       where project_id = $1 and id = $2 and disabled_at is null
     )
     update finegrain.webhook_deliveries set state = 'failed', due_at = null, finished_at = clock_timestamp()
     where project_id = $1 and webhook_id = $2 and state = 'pending'`,
    [projectId, webhookId, reason],
  );
}

export async function resealWebhook(
  tx: Transaction,
  { projectId, webhookId }: WebhookKey,
  { key_id, sealed }: SealedRow,
): Promise<void> {
  await tx.query('update finegrain.webhooks set key_id = $3, sealed = $4 where project_id = $1 and id = $2', [
    projectId,
    webhookId,
    key_id,
    sealed,
  ]);
}
