// Statements on minimal edits.
import type { Transaction } from './pool.ts';

export type EditStatus = 'accepted' | 'unchanged' | 'stale' | 'rejected';

export interface EditRow {
  id: string;
  pair_id: string;
  side: 'a' | 'b';
  edited_response: string;
  editor_kind: 'person' | 'llm' | 'program';
  editor_name: string;
  comment: string | null;
  status: EditStatus;
  alignment: unknown;
  alignment_version: number;
  edit_task_id: string | null;
  created_at: Date;
}

export type NewEdit = Omit<EditRow, 'created_at'>;

const columns =
  'id, pair_id, side, edited_response, editor_kind, editor_name, comment, status, alignment, alignment_version, edit_task_id, created_at';

export async function insertEdits(tx: Transaction, projectId: string, edits: NewEdit[]): Promise<void> {
  await tx.query(
    `insert into finegrain.edits (project_id, id, pair_id, side, edited_response, editor_kind, editor_name, comment, status, alignment, alignment_version, edit_task_id)
     select $1, n.id, n.pair_id, n.side, n.edited_response, n.editor_kind, n.editor_name, n.comment, n.status, n.alignment::jsonb, n.alignment_version, n.edit_task_id
     from unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::int[], $12::uuid[])
       as n (id, pair_id, side, edited_response, editor_kind, editor_name, comment, status, alignment, alignment_version, edit_task_id)`,
    [
      projectId,
      edits.map((edit) => edit.id),
      edits.map((edit) => edit.pair_id),
      edits.map((edit) => edit.side),
      edits.map((edit) => edit.edited_response),
      edits.map((edit) => edit.editor_kind),
      edits.map((edit) => edit.editor_name),
      edits.map((edit) => edit.comment),
      edits.map((edit) => edit.status),
      edits.map((edit) => JSON.stringify(edit.alignment)),
      edits.map((edit) => edit.alignment_version),
      edits.map((edit) => edit.edit_task_id),
    ],
  );
}

export async function selectEdit(tx: Transaction, id: string): Promise<EditRow | undefined> {
  return (await tx.query<EditRow>(`select ${columns} from finegrain.edits where id = $1`, [id]))[0];
}

/** The edit that a task brought. */
export async function selectEditOfTask(tx: Transaction, taskId: string): Promise<EditRow | undefined> {
  return (
    await tx.query<EditRow>(`select ${columns} from finegrain.edits where edit_task_id = $1`, [taskId])
  )[0];
}

export function selectEdits(
  tx: Transaction,
  filter: { pairId: string | null; datasetId: string | null; status: EditStatus | null },
  page: { after: string | null; limit: number },
): Promise<EditRow[]> {
  return tx.query<EditRow>(
    `select ${columns} from finegrain.edits e
     where ($1::uuid is null or e.pair_id = $1)
       and ($2::uuid is null or exists (
         select from finegrain.pairs p where p.project_id = e.project_id and p.id = e.pair_id and p.dataset_id = $2))
       and ($3::text is null or e.status = $3)
       and ($4::uuid is null or e.id > $4)
     order by e.id limit $5`,
    [filter.pairId, filter.datasetId, filter.status, page.after, page.limit],
  );
}

/** After a preference moved: edits of the preferred side are stale, those of the other side accepted again. */
export async function updateEditsOfPair(
  tx: Transaction,
  pairId: string,
  preference: 'a' | 'b',
): Promise<void> {
  await tx.query(
    `update finegrain.edits set status = case when side = $2 then 'stale' else 'accepted' end
     where pair_id = $1 and status in ('accepted', 'stale')`,
    [pairId, preference],
  );
}
