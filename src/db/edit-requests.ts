// Statements on edit requests.
import { fitsPairFilter, type PairFilterValues, pairFilterParameters } from './pairs.ts';
import type { Transaction } from './pool.ts';

export type EditRequestState = 'open' | 'stopped' | 'expired' | 'finished' | 'cancelled';

export interface EditRequestRow {
  id: string;
  dataset_id: string;
  filter: unknown;
  editor: string;
  redundancy: number;
  instructions: string | null;
  deadline: Date | null;
  pairs: number;
  skipped: unknown;
  state: EditRequestState;
  created_at: Date;
  cancelled_at: Date | null;
}

const columns = `r.id, r.dataset_id, r.filter, r.editor, r.redundancy, r.instructions, r.deadline, r.pairs, r.skipped, r.created_at, r.cancelled_at,
  case when r.cancelled_at is not null then 'cancelled'
    when not exists (select from finegrain.edit_tasks t
      where t.project_id = r.project_id and t.edit_request_id = r.id and t.state in ('open', 'leased')) then 'finished'
    when r.deadline <= clock_timestamp() then 'expired'
    when exists (select from finegrain.llm_work l
      where l.project_id = r.project_id and l.id = r.id and l.stopped is not null) then 'stopped'
    else 'open' end as state`;

export interface NewEditRequest {
  projectId: string;
  id: string;
  datasetId: string;
  /** as the caller gave it */
  filter: unknown;
  values: PairFilterValues;
  /** pairs at most */
  limit: number | null;
  editor: string;
  redundancy: number;
  instructions: string | null;
  deadline: Date | null;
}

/**
 * Makes a request and all of its tasks in one statement, for 100,000 pairs too. The pairs are locked, so that none
 * is deleted meanwhile.
 */
export async function insertEditRequest(tx: Transaction, request: NewEditRequest): Promise<void> {
  await tx.query(
    `with matching as materialized (
       select p.id, p.preference from finegrain.pairs p
       where p.dataset_id = $3
         and ${fitsPairFilter(4)}
     ), chosen as materialized (
       select p.id, p.preference from finegrain.pairs p
       where p.id in (select m.id from matching m where m.preference is not null order by m.id limit $10)
       for key share
     ), added as (
       insert into finegrain.edit_tasks (project_id, id, edit_request_id, pair_id, slot, side)
       select $1, finegrain.numbered_uuid($2, row_number() over (order by slot, c.id) - 1), $2, c.id, slot,
         case c.preference when 'a' then 'b' else 'a' end
       from chosen c cross join generate_series(1, $11::int) as slot
     )
     insert into finegrain.edit_requests (project_id, id, dataset_id, filter, editor, redundancy, instructions, deadline, pairs, skipped)
     select $1, $2, $3, $12, $13, $11, $14, $15, (select count(*) from chosen),
       jsonb_build_object(
         'no_preference', (select count(*) from matching where preference is null),
         'over_limit', (select count(*) from matching where preference is not null) - (select count(*) from chosen),
         'unknown_external_ids', (select count(distinct n.external_id) from unnest($4) as n (external_id)
           where not exists (select from finegrain.pairs p
             where p.project_id = $1 and p.dataset_id = $3 and p.external_id = n.external_id)))`,
    [
      request.projectId,
      request.id,
      request.datasetId,
      ...pairFilterParameters(request.values),
      request.limit,
      request.redundancy,
      JSON.stringify(request.filter),
      request.editor,
      request.instructions,
      request.deadline,
    ],
  );
}

export async function selectEditRequest(tx: Transaction, id: string): Promise<EditRequestRow | undefined> {
  return (
    await tx.query<EditRequestRow>(`select ${columns} from finegrain.edit_requests r where r.id = $1`, [id])
  )[0];
}

/** Holds a request and its unfinished tasks as they are until the transaction ends: nobody claims, submits or cancels. */
export async function lockEditRequest(tx: Transaction, id: string): Promise<void> {
  await tx.query('select from finegrain.edit_requests where id = $1 for no key update', [id]);
  await tx.query(
    `with locked as materialized (
       select from finegrain.edit_tasks where edit_request_id = $1 and state in ('open', 'leased') order by id for update)
     select count(*) from locked`,
    [id],
  );
}

