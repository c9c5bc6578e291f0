// The log of administrative acts: who changed what a project lets others do or see. An event is written in the
// transaction of its act, so there is none without the other; nobody can change or remove it (migration 0006).
import { v7 as uuidv7 } from 'uuid';
import * as db from '../db/audit.ts';
import type { Transaction } from '../db/pool.ts';
import { formatId } from '../domain/ids.ts';
import type { Caller, Services } from './context.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';

/** What is recorded, and what `subject` then names. */
export const acts = {
  'project.created': 'the new project; in the log of the project of the bootstrap key',
  'key.created': 'the new key',
  'key.rotated': 'the key that has a successor now',
  'key.revoked': 'the key',
  'alias.set': 'the name of the alias',
  'alias.removed': 'the name of the alias',
  'model.registered': 'the model; those that runs make are in no log',
  'model.deleted': 'the model',
  'dataset.archived': 'the dataset',
  'dataset.restored': 'the dataset',
  'secret.set': 'the name of the secret',
  'secret.removed': 'the name of the secret',
  'webhook.created': 'the webhook',
  'webhook.deleted': 'the webhook',
} as const;

export type Action = keyof typeof acts;

export interface Act {
  action: Action;
  /** a public id, or the name of what has none */
  subject: string;
  /** what helps to understand the act years later; never a secret */
  detail: Record<string, unknown>;
}

/** Records an act in the log of the caller's project, as part of the act's own transaction. */
export function recordAct(tx: Transaction, caller: Caller, act: Act): Promise<void> {
  return db.insertAuditEvent(tx, {
    ...act,
    projectId: caller.projectId,
    id: uuidv7(),
    keyId: caller.keyId,
    requestId: caller.requestId,
    address: caller.address,
  });
}

export interface AuditEvent extends Act {
  id: string;
  occurred_at: string;
  /** the id of a key, or `bootstrap` */
  actor: string;
  request_id: string;
  address: string;
}

function render(row: db.AuditEventRow): AuditEvent {
  return {
    id: formatId('auditEvent', row.id),
    occurred_at: row.occurred_at.toISOString(),
    actor: row.key_id === null ? 'bootstrap' : formatId('key', row.key_id),
    request_id: row.request_id,
    address: row.address,
    action: row.action as Action,
    subject: row.subject,
    detail: row.detail,
  };
}

/** Newest first. */
export function listAuditEvents(
  { db: database, cursors }: Services,
  caller: Caller,
  request: PageRequest & { action?: Action; subject?: string },
): Promise<Page<AuditEvent>> {
  const filter = { action: request.action ?? null, subject: request.subject ?? null };
  return database.transaction(caller.projectId, (tx) =>
    readPage(
      { cursors, tx, projectId: caller.projectId, list: 'audit_events' },
      request,
      (page) => db.selectAuditEvents(tx, { ...page, ...filter }),
      render,
    ),
  );
}
