// Statements on deliveries of webhook events. Migration 0007 keeps a job at the due_at of every pending one.

import type { Transaction } from './pool.ts';
import type { SealedRow } from './secrets.ts';

export type DeliveryState = 'pending' | 'delivered' | 'failed';

export interface DeliveryAttempt {
  at: string;
  /** of the answer; null when none came */
  status: number | null;
  /** null when it was delivered */
  error: string | null;
  duration_ms: number;
}

export interface DeliveryRow {
  id: string;
  webhook_id: string;
  event: string;
  /** bare UUIDs */
  data: Record<string, unknown>;
  state: DeliveryState;
  attempts: DeliveryAttempt[];
  due_at: Date | null;
  created_at: Date;
  finished_at: Date | null;
}

const columns = 'id, webhook_id, event, data, state, attempts, due_at, created_at, finished_at';

export async function insertDelivery(
  tx: Transaction,
  delivery: { projectId: string; id: string; webhookId: string; event: string; data: object },
): Promise<DeliveryRow> {
  const rows = await tx.query<DeliveryRow>(
    `insert into finegrain.webhook_deliveries (project_id, id, webhook_id, event, data)
     values ($1, $2, $3, $4, $5) returning ${columns}`,
    [delivery.projectId, delivery.id, delivery.webhookId, delivery.event, JSON.stringify(delivery.data)],
  );
  return rows[0]!;
}

/** A page, newest first, before the given id. */
export function selectDeliveries(
  tx: Transaction,
  webhookId: string,
  page: { after: string | null; limit: number },
): Promise<DeliveryRow[]> {
  return tx.query<DeliveryRow>(
    `select ${columns} from finegrain.webhook_deliveries
     where webhook_id = $1 and ($2::uuid is null or id < $2) order by id desc limit $3`,
    [webhookId, page.after, page.limit],
  );
}

export async function selectDelivery(
  tx: Transaction,
  webhookId: string,
  id: string,
): Promise<DeliveryRow | undefined> {
  return (
    await tx.query<DeliveryRow>(
      `select ${columns} from finegrain.webhook_deliveries where webhook_id = $1 and id = $2`,
      [webhookId, id],
    )
  )[0];
}

/** Begins a new series of attempts, now. undefined while one is under way. */
export async function restartDelivery(tx: Transaction, id: string): Promise<DeliveryRow | undefined> {
  return (
    await tx.query<DeliveryRow>(
      `update finegrain.webhook_deliveries
       set state = 'pending', tries = 0, due_at = clock_timestamp(), finished_at = null
       where id = $1 and state <> 'pending' returning ${columns}`,
      [id],
    )
  )[0];
}

/** Of the worker, which sees every project: names it. */
export interface DeliveryKey {
  projectId: string;
  deliveryId: string;
}

/** A delivery that is to be attempted, with the webhook that it goes to. */
export interface DueDeliveryRow extends SealedRow {
  event: string;
  data: Record<string, unknown>;
  created_at: Date;
  /** attempts of this series so far */
  tries: number;
  webhook_id: string;
  url: string;
  disabled: boolean;
}

/**
 * Takes a delivery that is due, for as long as the lease: nobody else takes it before that is over.
 * undefined when it is not due, ended, or gone.
 */
export async function beginAttempt(
  tx: Transaction,
  { projectId, deliveryId }: DeliveryKey,
  leaseSeconds: number,
): Promise<DueDeliveryRow | undefined> {
  return (
    await tx.query<DueDeliveryRow>(
      `update finegrain.webhook_deliveries d set due_at = clock_timestamp() + make_interval(secs => $3)
       from finegrain.webhooks w
       where d.project_id = $1 and d.id = $2 and d.state = 'pending' and d.due_at <= clock_timestamp()
         and w.project_id = d.project_id and w.id = d.webhook_id
       returning d.event, d.data, d.created_at, d.tries, d.webhook_id, w.url, w.key_id, w.sealed,
         w.disabled_at is not null as disabled`,
      [projectId, deliveryId, leaseSeconds],
    )
  )[0];
}

/** Writes down an attempt and what follows. False when the delivery has ended meanwhile. */
export async function recordAttempt(
  tx: Transaction,
  { projectId, deliveryId }: DeliveryKey,
  attempt: DeliveryAttempt,
  next: { state: 'delivered' | 'failed' } | { state: 'pending'; inSeconds: number },
): Promise<boolean> {
  const rows = await tx.query(
    `update finegrain.webhook_deliveries set
       attempts = attempts || $3::jsonb, tries = tries + 1, state = $4,
       due_at = case when $4 = 'pending' then clock_timestamp() + make_interval(secs => $5) end,
       finished_at = case when $4 <> 'pending' then clock_timestamp() end
     where project_id = $1 and id = $2 and state = 'pending' returning id`,
    [
      projectId,
      deliveryId,
      JSON.stringify([attempt]),
      next.state,
      next.state === 'pending' ? next.inSeconds : null,
    ],
  );
  return rows.length > 0;
}

/** Answers how many there were. */
export async function deleteOldDeliveries(tx: Transaction, days: number): Promise<number> {
  const rows = await tx.query(
    `delete from finegrain.webhook_deliveries
     where created_at < now() - make_interval(days => $1) and state <> 'pending' returning id`,
    [days],
  );
  return rows.length;
}
