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

export interface DatasetStatsRow {
  pairs: number;
  preferred_a: number;
  preferred_b: number;
  undecided: number;
  edited_pairs: number;
  accepted_edits: number;
}

export async function selectDatasetStats(tx: Transaction, id: string): Promise<DatasetStatsRow> {
  const rows = await tx.query<DatasetStatsRow>(
    `select count(*) as pairs,
            count(*) filter (where preference = 'a') as preferred_a,
            count(*) filter (where preference = 'b') as preferred_b,
            count(*) filter (where preference is null) as undecided,
            count(e.accepted) as edited_pairs,
            coalesce(sum(e.accepted), 0)::bigint as accepted_edits
     from finegrain.pairs p
     left join lateral (
       select nullif(count(*), 0) as accepted from finegrain.edits e
       where e.project_id = p.project_id and e.pair_id = p.id and e.status = 'accepted') e on true
     where p.dataset_id = $1`,
    [id],
  );
  return rows[0]!;
}
