// Minimal edits: what a person, a model or a program changed in one response of a pair, aligned with the original.
import { v7 as uuidv7 } from 'uuid';
import * as db from '../db/edits.ts';
import { type PairRow, selectPairsForEdits } from '../db/pairs.ts';
import type { Transaction } from '../db/pool.ts';
import { ALIGNMENT_VERSION, type Alignment, alignTexts, segmentsInUnit } from '../domain/alignment.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { type Span, spansInUnit, type Unit } from '../domain/text.ts';
import { changedTokens } from '../domain/token-labels.ts';
import { notFound, Problem, type ProblemDetail } from '../errors.ts';
import type { Caller, Services } from './context.ts';
import { findDataset } from './datasets.ts';
import { resolveModel } from './models.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { findPair } from './pairs.ts';

export interface NewEdit {
  pair_id?: string;
  dataset_id?: string;
  pair_external_id?: string;
  side?: 'a' | 'b';
  edited_response: string;
  editor: Editor;
  comment?: string | null;
}

export interface Editor {
  kind: 'person' | 'llm' | 'program';
  name: string;
}

export interface Edit {
  id: string;
  pair_id: string;
  side: 'a' | 'b';
  edited_response: string;
  editor: Editor;
  comment: string | null;
  status: db.EditStatus;
  alignment: Alignment;
  /** the task that it answered; null for one that was posted */
  edit_task_id: string | null;
  created_at: string;
}

function render(row: db.EditRow): Edit {
  return {
    id: formatId('edit', row.id),
    pair_id: formatId('pair', row.pair_id),
    side: row.side,
    edited_response: row.edited_response,
    editor: { kind: row.editor_kind, name: row.editor_name },
    comment: row.comment,
    status: row.status,
    alignment: row.alignment as Alignment,
    edit_task_id: row.edit_task_id && formatId('editTask', row.edit_task_id),
    created_at: row.created_at.toISOString(),
  };
}

/** What a submission answers. */
export interface SubmittedEdit {
  id: string;
  status: db.EditStatus;
  alignment: Alignment;
}

export function renderSubmitted(row: Pick<db.EditRow, 'id' | 'status' | 'alignment'>): SubmittedEdit {
  return { id: formatId('edit', row.id), status: row.status, alignment: row.alignment as Alignment };
}

/** All or nothing. @throws Problem with a pointer to each edit that cannot be taken */
export function createEdits(
  { db: database }: Services,
  caller: Caller,
  inputs: NewEdit[],
): Promise<{ items: SubmittedEdit[] }> {
  return database.transaction(caller.projectId, async (tx) => {
    const pairs = await findEditedPairs(tx, inputs);
    const edits = inputs.map(({ edited_response, editor, comment = null, ...input }, index) => ({
      pair: pairs[index]!,
      side: editedSide(input, pairs[index]!, index),
      edited_response,
      editor,
      comment,
      taskId: null,
    }));
    return { items: await addEdits(tx, caller.projectId, edits) };
  });
}

/** The pair of each edit, in order. */
async function findEditedPairs(tx: Transaction, inputs: NewEdit[]): Promise<PairRow[]> {
  const incomplete = inputs.flatMap((input, index): ProblemDetail[] => {
    const byId = input.pair_id !== undefined;
    const byExternalId = input.dataset_id !== undefined && input.pair_external_id !== undefined;
    const mixed = byId && (input.dataset_id !== undefined || input.pair_external_id !== undefined);
    if (!mixed && (byId || byExternalId)) return [];
    return [
      {
        pointer: `/edits/${index}`,
        detail: 'must name its pair by pair_id, or by dataset_id and pair_external_id',
        in: 'body',
      },
    ];
  });
  if (incomplete.length > 0)
    throw new Problem('unprocessable', `${incomplete[0]!.pointer} ${incomplete[0]!.detail}.`, {
      errors: incomplete,
    });

  const datasets = new Map<string, string>();
  for (const [index, { dataset_id }] of inputs.entries()) {
    if (dataset_id !== undefined && !datasets.has(dataset_id)) {
      datasets.set(dataset_id, (await findDataset(tx, dataset_id, `/edits/${index}/dataset_id`)).id);
    }
  }
  const external = inputs.filter(({ pair_external_id }) => pair_external_id !== undefined);
  const rows = await selectPairsForEdits(
    tx,
    inputs.flatMap(({ pair_id }) => (pair_id === undefined ? [] : (parseId('pair', pair_id) ?? []))),
    {
      datasetIds: external.map(({ dataset_id }) => datasets.get(dataset_id!)!),
      externalIds: external.map(({ pair_external_id }) => pair_external_id!),
    },
  );
  const byId = new Map(rows.map((row) => [row.id, row]));
  const byExternalId = new Map(rows.map((row) => [JSON.stringify([row.dataset_id, row.external_id]), row]));
  const errors: ProblemDetail[] = [];
  const found = inputs.map((input, index) => {
    const row =
      input.pair_id !== undefined
        ? byId.get(parseId('pair', input.pair_id) ?? '')
        : byExternalId.get(JSON.stringify([datasets.get(input.dataset_id!), input.pair_external_id]));
    if (!row)
      errors.push({
        pointer: `/edits/${index}/${input.pair_id === undefined ? 'pair_external_id' : 'pair_id'}`,
        detail: 'no such pair',
        in: 'body',
      });
    return row!;
  });
  if (errors.length > 0)
    throw new Problem(
      'not_found',
      `${errors.length} of ${inputs.length} edits name a pair that is not in this project; nothing was stored.`,
      { errors },
    );
  return found;
}

