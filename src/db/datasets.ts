// Statements on datasets.
import type { Transaction } from './pool.ts';

export interface DatasetRow {
  id: string;
  name: string;
  description: string | null;
  edit_policy: object;
  created_at: Date;
  archived_at: Date | null;
}

const columns = 'id, name, description, edit_policy, created_at, archived_at';

export async function insertDataset(
  tx: Transaction,
  dataset: { projectId: string; id: string; name: string; description: string | null; editPolicy: object },
): Promise<DatasetRow> {
  const rows = await tx.query<DatasetRow>(
    `insert into finegrain.datasets (project_id, id, name, description, edit_policy) values ($1, $2, $3, $4, $5) returning ${columns}`,
    [dataset.projectId, dataset.id, dataset.name, dataset.description, dataset.editPolicy],
  );
  return rows[0]!;
}

export async function selectDataset(tx: Transaction, id: string): Promise<DatasetRow | undefined> {
  return (await tx.query<DatasetRow>(`select ${columns} from finegrain.datasets where id = $1`, [id]))[0];
}

/** By dataset id, as they are stored. */
export async function selectEditPolicies(tx: Transaction, ids: string[]): Promise<Map<string, object>> {
  const rows = await tx.query<{ id: string; edit_policy: object }>(
    'select id, edit_policy from finegrain.datasets where id = any ($1::uuid[])',
    [ids],
  );
  return new Map(rows.map(({ id, edit_policy }) => [id, edit_policy]));
}

/** Nobody else changes it until the transaction ends. */
export async function lockDataset(tx: Transaction, id: string): Promise<DatasetRow | undefined> {
  return (
    await tx.query<DatasetRow>(`select ${columns} from finegrain.datasets where id = $1 for no key update`, [
      id,
    ])
  )[0];
}

/** A page in the order of creation, after the given id. */
export function selectDatasets(
  tx: Transaction,
  page: { after: string | null; limit: number; archived: boolean },
): Promise<DatasetRow[]> {
  return tx.query<DatasetRow>(
    `select ${columns} from finegrain.datasets
     where ($1::uuid is null or id > $1) and ($3 or archived_at is null)
     order by id limit $2`,
    [page.after, page.limit, page.archived],
  );
}

/** Changes what is given; undefined leaves a column as it is. */
export async function updateDataset(
  tx: Transaction,
  id: string,
  change: {
    name?: string | undefined;
    description?: string | null | undefined;
    archived?: boolean | undefined;
    editPolicy?: object | undefined;
  },
): Promise<DatasetRow | undefined> {
  const rows = await tx.query<DatasetRow>(
    `update finegrain.datasets set
       name = coalesce($2, name),
       description = case when $3 then $4 else description end,
       archived_at = case when $5::boolean is null then archived_at when $5 then coalesce(archived_at, now()) end,
       edit_policy = edit_policy || coalesce($6::jsonb, '{}')
     where id = $1 returning ${columns}`,
    [
      id,
      change.name ?? null,
      change.description !== undefined,
      change.description ?? null,
      change.archived ?? null,
      change.editPolicy ?? null,
    ],
  );
  return rows[0];
}

/** In code points; null where there is no text. */
export interface LengthsRow {
  min: number | null;
  median: number | null;
  mean: number | null;
  p95: number | null;
  max: number | null;
}

/** Of the numbers in the column `name`, as one JSON object. */
const lengthsOf = (name: string): string => `jsonb_build_object('min', min(${name}), 'max', max(${name}),
  'mean', round(avg(${name}), 1), 'median', percentile_disc(0.5) within group (order by ${name}),
  'p95', percentile_disc(0.95) within group (order by ${name}))`;

export interface PairStatsRow {
  pairs: number;
  preferred_a: number;
  preferred_b: number;
  undecided: number;
  prompt_lengths: LengthsRow;
  response_a_lengths: LengthsRow;
  response_b_lengths: LengthsRow;
  repeated_prompts: number;
  repeated_pairs: number;
  identical_responses: number;
  first_created_at: Date | null;
  last_created_at: Date | null;
}

/** The length of a conversation is that of its messages together. */
export async function selectPairStats(tx: Transaction, datasetId: string): Promise<PairStatsRow> {
  const rows = await tx.query<PairStatsRow>(
    `with measured as materialized (
       select preference, created_at, identity_sha256, jsonb_hash_extended(prompt, 0) as prompt, response_a = response_b as identical,
         case jsonb_typeof(prompt) when 'string' then char_length(prompt #>> '{}')
           else (select sum(char_length(m ->> 'content')) from jsonb_array_elements(prompt) m) end as prompt_length,
         char_length(response_a) as a_length, char_length(response_b) as b_length
       from finegrain.pairs where dataset_id = $1
     )
     select count(*) as pairs,
       count(*) filter (where preference = 'a') as preferred_a,
       count(*) filter (where preference = 'b') as preferred_b,
       count(*) filter (where preference is null) as undecided,
       ${lengthsOf('prompt_length')} as prompt_lengths,
       ${lengthsOf('a_length')} as response_a_lengths,
       ${lengthsOf('b_length')} as response_b_lengths,
       (select coalesce(sum(n), 0)::bigint from (
         select count(*) as n from measured group by prompt having count(*) > 1) r) as repeated_prompts,
       (select coalesce(sum(n), 0)::bigint from (
         select count(*) as n from measured group by identity_sha256 having count(*) > 1) r) as repeated_pairs,
       count(*) filter (where identical) as identical_responses,
       min(created_at) as first_created_at, max(created_at) as last_created_at
     from measured`,
    [datasetId],
  );
  return rows[0]!;
}

export interface EditStatsRow {
  edits: number;
  edited_pairs: number;
  by_status: Record<string, number>;
  by_editor: Record<string, number>;
  lengths: LengthsRow;
  /** of the accepted ones; 1 - similarity */
  mean_changed_fraction: number | null;
}

export async function selectEditStats(tx: Transaction, datasetId: string): Promise<EditStatsRow> {
  const rows = await tx.query<EditStatsRow>(
    `with measured as materialized (
       select e.pair_id, e.status, e.editor_kind, char_length(e.edited_response) as length,
         case when e.status = 'accepted' then 1 - (e.alignment #> '{stats,similarity}')::float8 end as changed
       from finegrain.edits e join finegrain.pairs p on p.project_id = e.project_id and p.id = e.pair_id
       where p.dataset_id = $1
     )
     select count(*) as edits,
       count(distinct pair_id) filter (where status = 'accepted') as edited_pairs,
       (select coalesce(jsonb_object_agg(status, n), '{}') from (
         select status, count(*) as n from measured group by status) s) as by_status,
       (select coalesce(jsonb_object_agg(editor_kind, n), '{}') from (
         select editor_kind, count(*) as n from measured group by editor_kind) s) as by_editor,
       ${lengthsOf('length')} as lengths,
       avg(changed) as mean_changed_fraction
     from measured`,
    [datasetId],
  );
  return rows[0]!;
}
