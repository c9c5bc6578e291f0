// Statements on edit tasks. A lease is over when the database's clock says so; its task counts as open from then on.
import type { PairRow } from './pairs.ts';
import type { Transaction } from './pool.ts';

export type EditTaskState = 'open' | 'leased' | 'submitted' | 'failed' | 'cancelled';

/** Why the service gave a task up. */
export interface TaskFailure {
  reason: string;
  detail: string;
  /** the model's last answer; null when it gave none */
  last_output: string | null;
}

export interface EditTaskRow {
  id: string;
  edit_request_id: string;
  pair_id: string;
  slot: number;
  side: 'a' | 'b';
  state: EditTaskState;
  editor_kind: 'person' | 'llm' | 'program' | null;
  editor_name: string | null;
  lease_sha256: Buffer | null;
  lease_expires_at: Date | null;
  /** a lease that nobody has taken over */
  lease_is_over: boolean;
  failure: TaskFailure | null;
  /** bare UUID */
  edit_id: string | null;
}

const columns = `t.id, t.edit_request_id, t.pair_id, t.slot, t.side, t.state, t.editor_kind, t.editor_name, t.lease_sha256, t.lease_expires_at, t.failure,
  t.state = 'leased' and t.lease_expires_at <= clock_timestamp() as lease_is_over,
  (select e.id from finegrain.edits e where e.project_id = t.project_id and e.edit_task_id = t.id) as edit_id`;

/** Holds what one editor claims and skips in order, until the transaction ends; other editors do not wait. */
export async function lockEditor(tx: Transaction, projectId: string, editorName: string): Promise<void> {
  await tx.query('select pg_advisory_xact_lock(hashtextextended($2, hashtextextended($1, 0)))', [
    projectId,
    editorName,
  ]);
}

// What bars the editor named $1 from a task t with its pair p: a pair that this editor has skipped, holds or has submitted, and one
// whose less-preferred response has a posted edit of the same name. An own lease that is over bars the other tasks of its
// pair, not its own: a submit that commits in that moment cannot make two edits of one pair.
const bars = [
  `finegrain.edit_skips s
    where s.project_id = t.project_id and s.pair_id = t.pair_id and s.editor_name = $1`,
  `finegrain.edit_tasks o
    where o.project_id = t.project_id and o.pair_id = t.pair_id and o.editor_name = $1 and o.id <> t.id`,
  `finegrain.edits e
    where e.project_id = t.project_id and e.pair_id = t.pair_id and e.editor_name = $1 and e.side <> p.preference`,
];
const mayGet = (notBarred: (bar: string) => string): string =>
  [`t.state in ('open', 'leased') and p.preference is not null`, ...bars.map(notBarred)].join('\n  and ');

// For all tasks at once. For the first ones in their order instead, a scalar, which Postgres looks up task by task until there
// are enough; of `not exists` it makes joins, at times for all tasks of a request before one is given. (It takes `is not true`
// to hold for every second row, `is null` for one in 200: then it would sort all tasks first, as if that were nothing.)
const joined = (bar: string): string => `not exists (select from ${bar})`;
const oneByOne = (bar: string): string => `(select true from ${bar} limit 1) is not true`;

// Requests r with their datasets d whose work is given to editors of the kinds $3, while there is time for it.
const isOffered = `r.editor = any ($3::text[]) and r.cancelled_at is null
  and (r.deadline is null or r.deadline > clock_timestamp()) and d.archived_at is null`;

export interface ClaimFilter {
  /** null: any */
  requestId: string | null;
  editorName: string;
  /** kinds of requests that are given to the editor */
  editors: string[];
}

export interface Claim extends ClaimFilter {
  editorKind: string;
  leaseSeconds: number;
  /** hashes of the tokens to give out: as many tasks are claimed at most */
  leaseHashes: Buffer[];
}

/** A claimed task with its pair. */
export interface ClaimedTaskRow extends PairRow {
  task_id: string;
  edit_request_id: string;
  instructions: string | null;
  side: 'a' | 'b';
  lease_expires_at: Date;
  /** which of the tokens it got */
  token: number;
  /** a free task was passed over, as another one of the same pair was claimed */
  passed_over: boolean;
}

