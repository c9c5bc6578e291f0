// Minimal edits: what a person, a model or a program changed in one response of a pair, aligned with the original.
import { v7 as uuidv7 } from 'uuid';
import { selectEditPolicies } from '../db/datasets.ts';
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
import { completePolicy, type EditPolicy } from './edit-policy.ts';
import { resolveModel } from './models.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { findPair } from './pairs.ts';

export const { editStatuses } = db;

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
  /** when a reviewer decided last */
  decided_at: string | null;
  superseded_by: string | null;
  prompt_version: string | null;
  created_at: string;
}

export function renderEdit(row: db.EditRow): Edit {
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
    decided_at: row.decided_at?.toISOString() ?? null,
    superseded_by: row.superseded_by && formatId('edit', row.superseded_by),
    prompt_version: row.prompt_version,
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

/** All or nothing. @throws Problem edit_refused and others, with a pointer to each edit that cannot be taken */
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
    return {
      items: await addEdits(tx, caller.projectId, edits, (index) => `/edits/${index}/edited_response`),
    };
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
    'share',
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

/** The side that an edit is of, unless it says so; null while nobody knows. */
export const lessPreferred = ({ preference }: Pick<PairRow, 'preference'>): 'a' | 'b' | null =>
  preference && (preference === 'a' ? 'b' : 'a');

function editedSide({ side: given }: Pick<NewEdit, 'side'>, pair: PairRow, index: number): 'a' | 'b' {
  const side = given ?? lessPreferred(pair);
  if (side !== null) return side;
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
  /** it is a reviewer's own, and waits for nobody */
  reviewed?: boolean;
  /** of the service's own editor */
  promptVersion?: string | null;
}

/**
 * Aligns edits with their originals and stores them. The transaction has locked the rows of the pairs.
 * @param pointerOf to the text of an edit, for the caller of the route
 * @throws Problem edit_refused when the policy of a dataset refuses one; then none is stored
 */
export async function addEdits(
  tx: Transaction,
  projectId: string,
  edits: EditOfPair[],
  pointerOf: (index: number) => string,
): Promise<SubmittedEdit[]> {
  const prepared = await prepareEdits(tx, edits);
  const errors = prepared.flatMap(({ refusal }, index): ProblemDetail[] =>
    refusal === null ? [] : [{ pointer: pointerOf(index), detail: refusal, in: 'body' }],
  );
  if (errors.length > 0) {
    const which =
      edits.length === 1 ? 'The edit exceeds' : `${errors.length} of ${edits.length} edits exceed`;
    const detail = `${which} what the dataset allows; nothing was stored. ${errors[0]!.detail}`;
    throw new Problem('edit_refused', detail, { errors });
  }
  const rows = prepared.map(({ row }) => row);
  await db.insertEdits(tx, projectId, rows);
  return rows.map(renderSubmitted);
}

export interface PreparedEdit {
  row: db.NewEdit;
  /** why the policy of the dataset does not take it */
  refusal: string | null;
}

/** Edits as they would be stored. */
export async function prepareEdits(tx: Transaction, edits: EditOfPair[]): Promise<PreparedEdit[]> {
  const datasetIds = new Set(edits.map(({ pair }) => pair.dataset_id));
  const policies = await selectEditPolicies(tx, [...datasetIds]);
  return edits.map((edit) => prepareEdit(edit, completePolicy(policies.get(edit.pair.dataset_id)!)));
}

function prepareEdit(
  {
    pair,
    side,
    edited_response,
    editor,
    comment,
    taskId,
    promptVersion = null,
    reviewed = false,
  }: EditOfPair,
  policy: EditPolicy,
): PreparedEdit {
  const original = side === 'a' ? pair.response_a : pair.response_b;
  const alignment = alignTexts(original, edited_response, policy);
  const status =
    edited_response === original
      ? 'unchanged'
      : policy.review === 'required' && !reviewed
        ? 'pending'
        : statusBy(pair, side);
  const row: db.NewEdit = {
    id: uuidv7(),
    pair_id: pair.id,
    side,
    edited_response,
    editor_kind: editor.kind,
    editor_name: editor.name,
    comment,
    status,
    alignment,
    alignment_version: ALIGNMENT_VERSION,
    edit_task_id: taskId,
    prompt_version: promptVersion,
  };
  return { row, refusal: refusalOf(alignment, policy) };
}

/** The status of an edit that nobody holds back. */
export const statusBy = ({ preference }: Pick<PairRow, 'preference'>, side: 'a' | 'b') =>
  side === preference ? 'stale' : 'accepted';

function refusalOf({ minimal, warnings }: Alignment, { on_excess }: EditPolicy): string | null {
  return minimal || on_excess === 'warn' ? null : warnings[0]!.detail;
}

interface TokenSide {
  token_ids: number[];
  offsets: Span[];
  changed: boolean[];
}

export interface EditPreview extends Alignment {
  /** the dataset that was named would not take it */
  refused: boolean;
  tokens?: { original: TokenSide; edited: TokenSide };
}

/** Aligns two texts and, when a model is named, projects the changes on its tokens. Stores nothing. */
export async function previewEdit(
  services: Services,
  caller: Caller,
  {
    original,
    edited,
    dataset_id,
    model,
    unit = 'utf16',
  }: { original: string; edited: string; dataset_id?: string; model?: string; unit?: Unit },
): Promise<EditPreview> {
  const policy =
    dataset_id === undefined
      ? completePolicy({})
      : await services.db.transaction(caller.projectId, async (tx) =>
          completePolicy((await findDataset(tx, dataset_id, '/dataset_id')).edit_policy),
        );
  const alignment = alignTexts(original, edited, policy);
  const inUnit = {
    ...alignment,
    refused: refusalOf(alignment, policy) !== null,
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
  editor?: string;
  minimal?: boolean;
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
      editorName: request.editor ?? null,
      minimal: request.minimal ?? null,
    };
    return readPage(
      { cursors, tx, projectId: caller.projectId, list: 'edits' },
      request,
      (page) => db.selectEdits(tx, filter, page),
      renderEdit,
    );
  });
}

export async function getEdit({ db: database }: Services, caller: Caller, id: string): Promise<Edit> {
  const uuid = parseId('edit', id);
  const row = uuid
    ? await database.transaction(caller.projectId, (tx) => db.selectEdit(tx, uuid))
    : undefined;
  if (!row) throw notFound('edit', id);
  return renderEdit(row);
}
