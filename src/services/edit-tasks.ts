// Edit tasks: editors claim pairs under a lease and bring an edit, give the task back, or skip the pair. The lease token
// alone says who holds a task; a call under a lease that is over changes nothing and is told what became of the task.
import * as db from '../db/edit-tasks.ts';
import { selectEditOfTask } from '../db/edits.ts';
import { lockPair } from '../db/pairs.ts';
import type { Transaction } from '../db/pool.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { notFound, Problem } from '../errors.ts';
import type { Caller as KeyCaller, Services } from './context.ts';
import { findEditRequest } from './edit-requests.ts';
import { addEdits, type EditOfPair, type Editor, renderSubmitted, type SubmittedEdit } from './edits.ts';
import { leaseHashOf, newLeaseToken } from './lease-tokens.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { type Pair, renderPair } from './pairs.ts';

export const defaultLeaseSeconds = 600;

/** The project alone: the service's own editor takes the way of everybody, and has no key. */
type Caller = Pick<KeyCaller, 'projectId'>;

/** Kinds of requests that are given to an editor of a kind: an outside LLM is a program to the one who asks. */
const requestsFor = { person: ['person'], program: ['program'], llm: ['program'] };

export interface EditTask {
  id: string;
  edit_request_id: string;
  pair_id: string;
  slot: number;
  side: 'a' | 'b';
  state: db.EditTaskState;
  editor: Editor | null;
  lease_expires_at: string | null;
  edit_id: string | null;
  failure: db.TaskFailure | null;
}

function render(row: db.EditTaskRow): EditTask {
  const state = row.lease_is_over ? 'open' : row.state;
  return {
    id: formatId('editTask', row.id),
    edit_request_id: formatId('editRequest', row.edit_request_id),
    pair_id: formatId('pair', row.pair_id),
    slot: row.slot,
    side: row.side,
    state,
    editor:
      state === 'open' || state === 'cancelled' ? null : { kind: row.editor_kind!, name: row.editor_name! },
    lease_expires_at: state === 'leased' ? row.lease_expires_at!.toISOString() : null,
    edit_id: row.edit_id && formatId('edit', row.edit_id),
    failure: row.failure,
  };
}

export interface ClaimRequest {
  editor: Editor;
  edit_request_id?: string;
  lease_seconds?: number;
  limit?: number;
}

export interface ClaimedTask {
  id: string;
  edit_request_id: string;
  lease_token: string;
  lease_expires_at: string;
  pair: Pair;
  side: 'a' | 'b';
  instructions: string | null;
}

export interface ClaimResult {
  items: ClaimedTask[];
  /** pairs that this editor may still get, free or held by others; null when not counted, as more may follow */
  open: number | null;
}

/**
 * Oldest request first, and in the order of its tasks. Nothing to give is no error.
 * @param editors kinds of requests to give of; those for an outside editor of its kind unless given
 * @throws Problem not_found, conflict
 */
export function claimTasks(
  { db: database }: Pick<Services, 'db'>,
  caller: Caller,
  { editor, edit_request_id, lease_seconds: leaseSeconds = defaultLeaseSeconds, limit = 1 }: ClaimRequest,
  editors: string[] = requestsFor[editor.kind],
): Promise<ClaimResult> {
  return database.transaction(caller.projectId, async (tx) => {
    let requestId: string | null = null;
    if (edit_request_id !== undefined) {
      const request = await findEditRequest(tx, edit_request_id, '/edit_request_id');
      if (!editors.includes(request.editor))
        throw new Problem(
          'conflict',
          `The edit request asks for edits by a ${request.editor}; this editor is of the kind ${editor.kind}.`,
        );
      requestId = request.id;
    }
    await db.lockEditor(tx, caller.projectId, editor.name);
    const filter = { requestId, editorName: editor.name, editors };
    const items: ClaimedTask[] = [];
    for (let more = true; more && items.length < limit; ) {
      const tokens = Array.from({ length: limit - items.length }, newLeaseToken);
      const leaseHashes = tokens.map(leaseHashOf);
      const rows = await db.claimTasks(tx, { ...filter, editorKind: editor.kind, leaseSeconds, leaseHashes });
      rows.sort((one, other) => one.token - other.token);
      items.push(...rows.map((row) => renderClaimed(row, tokens[row.token]!)));
      more = rows.some((row) => row.passed_over);
    }
    return { items, open: items.length === limit ? null : await db.countPairsLeft(tx, filter) };
  });
}

