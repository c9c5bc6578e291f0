// Statements on the log of administrative acts.
import type { Transaction } from './pool.ts';

export interface AuditEventRow {
  id: string;
  occurred_at: Date;
  key_id: string | null;
  request_id: string;
  address: string;
  action: string;
  subject: string;
  detail: Record<string, unknown>;
}

export async function insertAuditEvent(
  tx: Transaction,
  event: {
    projectId: string;
    id: string;
    keyId: string | null;
    requestId: string;
    address: string;
    action: string;
    subject: string;
    detail: Record<string, unknown>;
  },
): Promise<void> {
  await tx.query(
    `insert into finegrain.audit_events (project_id, id, key_id, request_id, address, action, subject, detail)
     values ($1, $2, $3, $4, $5, $6, $7, $8)`,
    [
      event.projectId,
      event.id,
      event.keyId,
      event.requestId,
      event.address,
      event.action,
      event.subject,
      event.detail,
    ],
  );
}

/** A page from the newest to the oldest, before the given id. */
export function selectAuditEvents(
  tx: Transaction,
  page: { after: string | null; limit: number; action: string | null; subject: string | null },
): Promise<AuditEventRow[]> {
  return tx.query<AuditEventRow>(
    `select id, occurred_at, key_id, request_id, address, action, subject, detail from finegrain.audit_events
     where ($1::uuid is null or id < $1) and ($3::text is null or action = $3) and ($4::text is null or subject = $4)
     order by id desc limit $2`,
    [page.after, page.limit, page.action, page.subject],
  );
}
