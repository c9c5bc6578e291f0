// Statements on the service's own editors: what a request for an `llm` asks for, has used, and the slices of its work.
// Migration 0018 keeps a job at due_at.
import type { Transaction } from './pool.ts';

export interface LlmEditorRow {
  settings: unknown;
  input_price: number | null;
  output_price: number | null;
  max_total_tokens: number | null;
  max_cost: number | null;
  requests: number;
  retries: number;
  refused: number;
  input_tokens: number;
  output_tokens: number;
  stopped: unknown;
}

export interface Price {
  input_per_million: number;
  output_per_million: number;
}

export interface Limits {
  max_total_tokens?: number | null;
  max_cost?: number | null;
}

/** The job that begins the work is there when the transaction commits. */
export async function insertLlmEditor(
  tx: Transaction,
  editor: { projectId: string; requestId: string; settings: object; price: Price | null; limits: Limits },
): Promise<void> {
  await tx.query(
    `insert into finegrain.llm_editors (project_id, edit_request_id, settings, input_price, output_price, max_total_tokens, max_cost)
     values ($1, $2, $3, $4, $5, $6, $7)`,
    [
      editor.projectId,
      editor.requestId,
      JSON.stringify(editor.settings),
      editor.price?.input_per_million ?? null,
      editor.price?.output_per_million ?? null,
      editor.limits.max_total_tokens ?? null,
      editor.limits.max_cost ?? null,
    ],
  );
}

export async function selectLlmEditor(tx: Transaction, requestId: string): Promise<LlmEditorRow | undefined> {
  return (
    await tx.query<LlmEditorRow>(
      `select settings, input_price, output_price, max_total_tokens, max_cost, requests, retries, refused,
         input_tokens, output_tokens, stopped
       from finegrain.llm_editors where edit_request_id = $1`,
      [requestId],
    )
  )[0];
}

/** Goes on with what was stopped, from now; a slice that is under way goes on by itself. `limits`: instead of the old ones. */
export async function resumeLlmEditor(
  tx: Transaction,
  requestId: string,
  limits: Limits | null,
): Promise<void> {
  await tx.query(
    `update finegrain.llm_editors set stopped = null, troubles = 0,
       due_at = coalesce(due_at, clock_timestamp()),
       max_total_tokens = case when $2 then $3 else max_total_tokens end,
       max_cost = case when $2 then $4 else max_cost end
     where edit_request_id = $1`,
    [requestId, limits !== null, limits?.max_total_tokens ?? null, limits?.max_cost ?? null],
  );
}

/** Names the project itself, because the worker's role sees all of them. */
export interface LlmEditorKey {
  projectId: string;
  requestId: string;
}

export interface Slice extends LlmEditorKey {
  fence: number;
}

export interface SliceRow {
  fence: number;
  settings: unknown;
  dataset_id: string;
  redundancy: number;
  troubles: number;
}

/**
 * Begins a slice that is due, for as long as the lease: none begins before that is over. What the calls of a lost slice
 * had reserved is taken for spent. undefined when none is due.
 */
export async function beginSlice(
  tx: Transaction,
  { projectId, requestId }: LlmEditorKey,
  leaseSeconds: number,
): Promise<SliceRow | undefined> {
  return (
    await tx.query<SliceRow>(
      `update finegrain.llm_editors e set fence = e.fence + 1,
         due_at = clock_timestamp() + make_interval(secs => $3),
         input_tokens = e.input_tokens + e.reserved_input, reserved_input = 0,
         output_tokens = e.output_tokens + e.reserved_output, reserved_output = 0
       from finegrain.edit_requests r
       where e.project_id = $1 and e.edit_request_id = $2 and e.due_at <= clock_timestamp()
         and r.project_id = e.project_id and r.id = e.edit_request_id
       returning e.fence, e.settings, e.troubles, r.dataset_id, r.redundancy`,
      [projectId, requestId, leaseSeconds],
    )
  )[0];
}

