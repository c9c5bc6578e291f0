// The statement that reads competing edits, for their agreement.
import type { Span } from '../domain/text.ts';
import { readByCursor } from './cursor.ts';
import type { Transaction } from './pool.ts';

export interface EditedResponseRow {
  pair_id: string;
  side: 'a' | 'b';
  response: string;
  /** one for each editor, by name */
  edits: {
    id: string;
    editor: { kind: 'person' | 'llm' | 'program'; name: string };
    /** the original spans of the changed segments; null when another version than asked for aligned the edit */
    changes: Span[] | null;
    /** null when `changes` are there */
    edited_response: string | null;
  }[];
}

/**
 * Responses of a dataset or of one pair that two editors or more have edited, with the last edit of each. Edits that a reviewer
 * rejected or superseded do not count; unchanged ones do.
 */
export function selectCompetingEdits(
  tx: Transaction,
  where: { datasetId: string | null; pairId: string | null; alignmentVersion: number },
): AsyncGenerator<EditedResponseRow> {
  return readByCursor(tx, {
    name: 'competing_edits',
    statement: `
     select p.id as pair_id, e.side, case e.side when 'a' then p.response_a else p.response_b end as response, e.edits
     from finegrain.pairs p
     cross join lateral (
       select side, jsonb_agg(jsonb_build_object(
         'id', id, 'editor', jsonb_build_object('kind', editor_kind, 'name', editor_name),
         'edited_response', case when alignment_version <> $3 then edited_response end,
         'changes', case when alignment_version = $3
           then jsonb_path_query_array(alignment, '$.segments[*] ? (@.kind != "keep").original') end)
         order by editor_name collate "C") as edits
       from (
         select distinct on (side, editor_name) * from finegrain.edits
         where project_id = p.project_id and pair_id = p.id and status not in ('rejected', 'superseded')
         order by side, editor_name, id desc) as last_of_editor
       group by side having count(*) > 1) e
     where ($1::uuid is null or p.dataset_id = $1) and ($2::uuid is null or p.id = $2)
     order by p.id, e.side`,
    parameters: [where.datasetId, where.pairId, where.alignmentVersion],
    pageRows: 100,
  });
}
