// Reviews: a reviewer accepts or rejects an edit, or puts another one in its place; every decision is kept.
import { v7 as uuidv7 } from 'uuid';
import * as db from '../db/edit-decisions.ts';
import { type EditRow, type EditStatus, lockEdit, selectEdit, updateDecided } from '../db/edits.ts';
import { lockPair, type PairRow } from '../db/pairs.ts';
import type { Transaction } from '../db/pool.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { notFound, Problem } from '../errors.ts';
import type { Caller, Services } from './context.ts';
import { addEdits, type Edit, renderEdit, statusBy } from './edits.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { checkPrecondition, type Precondition } from './preconditions.ts';

export interface EditDecision {
  id: string;
  edit_id: string;
  decision: db.Decision;
  reviewer: string;
  reason: string | null;
  superseded_by: string | null;
  created_at: string;
}

function render(row: db.EditDecisionRow): EditDecision {
  return {
    id: formatId('editDecision', row.id),
    edit_id: formatId('edit', row.edit_id),
    decision: row.decision,
    reviewer: row.reviewer,
    reason: row.reason,
    superseded_by: row.superseded_by && formatId('edit', row.superseded_by),
    created_at: row.created_at.toISOString(),
  };
}

export interface NewDecision {
  decision: db.Decision;
  reviewer: string;
  reason?: string | null;
  /** `supersede`: the edit that stands in its place, or its text */
  superseded_by?: string;
  edited_response?: string;
}

/**
 * The last decision counts, whatever was decided before.
 * @throws Problem not_found, precondition_failed, conflict, unprocessable, edit_refused
 */
export function decideEdit(
  { db: database }: Services,
  caller: Caller,
  id: string,
  input: NewDecision,
  condition: Precondition,
): Promise<Edit> {
  checkReplacement(input);
  return database.transaction(caller.projectId, async (tx) => {
    const { edit, pair } = await lockEditOfPair(tx, id);
    checkPrecondition(condition, renderEdit(edit));
    if (edit.status === 'unchanged')
      throw new Problem('conflict', 'The edit equals its original: there is nothing to decide.');
    const supersededBy =
      input.decision === 'supersede'
        ? await replacementOf(tx, caller.projectId, { edit, pair }, input)
        : null;
    const statuses: Record<db.Decision, EditStatus> = {
      accept: statusBy(pair, edit.side),
      reject: 'rejected',
      supersede: 'superseded',
    };
    const decided = await updateDecided(tx, edit.id, { status: statuses[input.decision], supersededBy });
    await db.insertEditDecision(tx, caller.projectId, {
      id: uuidv7(),
      edit_id: edit.id,
      decision: input.decision,
      reviewer: input.reviewer,
      reason: input.reason ?? null,
      superseded_by: supersededBy,
    });
    return renderEdit(decided);
  });
}

function checkReplacement({ decision, superseded_by, edited_response }: NewDecision): void {
  const given = [superseded_by, edited_response].filter((value) => value !== undefined).length;
  if (given === (decision === 'supersede' ? 1 : 0)) return;
  throw new Problem(
    'unprocessable',
    decision === 'supersede'
      ? 'To supersede an edit, name the edit that stands in its place as superseded_by, or give its text as edited_response: one of the two.'
      : 'superseded_by and edited_response belong to the decision "supersede".',
    { errors: [{ pointer: '/decision', detail: 'does not fit the other fields', in: 'body' }] },
  );
}

/** The pair first, as its deletion and its preference do. @throws Problem not_found */
async function lockEditOfPair(tx: Transaction, id: string): Promise<{ edit: EditRow; pair: PairRow }> {
  const uuid = parseId('edit', id);
  const seen = uuid ? await selectEdit(tx, uuid) : undefined;
  const pair = seen && (await lockPair(tx, seen.pair_id, 'share'));
  const edit = seen && (await lockEdit(tx, seen.id));
  if (!edit || !pair) throw notFound('edit', id);
  return { edit, pair };
}

/** The bare id of the edit that takes the place of another one. @throws Problem not_found, unprocessable, edit_refused */
async function replacementOf(
  tx: Transaction,
  projectId: string,
  { edit, pair }: { edit: EditRow; pair: PairRow },
  { reviewer, superseded_by, edited_response }: NewDecision,
): Promise<string> {
  if (edited_response !== undefined) {
    const added = await addEdits(
      tx,
      projectId,
      [
        {
          pair,
          side: edit.side,
          edited_response,
          editor: { kind: 'person', name: reviewer },
          comment: null,
          taskId: null,
          reviewed: true,
        },
      ],
      () => '/edited_response',
    );
    return parseId('edit', added[0]!.id)!;
  }
  const uuid = parseId('edit', superseded_by!);
  const other = uuid ? await selectEdit(tx, uuid) : undefined;
  if (!other) throw notFound('edit', superseded_by!, '/superseded_by');
  if (other.id === edit.id || other.pair_id !== edit.pair_id || other.side !== edit.side)
    throw new Problem(
      'unprocessable',
      'An edit is superseded by another edit of the same side of the same pair.',
      { errors: [{ pointer: '/superseded_by', detail: 'is not another edit of this side', in: 'body' }] },
    );
  return other.id;
}

/** The history of an edit, oldest first. @throws Problem not_found */
export function listDecisions(
  { db: database, cursors }: Services,
  caller: Caller,
  id: string,
  request: PageRequest,
): Promise<Page<EditDecision>> {
  return database.transaction(caller.projectId, async (tx) => {
    const uuid = parseId('edit', id);
    const edit = uuid ? await selectEdit(tx, uuid) : undefined;
    if (!edit) throw notFound('edit', id);
    return readPage(
      { cursors, tx, projectId: caller.projectId, list: `decisions on ${edit.id}` },
      request,
      (page) => db.selectEditDecisions(tx, edit.id, page),
      render,
    );
  });
}