/**
 * Leases the first tasks that the editor may get and that nobody is claiming at this moment, oldest request first, each of
 * another pair: where the first ones hold a pair twice, fewer than asked for. Needs lockEditor before it.
 *
 * Requests without work left cost nothing: `busy` jumps from one that has some to the next, through the index of what is left,
 * and only as far as it is read. The laterals keep that order; `offset 0` keeps them from becoming joins of another one. The
 * project is named for the worker, whose role sees all. (A statement for each request that is not finished is as many round
 * trips as there are requests whose tasks this editor may not have.)
 */
export function claimTasks(tx: Transaction, claim: Claim): Promise<ClaimedTaskRow[]> {
  return tx.query<ClaimedTaskRow>(
    `with recursive busy as (
       (select project_id, edit_request_id as id from finegrain.edit_tasks
        where project_id = finegrain.current_project() and state in ('open', 'leased') and ($2::uuid is null or edit_request_id = $2)
        order by edit_request_id limit 1)
       union all
       select busy.project_id, next.id from busy cross join lateral (
         select edit_request_id as id from finegrain.edit_tasks
         where project_id = busy.project_id and state in ('open', 'leased') and edit_request_id > busy.id
         order by edit_request_id limit 1) next
       where $2::uuid is null
     ), free as materialized (
       select busy.project_id, task.id, task.pair_id, request.id as edit_request_id, request.instructions
       from busy
       cross join lateral (
         select r.id, r.instructions from finegrain.edit_requests r
         join finegrain.datasets d on d.project_id = r.project_id and d.id = r.dataset_id
         where r.project_id = busy.project_id and r.id = busy.id and ${isOffered} offset 0) request
       cross join lateral (
         select t.id, t.pair_id from finegrain.edit_tasks t
         cross join lateral (
           select preference from finegrain.pairs where project_id = t.project_id and id = t.pair_id offset 0) p
         where t.project_id = busy.project_id and t.edit_request_id = request.id
           and (t.state = 'open' or t.lease_expires_at <= clock_timestamp())
           and ${mayGet(oneByOne)}
         order by t.id limit cardinality($6::bytea[])
         for update of t skip locked) task
       limit cardinality($6::bytea[])
     ), numbered as (
       select *, row_number() over (order by edit_request_id, id) as token
       from (select distinct on (pair_id) * from free order by pair_id, edit_request_id, id) as of_each_pair
     )
     update finegrain.edit_tasks t set state = 'leased', editor_kind = $4, editor_name = $1,
       side = case p.preference when 'a' then 'b' else 'a' end,
       lease_sha256 = ($6::bytea[])[n.token], lease_seconds = $5::int,
       lease_expires_at = clock_timestamp() + make_interval(secs => $5::int)
     from numbered n, finegrain.pairs p
     where t.project_id = n.project_id and t.id = n.id and p.project_id = t.project_id and p.id = t.pair_id
     returning p.id, p.dataset_id, p.external_id, p.prompt, p.response_a, p.response_b, p.preference, p.metadata, p.votes_a, p.votes_b, p.votes_tie, p.created_at,
       t.id as task_id, t.edit_request_id, n.instructions, t.side, t.lease_expires_at, n.token - 1 as token,
       (select count(*) from free) > (select count(*) from numbered) as passed_over`,
    [
      claim.editorName,
      claim.requestId,
      claim.editors,
      claim.editorKind,
      claim.leaseSeconds,
      claim.leaseHashes,
    ],
  );
}

/** Pairs that the editor may still be given: those that are free, and those that others hold. */
export async function countPairsLeft(tx: Transaction, filter: ClaimFilter): Promise<number> {
  const rows = await tx.query<{ pairs: number }>(
    `select count(distinct t.pair_id) as pairs from finegrain.edit_requests r
     join finegrain.datasets d on d.project_id = r.project_id and d.id = r.dataset_id
     join finegrain.edit_tasks t on t.project_id = r.project_id and t.edit_request_id = r.id
     join finegrain.pairs p on p.project_id = t.project_id and p.id = t.pair_id
     where r.project_id = finegrain.current_project() and ($2::uuid is null or r.id = $2) and ${isOffered}
       and (t.editor_name is distinct from $1 or t.lease_expires_at <= clock_timestamp()) and ${mayGet(joined)}`,
    [filter.editorName, filter.requestId, filter.editors],
  );
  return rows[0]!.pairs;
}

export async function selectEditTask(tx: Transaction, id: string): Promise<EditTaskRow | undefined> {
  return (
    await tx.query<EditTaskRow>(`select ${columns} from finegrain.edit_tasks t where t.id = $1`, [id])
  )[0];
}

