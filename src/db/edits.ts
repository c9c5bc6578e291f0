// Statements on minimal edits.
import type { Transaction } from './pool.ts';

export const editStatuses = ['pending', 'accepted', 'unchanged', 'stale', 'rejected', 'superseded'] as const;
export type EditStatus = (typeof editStatuses)[number];

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
  /** when a reviewer decided last */
  decided_at: Date | null;
  superseded_by: string | null;
  /** of the prompt that the service's own editor was asked with; null for all others */
  prompt_version: string | null;
  created_at: Date;
}

export type NewEdit = Omit<EditRow, 'decided_at' | 'superseded_by' | 'created_at'>;

const columns =
  'id, pair_id, side, edited_response, editor_kind, editor_name, comment, status, alignment, alignment_version, edit_task_id, prompt_version, decided_at, superseded_by, created_at';

export async function insertEdits(tx: Transaction, projectId: string, edits: NewEdit[]): Promise<void> {
  await tx.query(
    `insert into finegrain.edits (project_id, id, pair_id, side, edited_response, editor_kind, editor_name, comment, status, alignment, alignment_version, edit_task_id, prompt_version)
     select $1, n.id, n.pair_id, n.side, n.edited_response, n.editor_kind, n.editor_name, n.comment, n.status, n.alignment::jsonb, n.alignment_version, n.edit_task_id, n.prompt_version
     from unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::int[], $12::uuid[], $13::text[])
       as n (id, pair_id, side, edited_response, editor_kind, editor_name, comment, status, alignment, alignment_version, edit_task_id, prompt_version)`,
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
      edits.map((edit) => edit.prompt_version),
    ],
  );
}

/** What makes two edits the same. */
export interface EditKey {
  pairId: string;
  side: 'a' | 'b';
  editorKind: string;
  editorName: string;
  text: string;
}

/** The positions of those that are stored. */
export async function selectStoredEdits(tx: Transaction, keys: EditKey[]): Promise<Set<number>> {
  const rows = await tx.query<{ position: number }>(
    `with stored as materialized (
       select pair_id, side, editor_kind, editor_name, edited_response from finegrain.edits where pair_id = any ($6::uuid[])
     )
     select distinct k.position - 1 as position
     from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[])
       with ordinality as k (pair_id, side, editor_kind, editor_name, edited_response, position)
     join stored using (pair_id, side, editor_kind, editor_name, edited_response)`,
    [
      keys.map((key) => key.pairId),
      keys.map((key) => key.side),
      keys.map((key) => key.editorKind),
      keys.map((key) => key.editorName),
      keys.map((key) => key.text),
      [...new Set(keys.map((key) => key.pairId))],
    ],
  );
  return new Set(rows.map(({ position }) => position));
}

export async function selectEdit(tx: Transaction, id: string): Promise<EditRow | undefined> {
  return (await tx.query<EditRow>(`select ${columns} from finegrain.edits where id = $1`, [id]))[0];
}

/** The edit as it stays until the transaction ends. */
export async function lockEdit(tx: Transaction, id: string): Promise<EditRow | undefined> {
  return (
    await tx.query<EditRow>(`select ${columns} from finegrain.edits where id = $1 for no key update`, [id])
  )[0];
}

/** The edit that a task brought. */
export async function selectEditOfTask(tx: Transaction, taskId: string): Promise<EditRow | undefined> {
  return (
    await tx.query<EditRow>(`select ${columns} from finegrain.edits where edit_task_id = $1`, [taskId])
  )[0];
}

export function selectEdits(
  tx: Transaction,
  filter: {
    pairId: string | null;
    datasetId: string | null;
    status: EditStatus | null;
    editorName: string | null;
    minimal: boolean | null;
  },
  page: { after: string | null; limit: number },
): Promise<EditRow[]> {
  return tx.query<EditRow>(
    `select ${columns} from finegrain.edits e
     where ($1::uuid is null or e.pair_id = $1)
       and ($2::uuid is null or exists (
         select from finegrain.pairs p where p.project_id = e.project_id and p.id = e.pair_id and p.dataset_id = $2))
       and ($3::text is null or e.status = $3)
       and ($4::text is null or e.editor_name = $4)
       and ($5::boolean is null or (e.alignment -> 'minimal')::boolean = $5)
       and ($6::uuid is null or e.id > $6)
     order by e.id limit $7`,
    [
      filter.pairId,
      filter.datasetId,
      filter.status,
      filter.editorName,
      filter.minimal,
      page.after,
      page.limit,
    ],
  );
}

export interface ExportedEditRow
  extends Omit<EditRow, 'alignment' | 'alignment_version' | 'edit_task_id' | 'decided_at' | 'superseded_by'> {
  pair_external_id: string | null;
}

/** The next edits of a dataset: at most `limit`, and no more bytes of text than about `bytes`, but one at least. */
export function selectEditsForExport(
  tx: Transaction,
  filter: { datasetId: string; status: EditStatus | null },
  page: { after: string | null; limit: number; bytes: number },
): Promise<ExportedEditRow[]> {
  return tx.query<ExportedEditRow>(
    `with page as (
       select e.*, sum(e.size) over (order by e.id) - e.size as before from (
         select e.id, p.external_id as pair_external_id, octet_length(e.edited_response) + coalesce(octet_length(e.comment), 0) as size
         from finegrain.edits e join finegrain.pairs p on p.project_id = e.project_id and p.id = e.pair_id
         where p.dataset_id = $1 and ($2::text is null or e.status = $2) and ($3::uuid is null or e.id > $3)
         order by e.id limit $4) e
     )
     select id, e.pair_id, page.pair_external_id, e.side, e.edited_response, e.editor_kind, e.editor_name, e.comment, e.prompt_version, e.status, e.created_at
     from page join finegrain.edits e using (id)
     where page.before < $5
     order by id`,
    [filter.datasetId, filter.status, page.after, page.limit, page.bytes],
  );
}

/** After a preference moved: edits of the preferred side are stale, others accepted again. */
export async function updateEditsOfPair(
  tx: Transaction,
  pairId: string,
  preference: 'a' | 'b' | null,
): Promise<void> {
  await tx.query(
    `update finegrain.edits set status = case when side = $2 then 'stale' else 'accepted' end
     where pair_id = $1 and status in ('accepted', 'stale')`,
    [pairId, preference],
  );
}

export async function updateDecided(
  tx: Transaction,
  id: string,
  { status, supersededBy }: { status: EditStatus; supersededBy: string | null },
): Promise<EditRow> {
  const rows = await tx.query<EditRow>(
    `update finegrain.edits set status = $2, superseded_by = $3, decided_at = clock_timestamp()
     where id = $1 returning ${columns}`,
    [id, status, supersededBy],
  );
  return rows[0]!;
}