/** A page, oldest first, after the given id. */
export function selectEditRequests(
  tx: Transaction,
  filter: { datasetId: string | null },
  page: { after: string | null; limit: number },
): Promise<EditRequestRow[]> {
  return tx.query<EditRequestRow>(
    `select ${columns} from finegrain.edit_requests r
     where ($1::uuid is null or r.id > $1) and ($3::uuid is null or r.dataset_id = $3)
     order by r.id limit $2`,
    [page.after, page.limit, filter.datasetId],
  );
}

export interface EditProgressRow {
  open: number;
  leased: number;
  submitted: number;
  failed: number;
  cancelled: number;
  total: number;
  skipped: number;
}

/** Tasks by state (one whose lease is over is open), and skips. */
export async function selectEditProgress(tx: Transaction, requestId: string): Promise<EditProgressRow> {
  const rows = await tx.query<EditProgressRow>(
    `select count(*) filter (where state = 'open' or (state = 'leased' and lease_expires_at <= now.at)) as open,
            count(*) filter (where state = 'leased' and lease_expires_at > now.at) as leased,
            count(*) filter (where state = 'submitted') as submitted,
            count(*) filter (where state = 'failed') as failed,
            count(*) filter (where state = 'cancelled') as cancelled,
            count(*) as total,
            (select count(*) from finegrain.edit_skips where edit_request_id = $1) as skipped
     from finegrain.edit_tasks, (select clock_timestamp() as at) as now
     where edit_request_id = $1`,
    [requestId],
  );
  return rows[0]!;
}

export interface EditorProgressRow {
  kind: 'person' | 'llm' | 'program';
  name: string;
  submitted: number;
  leased: number;
  failed: number;
  skipped: number;
}

/** What each editor has done of a request; the busiest first. */
export function selectEditorProgress(tx: Transaction, requestId: string): Promise<EditorProgressRow[]> {
  return tx.query<EditorProgressRow>(
    `select kind, name, count(*) filter (where what = 'submitted') as submitted,
       count(*) filter (where what = 'leased') as leased, count(*) filter (where what = 'failed') as failed,
       count(*) filter (where what = 'skipped') as skipped
     from (
       select editor_kind as kind, editor_name as name, state as what from finegrain.edit_tasks
       where edit_request_id = $1 and (state in ('submitted', 'failed') or (state = 'leased' and lease_expires_at > clock_timestamp()))
       union all
       select editor_kind, editor_name, 'skipped' from finegrain.edit_skips where edit_request_id = $1
     ) as done
     group by kind, name order by submitted desc, name collate "C", kind`,
    [requestId],
  );
}

/** Opens the tasks that failed again: every editor may get them, the one that failed too. */
export async function reopenFailedTasks(tx: Transaction, requestId: string): Promise<void> {
  await tx.query(
    `update finegrain.edit_tasks set state = 'open', editor_kind = null, editor_name = null,
       lease_sha256 = null, lease_seconds = null, lease_expires_at = null, failure = null
     where edit_request_id = $1 and state = 'failed'`,
    [requestId],
  );
}

/**
 * Cancels what is not submitted, if there is anything; asking twice changes nothing. A claim that is under way holds its
 * rows until it commits, and this waits for them: after it no task of the request is open or leased.
 */
export async function cancelEditRequest(tx: Transaction, id: string): Promise<void> {
  await tx.query(
    `with cancelled as (
       update finegrain.edit_requests r set cancelled_at = clock_timestamp()
       where r.id = $1 and r.cancelled_at is null and exists (select from finegrain.edit_tasks t
         where t.project_id = r.project_id and t.edit_request_id = r.id and t.state in ('open', 'leased')))
     update finegrain.edit_tasks set state = 'cancelled', editor_kind = null, editor_name = null,
       lease_sha256 = null, lease_seconds = null, lease_expires_at = null
     where edit_request_id = $1 and state in ('open', 'leased')`,
    [id],
  );
}
