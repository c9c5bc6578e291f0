// Rows of an import of edits. What an export carries beside an edit goes by; any other column is an error, as an edit has
// nowhere to keep it.
import { type TSchema, Type } from 'typebox';
import { Compile } from 'typebox/compile';
import { type EditStatus, editStatuses } from '../db/edits.ts';
import { pointerToken } from '../errors.ts';
import type { Edit, Editor } from './edits.ts';
import { firstError, maxTextLength, type RowError } from './pair-rows.ts';

export interface EditRowInput {
  pair_id: string | null;
  dataset_id: string | null;
  pair_external_id: string | null;
  side: 'a' | 'b' | null;
  edited_response: string;
  editor: Editor;
  comment: string | null;
  /** of an edit of the service's own editor */
  prompt_version: string | null;
  /** as it was exported; null for a new one */
  status: EditStatus | null;
}

const OrNull = <T extends TSchema>(schema: T) => Type.Optional(Type.Union([schema, Type.Null()]));
const Name = Type.String({ maxLength: 500 });

const format = Compile(
  Type.Object({
    pair_id: OrNull(Name),
    dataset_id: OrNull(Name),
    pair_external_id: OrNull(Name),
    side: OrNull(Type.Enum(['a', 'b'])),
    edited_response: Type.String({ maxLength: maxTextLength }),
    editor: Type.Object(
      {
        kind: Type.Enum(['person', 'llm', 'program']),
        name: Type.String({ minLength: 1, maxLength: 200 }),
      },
      { additionalProperties: false },
    ),
    comment: OrNull(Type.String({ maxLength: 10_000 })),
    prompt_version: OrNull(Type.String({ maxLength: 200 })),
    status: OrNull(Type.Enum([...editStatuses])),
  }),
);

const columns = new Set([
  'pair_id',
  'dataset_id',
  'pair_external_id',
  'side',
  'edited_response',
  'editor',
  'comment',
  'prompt_version',
  'status',
]);
// of an edit as GET /v1/edits/{id} and the export give it
const passedBy: Record<Exclude<keyof Edit, keyof EditRowInput>, true> = {
  id: true,
  alignment: true,
  edit_task_id: true,
  decided_at: true,
  superseded_by: true,
  created_at: true,
};

/** @returns the edit, or the first thing that is wrong with the row */
export function parseEditRow(row: unknown): EditRowInput | RowError {
  if (typeof row !== 'object' || row === null || Array.isArray(row))
    return { code: 'invalid_row', pointer: '', detail: 'is not a JSON object' };
  if (!format.Check(row)) return firstError(format.Errors(row));
  const strange = Object.keys(row).find((name) => !columns.has(name) && !Object.hasOwn(passedBy, name));
  if (strange !== undefined)
    return { code: 'invalid_row', pointer: `/${pointerToken(strange)}`, detail: 'is no column of an edit' };
  const given = row as Partial<EditRowInput> & Pick<EditRowInput, 'edited_response' | 'editor'>;
  return {
    pair_id: given.pair_id ?? null,
    dataset_id: given.dataset_id ?? null,
    pair_external_id: given.pair_external_id ?? null,
    side: given.side ?? null,
    edited_response: given.edited_response,
    editor: given.editor,
    comment: given.comment ?? null,
    prompt_version: given.prompt_version ?? null,
    status: given.status ?? null,
  };
}
