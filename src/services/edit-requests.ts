// Edit requests: how many edits of which pairs are wanted, from whom, and how far that is.
import { v7 as uuidv7 } from 'uuid';
import * as db from '../db/edit-requests.ts';
import type { Transaction } from '../db/pool.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { notFound, Problem } from '../errors.ts';
import type { Caller, Services } from './context.ts';
import { findDataset } from './datasets.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { filterValues, type PairFilter } from './pair-filter.ts';
import { checkPrecondition, isConditional, type Precondition } from './preconditions.ts';

export interface EditFilter extends PairFilter {
  limit?: number;
}

export interface NewEditRequest {
  dataset_id: string;
  filter?: EditFilter;
  editor: 'person' | 'program' | 'llm';
  redundancy?: number;
  instructions?: string | null;
}

/** A request as lists show it. */
export interface EditRequestSummary {
  id: string;
  dataset_id: string;
  filter: EditFilter;
  editor: string;
  redundancy: number;
  instructions: string | null;
  state: db.EditRequestRow['state'];
  pairs: number;
  skipped: { no_preference: number; over_limit: number; unknown_external_ids: number };
  created_at: string;
  cancelled_at: string | null;
}

export interface EditRequest extends EditRequestSummary {
  progress: db.EditProgressRow;
  editors: db.EditorProgressRow[];
}

function renderSummary(row: db.EditRequestRow): EditRequestSummary {
  return {
    id: formatId('editRequest', row.id),
    dataset_id: formatId('dataset', row.dataset_id),
    filter: row.filter as EditFilter,
    editor: row.editor,
    redundancy: row.redundancy,
    instructions: row.instructions,
    state: row.state,
    pairs: row.pairs,
    skipped: row.skipped as EditRequestSummary['skipped'],
    created_at: row.created_at.toISOString(),
    cancelled_at: row.cancelled_at?.toISOString() ?? null,
  };
}

async function readEditRequest(tx: Transaction, uuid: string): Promise<EditRequest> {
  return {
    ...renderSummary((await db.selectEditRequest(tx, uuid))!),
    progress: await db.selectEditProgress(tx, uuid),
    editors: await db.selectEditorProgress(tx, uuid),
  };
}

/** Makes the tasks at once, for the pairs that are there now. @throws Problem not_found, conflict, unprocessable */
export function createEditRequest(
  { db: database }: Services,
  caller: Caller,
  { filter = {}, ...input }: NewEditRequest,
): Promise<EditRequest> {
  if (input.editor === 'llm') {
    const detail =
      'the service has no LLM editor of its own yet; ask for "program", and let a program of yours claim the tasks as an editor of the kind llm';
    throw new Problem('unprocessable', `/editor: ${detail}.`, {
      errors: [{ pointer: '/editor', detail, in: 'body' }],
    });
  }
  const values = filterValues(filter, { pointer: '/filter', in: 'body' });
  return database.transaction(caller.projectId, async (tx) => {
    const dataset = await findDataset(tx, input.dataset_id, '/dataset_id');
    if (dataset.archived_at)
      throw new Problem(
        'conflict',
        'The dataset is archived: restore it, and its pairs can be edited again.',
      );
    const id = uuidv7();
    await db.insertEditRequest(tx, {
      projectId: caller.projectId,
      id,
      datasetId: dataset.id,
      filter,
      values,
      limit: filter.limit ?? null,
      editor: input.editor,
      redundancy: input.redundancy ?? 1,
      instructions: input.instructions ?? null,
    });
    return readEditRequest(tx, id);
  });
}

/** @throws Problem not_found */
export async function findEditRequest(
  tx: Transaction,
  id: string,
  pointer?: string,
): Promise<db.EditRequestRow> {
  const uuid = parseId('editRequest', id);
  const row = uuid ? await db.selectEditRequest(tx, uuid) : undefined;
  if (!row) throw notFound('edit request', id, pointer);
  return row;
}

export function getEditRequest({ db: database }: Services, caller: Caller, id: string): Promise<EditRequest> {
  return database.transaction(caller.projectId, async (tx) =>
    readEditRequest(tx, (await findEditRequest(tx, id)).id),
  );
}

export function listEditRequests(
  { db: database, cursors }: Services,
  caller: Caller,
  request: PageRequest & { dataset_id?: string },
): Promise<Page<EditRequestSummary>> {
  return database.transaction(caller.projectId, async (tx) => {
    const datasetId =
      request.dataset_id === undefined ? null : (await findDataset(tx, request.dataset_id)).id;
    return readPage(
      { cursors, tx, projectId: caller.projectId, list: 'edit requests' },
      request,
      (page) => db.selectEditRequests(tx, { datasetId }, page),
      renderSummary,
    );
  });
}

/**
 * Ends what is not submitted, leases included; edits stay. Repeated, or on a finished request, it changes nothing.
 * @throws Problem not_found, precondition_failed
 */
export function cancelEditRequest(
  { db: database }: Services,
  caller: Caller,
  id: string,
  condition: Precondition,
): Promise<EditRequest> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findEditRequest(tx, id);
    if (isConditional(condition)) {
      await db.lockEditRequest(tx, uuid);
      checkPrecondition(condition, await readEditRequest(tx, uuid));
    }
    await db.cancelEditRequest(tx, uuid);
    return readEditRequest(tx, uuid);
  });
}