/** Whether the slice may go on: its lease runs from now on again. */
export async function renewSlice(
  tx: Transaction,
  { projectId, requestId, fence }: Slice,
  leaseSeconds: number,
): Promise<boolean> {
  const rows = await tx.query(
    `update finegrain.llm_editors e set due_at = clock_timestamp() + make_interval(secs => $4)
     from finegrain.edit_requests r
     where e.project_id = $1 and e.edit_request_id = $2 and e.fence = $3
       and r.project_id = e.project_id and r.id = e.edit_request_id and r.cancelled_at is null
     returning e.fence`,
    [projectId, requestId, fence, leaseSeconds],
  );
  return rows.length > 0;
}

export interface Tokens {
  input: number;
  output: number;
}

/**
 * Counts a call and reserves the most that it can cost, if no limit is passed even when all calls under way cost their
 * most. False: it would be, or the slice was lost.
 */
export async function reserveCall(
  tx: Transaction,
  { projectId, requestId, fence }: Slice,
  { most, repeats }: { most: Tokens; repeats: boolean },
): Promise<boolean> {
  const rows = await tx.query(
    `update finegrain.llm_editors set requests = requests + 1, retries = retries + $4::boolean::int,
       reserved_input = reserved_input + $5::bigint, reserved_output = reserved_output + $6::bigint
     where project_id = $1 and edit_request_id = $2 and fence = $3
       and (max_total_tokens is null
         or input_tokens + reserved_input + $5::bigint + output_tokens + reserved_output + $6::bigint <= max_total_tokens)
       and (max_cost is null
         or ((input_tokens + reserved_input + $5::bigint) * input_price
           + (output_tokens + reserved_output + $6::bigint) * output_price) / 1e6 <= max_cost)
     returning fence`,
    [projectId, requestId, fence, repeats, most.input, most.output],
  );
  return rows.length > 0;
}

/** Puts what a call has cost in the place of what was reserved for it. */
export async function settleCall(
  tx: Transaction,
  { projectId, requestId, fence }: Slice,
  { most, spent }: { most: Tokens; spent: Tokens },
): Promise<void> {
  await tx.query(
    `update finegrain.llm_editors set
       reserved_input = reserved_input - $4, input_tokens = input_tokens + $6,
       reserved_output = reserved_output - $5, output_tokens = output_tokens + $7
     where project_id = $1 and edit_request_id = $2 and fence = $3`,
    [projectId, requestId, fence, most.input, most.output, spent.input, spent.output],
  );
}

/** Counts an answer that was no edit. */
export async function countRefused(tx: Transaction, { projectId, requestId, fence }: Slice): Promise<void> {
  await tx.query(
    `update finegrain.llm_editors set refused = refused + 1
     where project_id = $1 and edit_request_id = $2 and fence = $3`,
    [projectId, requestId, fence],
  );
}

/** The next slice begins after the rest, if work is left that may still be done; none does when it is stopped. */
export async function endSlice(
  tx: Transaction,
  { projectId, requestId, fence }: Slice,
  end: { restSeconds: number; troubles: number; stopped: { reason: string; detail: string } | null },
): Promise<void> {
  await tx.query(
    `update finegrain.llm_editors e set troubles = $5,
       stopped = case when r.cancelled_at is null then
         $6::jsonb || jsonb_build_object('at', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) end,
       due_at = case when $6::jsonb is null and r.cancelled_at is null
           and (r.deadline is null or r.deadline > clock_timestamp())
           and exists (select from finegrain.edit_tasks t
             where t.project_id = $1 and t.edit_request_id = $2 and t.state in ('open', 'leased'))
         then clock_timestamp() + make_interval(secs => $4) end
     from finegrain.edit_requests r
     where e.project_id = $1 and e.edit_request_id = $2 and e.fence = $3
       and r.project_id = e.project_id and r.id = e.edit_request_id`,
    [
      projectId,
      requestId,
      fence,
      end.restSeconds,
      end.troubles,
      end.stopped === null ? null : JSON.stringify(end.stopped),
    ],
  );
}