function editedSide({ side }: Pick<NewEdit, 'side'>, { preference }: PairRow, index: number): 'a' | 'b' {
  if (side !== undefined) return side;
  if (preference !== null) return preference === 'a' ? 'b' : 'a';
  throw new Problem(
    'unprocessable',
    `The pair of /edits/${index} has no preference yet: say which side was edited.`,
    {
      errors: [
        {
          pointer: `/edits/${index}/side`,
          detail: 'is required while the preference of the pair is null',
          in: 'body',
        },
      ],
    },
  );
}

export interface EditOfPair {
  pair: PairRow;
  side: 'a' | 'b';
  edited_response: string;
  editor: Editor;
  comment: string | null;
  /** the edit task that it answers, a bare UUID */
  taskId: string | null;
}

/** Aligns edits with their originals and stores them. The transaction has locked the rows of the pairs. */
export async function addEdits(
  tx: Transaction,
  projectId: string,
  edits: EditOfPair[],
): Promise<SubmittedEdit[]> {
  const rows = edits.map(newEdit);
  await db.insertEdits(tx, projectId, rows);
  return rows.map(renderSubmitted);
}

function newEdit({ pair, side, edited_response, editor, comment, taskId }: EditOfPair): db.NewEdit {
  const original = side === 'a' ? pair.response_a : pair.response_b;
  const status = edited_response === original ? 'unchanged' : side === pair.preference ? 'stale' : 'accepted';
  return {
    id: uuidv7(),
    pair_id: pair.id,
    side,
    edited_response,
    editor_kind: editor.kind,
    editor_name: editor.name,
    comment,
    status,
    alignment: alignTexts(original, edited_response),
    alignment_version: ALIGNMENT_VERSION,
    edit_task_id: taskId,
  };
}

interface TokenSide {
  token_ids: number[];
  offsets: Span[];
  changed: boolean[];
}

export interface EditPreview extends Alignment {
  tokens?: { original: TokenSide; edited: TokenSide };
}

/** Aligns two texts and, when a model is named, projects the changes on its tokens. Stores nothing. */
export async function previewEdit(
  services: Services,
  caller: Caller,
  {
    original,
    edited,
    model,
    unit = 'utf16',
  }: { original: string; edited: string; model?: string; unit?: Unit },
): Promise<EditPreview> {
  const alignment = alignTexts(original, edited);
  const inUnit = {
    ...alignment,
    segments: segmentsInUnit(original, edited, alignment.segments, unit),
    changed_original: spansInUnit(original, alignment.changed_original, unit),
    changed_edited: spansInUnit(edited, alignment.changed_edited, unit),
  };
  if (model === undefined) return inUnit;
  const row = await services.db.transaction(caller.projectId, (tx) =>
    resolveModel(services, tx, model, '/model'),
  );
  const tokenizer = await services.scoring.tokenizer(row);
  const side = async (text: string, changed: Span[]): Promise<TokenSide> => {
    const { tokenIds, offsets, covers } = await tokenizer.encodeResponse(text);
    return {
      token_ids: tokenIds,
      offsets: spansInUnit(text, offsets, unit),
      changed: changedTokens(text, covers, changed),
    };
  };
  return {
    ...inUnit,
    tokens: {
      original: await side(original, alignment.changed_original),
      edited: await side(edited, alignment.changed_edited),
    },
  };
}

export interface EditListRequest extends PageRequest {
  dataset_id?: string;
  pair_id?: string;
  status?: db.EditStatus;
}

export function listEdits(
  { db: database, cursors }: Services,
  caller: Caller,
  request: EditListRequest,
): Promise<Page<Edit>> {
  return database.transaction(caller.projectId, async (tx) => {
    const filter = {
      datasetId: request.dataset_id === undefined ? null : (await findDataset(tx, request.dataset_id)).id,
      pairId: request.pair_id === undefined ? null : (await findPair(tx, request.pair_id)).id,
      status: request.status ?? null,
    };
    return readPage(
      { cursors, tx, projectId: caller.projectId, list: 'edits' },
      request,
      (page) => db.selectEdits(tx, filter, page),
      render,
    );
  });
}

export async function getEdit({ db: database }: Services, caller: Caller, id: string): Promise<Edit> {
  const uuid = parseId('edit', id);
  const row = uuid
    ? await database.transaction(caller.projectId, (tx) => db.selectEdit(tx, uuid))
    : undefined;
  if (!row) throw notFound('edit', id);
  return render(row);
}