function renderClaimed(row: db.ClaimedTaskRow, leaseToken: string): ClaimedTask {
  return {
    id: formatId('editTask', row.task_id),
    edit_request_id: formatId('editRequest', row.edit_request_id),
    lease_token: leaseToken,
    lease_expires_at: row.lease_expires_at.toISOString(),
    pair: renderPair(row),
    side: row.side,
    instructions: row.instructions,
  };
}

/** @throws Problem not_found */
async function findTask(tx: Transaction, id: string): Promise<db.EditTaskRow> {
  const uuid = parseId('editTask', id);
  const row = uuid ? await db.selectEditTask(tx, uuid) : undefined;
  if (!row) throw notFound('edit task', id);
  return row;
}

export function getTask(
  { db: database }: Pick<Services, 'db'>,
  caller: Caller,
  id: string,
): Promise<EditTask> {
  return database.transaction(caller.projectId, async (tx) => render(await findTask(tx, id)));
}

export function listTasks(
  { db: database, cursors }: Services,
  caller: Caller,
  request: PageRequest & { edit_request_id?: string; state?: db.EditTaskState },
): Promise<Page<EditTask>> {
  return database.transaction(caller.projectId, async (tx) => {
    const filter = {
      requestId:
        request.edit_request_id === undefined
          ? null
          : (await findEditRequest(tx, request.edit_request_id)).id,
      state: request.state ?? null,
    };
    return readPage(
      { cursors, tx, projectId: caller.projectId, list: 'edit tasks' },
      request,
      (page) => db.selectEditTasks(tx, filter, page),
      render,
    );
  });
}

/** Why a lease token does not hold a task: found after the fact, so it may say more than was known before. */
async function notHeld(tx: Transaction, id: string, leaseHash: Buffer): Promise<Problem> {
  const task = await findTask(tx, id);
  if (task.state === 'submitted')
    return new Problem(
      'conflict',
      `The task is done: it brought the edit ${formatId('edit', task.edit_id!)}.`,
    );
  if (task.state === 'failed')
    return new Problem('conflict', 'The task was given up; resuming its edit request opens it again.');
  if (task.state === 'cancelled')
    return new Problem('conflict', 'The edit request of this task was cancelled.');
  if (task.lease_sha256?.equals(leaseHash))
    return new Problem(
      'conflict',
      `The lease ran out at ${task.lease_expires_at!.toISOString()}; the task is open to every editor again. Claim it anew, and renew leases in time with /heartbeat.`,
    );
  return new Problem(
    'conflict',
    'The lease token does not hold this task: its lease ran out and the task was claimed again, it was given back, or the token belongs to another task.',
  );
}

/** The lease from now on again, for as many seconds as before unless told otherwise. @throws Problem not_found, conflict */
export function heartbeatTask(
  { db: database }: Pick<Services, 'db'>,
  caller: Caller,
  id: string,
  { lease_token, lease_seconds }: { lease_token: string; lease_seconds?: number },
): Promise<EditTask> {
  const leaseHash = leaseHashOf(lease_token);
  return database.transaction(caller.projectId, async (tx) => {
    const { id: taskId } = await findTask(tx, id);
    const row = await db.renewLease(tx, { taskId, leaseHash }, lease_seconds ?? null);
    if (!row) throw await notHeld(tx, id, leaseHash);
    return render(row);
  });
}

/** Gives a task back: every editor may get it again, this one too. @throws Problem not_found, conflict */
export function releaseTask(
  { db: database }: Pick<Services, 'db'>,
  caller: Caller,
  id: string,
  { lease_token }: { lease_token: string },
): Promise<EditTask> {
  const leaseHash = leaseHashOf(lease_token);
  return database.transaction(caller.projectId, async (tx) => {
    const { id: taskId } = await findTask(tx, id);
    const row = await db.releaseTask(tx, { taskId, leaseHash });
    if (!row) throw await notHeld(tx, id, leaseHash);
    return render(row);
  });
}

