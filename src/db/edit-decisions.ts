// Statements on the decisions of reviewers.
import type { Transaction } from './pool.ts';

export type Decision = 'accept' | 'reject' | 'supersede';

export interface EditDecisionRow {
  id: string;
  edit_id: string;
  decision: Decision;
  reviewer: string;
  reason: string | null;
  superseded_by: string | null;
  created_at: Date;
}

const columns = 'id, edit_id, decision, reviewer, reason, superseded_by, created_at';

export async function insertEditDecision(
  tx: Transaction,
  projectId: string,
  decision: Omit<EditDecisionRow, 'created_at'>,
): Promise<void> {
  await tx.query(
    `insert into finegrain.edit_decisions (project_id, id, edit_id, decision, reviewer, reason, superseded_by)
     values ($1, $2, $3, $4, $5, $6, $7)`,
    [
      projectId,
      decision.id,
      decision.edit_id,
      decision.decision,
      decision.reviewer,
      decision.reason,
      decision.superseded_by,
    ],
  );
}

/** A page, oldest first, after the given id. */
export function selectEditDecisions(
  tx: Transaction,
  editId: string,
  page: { after: string | null; limit: number },
): Promise<EditDecisionRow[]> {
  return tx.query<EditDecisionRow>(
    `select ${columns} from finegrain.edit_decisions
     where edit_id = $1 and ($2::uuid is null or id > $2) order by id limit $3`,
    [editId, page.after, page.limit],
  );
}
