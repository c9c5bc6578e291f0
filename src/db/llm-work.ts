// Statements on the work that a chat endpoint does for an edit request or an evaluation: what was asked for, what it has used,
// and its slices. Migrations 0018 and 0023 keep a job at due_at. Keys name the project, because the worker's role sees all.
import type { Transaction } from './pool.ts';

export interface LlmWorkRow {
  /** of the edit request or evaluation */
  id: string;
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

export interface LlmWorkKey {
  projectId: string;
  /** of the edit request or evaluation */
  id: string;
}

/** The job that begins the work is there when the transaction commits, unless the work is to wait. */
export async function insertLlmWork(
  tx: Transaction,
  work: {
    projectId: string;
    for: { editRequestId: string } | { evaluationId: string };
    settings: object;
    price: Price | null;
    limits: Limits;
    waits: boolean;
  },
): Promise<void> {
  await tx.query(
    `insert into finegrain.llm_work (project_id, edit_request_id, evaluation_id, settings, input_price, output_price,
       max_total_tokens, max_cost, due_at)
     values ($1, $2, $3, $4, $5, $6, $7, $8, case when not $9::boolean then clock_timestamp() end)`,
    [
      work.projectId,
      'editRequestId' in work.for ? work.for.editRequestId : null,
      'evaluationId' in work.for ? work.for.evaluationId : null,
      JSON.stringify(work.settings),
      work.price?.input_per_million ?? null,
      work.price?.output_per_million ?? null,
      work.limits.max_total_tokens ?? null,
      work.limits.max_cost ?? null,
      work.waits,
    ],
  );
}

/** Of some edit requests or evaluations; for one that has none a row is missing. */
export function selectLlmWork(tx: Transaction, ids: string[]): Promise<LlmWorkRow[]> {
  return tx.query<LlmWorkRow>(
    `select id, settings, input_price, output_price, max_total_tokens, max_cost, requests, retries, refused,
       input_tokens, output_tokens, stopped
     from finegrain.llm_work where id = any ($1::uuid[])`,
    [ids],
  );
}

/** Begins work that waited. */
export async function startLlmWork(tx: Transaction, { projectId, id }: LlmWorkKey): Promise<void> {
  await tx.query(
    `update finegrain.llm_work set due_at = clock_timestamp()
     where project_id = $1 and id = $2 and stopped is null`,
    [projectId, id],
  );
}

/** Ends the work for good: a slice that is under way ends with its next heartbeat. */
export async function cancelLlmWork(tx: Transaction, id: string): Promise<void> {
  await tx.query('update finegrain.llm_work set due_at = null where id = $1', [id]);
}

/** Goes on with what was stopped, from now; a slice that is under way goes on by itself. `limits`: instead of the old ones. */
export async function resumeLlmWork(tx: Transaction, id: string, limits: Limits | null): Promise<void> {
  await tx.query(
    `update finegrain.llm_work set stopped = null, troubles = 0,
       due_at = coalesce(due_at, clock_timestamp()),
       max_total_tokens = case when $2 then $3 else max_total_tokens end,
       max_cost = case when $2 then $4 else max_cost end
     where id = $1`,
    [id, limits !== null, limits?.max_total_tokens ?? null, limits?.max_cost ?? null],
  );
}

export interface Slice extends LlmWorkKey {
  fence: number;
}

export interface SliceRow {
  fence: number;
  settings: unknown;
  troubles: number;
}

/**
 * Begins a slice that is due, for as long as the lease: none begins before that is over. What the calls of a lost slice
 * had reserved is taken for spent. undefined when none is due.
 */
export async function beginSlice(
  tx: Transaction,
  { projectId, id }: LlmWorkKey,
  leaseSeconds: number,
): Promise<SliceRow | undefined> {
  return (
    await tx.query<SliceRow>(
      `update finegrain.llm_work set fence = fence + 1,
         due_at = clock_timestamp() + make_interval(secs => $3),
         input_tokens = input_tokens + reserved_input, reserved_input = 0,
         output_tokens = output_tokens + reserved_output, reserved_output = 0
       where project_id = $1 and id = $2 and due_at <= clock_timestamp()
       returning fence, settings, troubles`,
      [projectId, id, leaseSeconds],
    )
  )[0];
}

/** Whether the slice may go on: its lease runs from now on again. */
export async function renewSlice(
  tx: Transaction,
  { projectId, id, fence }: Slice,
  leaseSeconds: number,
): Promise<boolean> {
  const rows = await tx.query(
    `update finegrain.llm_work set due_at = clock_timestamp() + make_interval(secs => $4)
     where project_id = $1 and id = $2 and fence = $3 and due_at is not null returning fence`,
    [projectId, id, fence, leaseSeconds],
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
  { projectId, id, fence }: Slice,
  { most, repeats }: { most: Tokens; repeats: boolean },
): Promise<boolean> {
  const rows = await tx.query(
    `update finegrain.llm_work set requests = requests + 1, retries = retries + $4::boolean::int,
       reserved_input = reserved_input + $5::bigint, reserved_output = reserved_output + $6::bigint
     where project_id = $1 and id = $2 and fence = $3
       and (max_total_tokens is null
         or input_tokens + reserved_input + $5::bigint + output_tokens + reserved_output + $6::bigint <= max_total_tokens)
       and (max_cost is null
         or ((input_tokens + reserved_input + $5::bigint) * input_price
           + (output_tokens + reserved_output + $6::bigint) * output_price) / 1e6 <= max_cost)
     returning fence`,
    [projectId, id, fence, repeats, most.input, most.output],
  );
  return rows.length > 0;
}

/** Puts what a call has cost in the place of what was reserved for it. */
export async function settleCall(
  tx: Transaction,
  { projectId, id, fence }: Slice,
  { most, spent }: { most: Tokens; spent: Tokens },
): Promise<void> {
  await tx.query(
    `update finegrain.llm_work set
       reserved_input = reserved_input - $4, input_tokens = input_tokens + $6,
       reserved_output = reserved_output - $5, output_tokens = output_tokens + $7
     where project_id = $1 and id = $2 and fence = $3`,
    [projectId, id, fence, most.input, most.output, spent.input, spent.output],
  );
}

/** Counts an answer that cannot be taken. */
export async function countRefused(tx: Transaction, { projectId, id, fence }: Slice): Promise<void> {
  await tx.query(
    `update finegrain.llm_work set refused = refused + 1
     where project_id = $1 and id = $2 and fence = $3`,
    [projectId, id, fence],
  );
}

/** Until the transaction ends. False: the slice was lost, or the work cancelled. */
export async function lockSlice(tx: Transaction, { projectId, id, fence }: Slice): Promise<boolean> {
  const rows = await tx.query(
    `select fence from finegrain.llm_work
     where project_id = $1 and id = $2 and fence = $3 and due_at is not null for no key update`,
    [projectId, id, fence],
  );
  return rows.length > 0;
}

/** The next slice begins after the rest; none does without one. Needs lockSlice before it. */
export async function endSlice(
  tx: Transaction,
  { projectId, id }: Slice,
  end: {
    restSeconds: number | null;
    troubles: number;
    stopped: { reason: string; detail: string } | null;
  },
): Promise<void> {
  await tx.query(
    `update finegrain.llm_work set troubles = $4,
       stopped = $5::jsonb || jsonb_build_object('at', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')),
       due_at = clock_timestamp() + make_interval(secs => $3)
     where project_id = $1 and id = $2`,
    [projectId, id, end.restSeconds, end.troubles, end.stopped === null ? null : JSON.stringify(end.stopped)],
  );
}