/** In the order of the work. `state` as an outsider sees it: a task whose lease is over is open. */
export function selectEditTasks(
  tx: Transaction,
  filter: { requestId: string | null; state: EditTaskState | null },
  page: { after: string | null; limit: number },
): Promise<EditTaskRow[]> {
  return tx.query<EditTaskRow>(
    `select ${columns} from finegrain.edit_tasks t
     where ($1::uuid is null or t.edit_request_id = $1)
       and ($2::text is null or $2 = case when t.state = 'leased' and t.lease_expires_at <= clock_timestamp() then 'open' else t.state end)
       and ($3::uuid is null or t.id > $3)
     order by t.id limit $4`,
    [filter.requestId, filter.state, page.after, page.limit],
  );
}

// the lease that a call names, still running
const held = `t.id = $1 and t.state = 'leased' and t.lease_sha256 = $2 and t.lease_expires_at > clock_timestamp()`;

export interface Lease {
  taskId: string;
  leaseHash: Buffer;
}

/** Runs the lease from now on again. undefined when it is not held. */
export async function renewLease(
  tx: Transaction,
  { taskId, leaseHash }: Lease,
  leaseSeconds: number | null,
): Promise<EditTaskRow | undefined> {
  return (
    await tx.query<EditTaskRow>(
      `update finegrain.edit_tasks t set lease_seconds = coalesce($3::int, t.lease_seconds),
         lease_expires_at = clock_timestamp() + make_interval(secs => coalesce($3::int, t.lease_seconds))
       where ${held} returning ${columns}`,
      [taskId, leaseHash, leaseSeconds],
    )
  )[0];
}

/** A task that was submitted, with its pair. */
export interface SubmittedTaskRow extends PairRow {
  side: 'a' | 'b';
  editor_kind: 'person' | 'llm' | 'program';
  editor_name: string;
}

/**
 * Ends the task with its edit, which the same transaction stores. Locks the pair first, as its deletion does, so that
 * neither waits for the other in a circle. undefined when the lease is not held.
 */
export async function submitTask(
  tx: Transaction,
  { taskId, leaseHash }: Lease,
): Promise<SubmittedTaskRow | undefined> {
  return (
    await tx.query<SubmittedTaskRow>(
      `with pair as materialized (
         select p.* from finegrain.pairs p
         where p.id = (select o.pair_id from finegrain.edit_tasks o where o.id = $1) for share
       )
       update finegrain.edit_tasks t set state = 'submitted' from pair p where ${held}
       returning p.id, p.dataset_id, p.external_id, p.prompt, p.response_a, p.response_b, p.preference, p.metadata, p.votes_a, p.votes_b, p.votes_tie, p.created_at,
         t.side, t.editor_kind, t.editor_name`,
      [taskId, leaseHash],
    )
  )[0];
}

/** Gives the task back. undefined when the lease is not held. */
export async function releaseTask(
  tx: Transaction,
  { taskId, leaseHash }: Lease,
): Promise<EditTaskRow | undefined> {
  return (
    await tx.query<EditTaskRow>(
      `update finegrain.edit_tasks t set state = 'open', editor_kind = null, editor_name = null,
         lease_sha256 = null, lease_seconds = null, lease_expires_at = null
       where ${held} returning ${columns}`,
      [taskId, leaseHash],
    )
  )[0];
}

/** Gives the task up; it keeps its editor. undefined when the lease is not held. */
export async function failTask(
  tx: Transaction,
  { taskId, leaseHash }: Lease,
  failure: TaskFailure,
): Promise<EditTaskRow | undefined> {
  return (
    await tx.query<EditTaskRow>(
      `update finegrain.edit_tasks t set state = 'failed', failure = $3 where ${held} returning ${columns}`,
      [taskId, leaseHash, JSON.stringify(failure)],
    )
  )[0];
}

/** Remembers that the editor would not edit this pair. */
export async function insertSkip(
  tx: Transaction,
  skip: {
    projectId: string;
    pairId: string;
    requestId: string;
    editorKind: string;
    editorName: string;
    reason: string | null;
  },
): Promise<void> {
  await tx.query(
    `insert into finegrain.edit_skips (project_id, pair_id, editor_name, editor_kind, edit_request_id, reason)
     values ($1, $2, $3, $4, $5, $6) on conflict do nothing`,
    [skip.projectId, skip.pairId, skip.editorName, skip.editorKind, skip.requestId, skip.reason],
  );
}