/** Gives a task back for others: this editor does not get its pair again. @throws Problem not_found, conflict */
export function skipTask(
  { db: database }: Pick<Services, 'db'>,
  caller: Caller,
  id: string,
  { lease_token, reason }: { lease_token: string; reason?: string | null },
): Promise<EditTask> {
  const leaseHash = leaseHashOf(lease_token);
  return database.transaction(caller.projectId, async (tx) => {
    const task = await findTask(tx, id);
    await lockPair(tx, task.pair_id, 'share'); // before the task, as its deletion locks them
    if (task.editor_name !== null) await db.lockEditor(tx, caller.projectId, task.editor_name);
    const row = await db.releaseTask(tx, { taskId: task.id, leaseHash });
    if (!row) throw await notHeld(tx, id, leaseHash);
    await db.insertSkip(tx, {
      projectId: caller.projectId,
      pairId: task.pair_id,
      requestId: task.edit_request_id,
      editorKind: task.editor_kind!,
      editorName: task.editor_name!,
      reason: reason ?? null,
    });
    return render(row);
  });
}

/** Gives a task up for everybody. @throws Problem not_found, conflict */
export function failTask(
  { db: database }: Pick<Services, 'db'>,
  caller: Caller,
  id: string,
  { lease_token, failure }: { lease_token: string; failure: db.TaskFailure },
): Promise<EditTask> {
  const leaseHash = leaseHashOf(lease_token);
  return database.transaction(caller.projectId, async (tx) => {
    const { id: taskId } = await findTask(tx, id);
    const row = await db.failTask(tx, { taskId, leaseHash }, failure);
    if (!row) throw await notHeld(tx, id, leaseHash);
    return render(row);
  });
}

export interface Submission {
  lease_token: string;
  edited_response: string;
  comment?: string | null;
  /** of the service's own editor only */
  prompt_version?: string | null;
}

/**
 * Stores the edit and ends the task, both or none. The same submission again answers the same edit, for a client that
 * lost the first answer. @throws Problem not_found, conflict; edit_refused, and the task is still held
 */
export function submitTask(
  { db: database }: Pick<Services, 'db'>,
  caller: Caller,
  id: string,
  { lease_token, edited_response, comment = null, prompt_version: promptVersion = null }: Submission,
): Promise<SubmittedEdit> {
  const leaseHash = leaseHashOf(lease_token);
  return database.transaction(caller.projectId, async (tx) => {
    const taskId = parseId('editTask', id);
    const pair = taskId === null ? undefined : await db.submitTask(tx, { taskId, leaseHash });
    if (!pair) return submittedBefore(tx, id, { leaseHash, edited_response, comment });
    const edit: EditOfPair = {
      pair,
      side: pair.side,
      edited_response,
      editor: { kind: pair.editor_kind, name: pair.editor_name },
      comment,
      taskId,
      promptVersion,
    };
    const [submitted] = await addEdits(tx, caller.projectId, [edit], () => '/edited_response');
    return submitted!;
  });
}

/** The edit of an equal submission under the same lease. @throws Problem for anything else */
async function submittedBefore(
  tx: Transaction,
  id: string,
  submission: { leaseHash: Buffer; edited_response: string; comment: string | null },
): Promise<SubmittedEdit> {
  const task = await findTask(tx, id);
  const edit = await selectEditOfTask(tx, task.id);
  const equal =
    task.lease_sha256?.equals(submission.leaseHash) &&
    edit?.edited_response === submission.edited_response &&
    edit.comment === submission.comment;
  if (equal) return renderSubmitted(edit);
  const { message } = await notHeld(tx, id, submission.leaseHash);
  const where = `with the pair_id "${formatId('pair', task.pair_id)}", the side that the claim named, and the editor`;
  throw new Problem('conflict', `${message} The text is not lost: POST /v1/edits takes it, ${where}.`);
}
