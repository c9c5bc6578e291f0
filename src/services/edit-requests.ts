// Edit requests: how many edits of which pairs are wanted, from whom, and how far that is.
import { v7 as uuidv7 } from 'uuid';
import * as db from '../db/edit-requests.ts';
import { cancelLlmWork, type Limits, selectLlmWork } from '../db/llm-work.ts';
import type { Transaction } from '../db/pool.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { notFound, Problem, unprocessable } from '../errors.ts';
import type { Caller, Services } from './context.ts';
import { findDataset } from './datasets.ts';
import {
  addLlmWork,
  completeSettings,
  type Llm,
  type LlmUsage,
  type NewLlm,
  renderLlmWork,
  resumeLlmWork,
  type Stopped,
} from './llm-work.ts';
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
  deadline?: string | null;
  /** with the editor `llm` only, and always then */
  llm?: NewLlm;
}

/** A request as lists show it. */
export interface EditRequestSummary {
  id: string;
  dataset_id: string;
  filter: EditFilter;
  editor: string;
  redundancy: number;
  instructions: string | null;
  deadline: string | null;
  state: db.EditRequestRow['state'];
  pairs: number;
  skipped: { no_preference: number; over_limit: number; unknown_external_ids: number };
  created_at: string;
  cancelled_at: string | null;
}

export interface EditRequest extends EditRequestSummary {
  progress: db.EditProgressRow;
  editors: db.EditorProgressRow[];
  llm: Llm | null;
  usage: LlmUsage | null;
  stopped: Stopped | null;
}

function renderSummary(row: db.EditRequestRow): EditRequestSummary {
  return {
    id: formatId('editRequest', row.id),
    dataset_id: formatId('dataset', row.dataset_id),
    filter: row.filter as EditFilter,
    editor: row.editor,
    redundancy: row.redundancy,
    instructions: row.instructions,
    deadline: row.deadline?.toISOString() ?? null,
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
    ...renderLlmWork((await selectLlmWork(tx, [uuid]))[0]),
  };
}

/** A time that a client gave. @throws Problem unprocessable for the 31st of February and its like */
function readTime(text: string, pointer: string): Date {
  const time = new Date(text);
  if (Number.isNaN(time.getTime())) throw unprocessable(pointer, 'is no time.');
  return time;
}

/**
 * Makes the tasks at once, for the pairs that are there now; with the editor `llm` its work begins with the commit.
 * @throws Problem not_found, conflict, unprocessable, missing_scope
 */
export function createEditRequest(
  services: Services,
  caller: Caller,
  { filter = {}, llm, ...input }: NewEditRequest,
): Promise<EditRequest> {
  if (input.editor === 'llm' && llm === undefined)
    throw unprocessable(
      '/llm',
      'is required with the editor "llm": at least the base_url of a chat endpoint and a model.',
    );
  if (input.editor !== 'llm' && llm !== undefined)
    throw unprocessable('/llm', `is for the editor "llm" only, and this request is for a "${input.editor}".`);
  const values = filterValues(filter, { pointer: '/filter', in: 'body' });
  const deadline = input.deadline ? readTime(input.deadline, '/deadline') : null;
  if (deadline && deadline.getTime() <= Date.now())
    throw unprocessable('/deadline', 'is over already: give a time in the future.');
  return services.db.transaction(caller.projectId, async (tx) => {
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
      deadline,
    });
    if (llm) {
      const { price, limits } = llm;
      const settings = completeSettings(llm);
      const work = { for: { editRequestId: id }, settings, price, limits, waits: false };
      await addLlmWork(services, tx, caller, work, '/llm');
    }
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
    const request = await readEditRequest(tx, uuid);
    if (request.state === 'cancelled') await cancelLlmWork(tx, uuid);
    return request;
  });
}

export interface Resumption {
  limits?: Limits | null;
  retry_failed?: boolean;
}

/**
 * Lets the service's own editor go on, under new limits where they are given. Where it has not stopped nothing changes but
 * the limits. @throws Problem not_found, conflict, precondition_failed, unprocessable, missing_scope
 */
export function resumeEditRequest(
  { db: database }: Services,
  caller: Caller,
  id: string,
  { limits = null, retry_failed: retryFailed = false }: Resumption,
  condition: Precondition,
): Promise<EditRequest> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findEditRequest(tx, id);
    await db.lockEditRequest(tx, uuid);
    const current = await readEditRequest(tx, uuid);
    if (isConditional(condition)) checkPrecondition(condition, current);
    if (current.state === 'cancelled' || current.state === 'expired')
      throw new Problem(
        'conflict',
        `The edit request is ${current.state}: ask anew for the pairs that are left, with the filter has_edit false for one.`,
      );
    if (retryFailed) await db.reopenFailedTasks(tx, uuid);
    await resumeLlmWork(tx, caller, uuid, limits, '/llm');
    return readEditRequest(tx, uuid);
  });
}
