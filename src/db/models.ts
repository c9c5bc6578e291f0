// Statements on models and their aliases.
import type { Transaction } from './pool.ts';

export interface ModelRow {
  /** null for the shipped sample, which is every project's */
  project_id: string | null;
  id: string;
  name: string;
  role: 'policy' | 'token_reward' | 'sequence_reward';
  digest: string;
  tokenizer_digest: string;
  files: { path: string; digest: string; bytes: number }[];
  metrics: Record<string, unknown>;
  run_id: string | null;
  created_at: Date;
}

const columns = 'project_id, id, name, role, digest, tokenizer_digest, files, metrics, run_id, created_at';

export async function selectModel(tx: Transaction, id: string): Promise<ModelRow | undefined> {
  return (await tx.query<ModelRow>(`select ${columns} from finegrain.models where id = $1`, [id]))[0];
}

export async function selectModelByAlias(tx: Transaction, alias: string): Promise<ModelRow | undefined> {
  const rows = await tx.query<ModelRow>(
    `select ${columns} from finegrain.models
     where (project_id, id) = (select project_id, model_id from finegrain.aliases where name = $1)`,
    [alias],
  );
  return rows[0];
}

/** A page in the order of registration, after the given id. */
export function selectModels(
  tx: Transaction,
  page: { after: string | null; limit: number; role: ModelRow['role'] | null },
): Promise<ModelRow[]> {
  return tx.query<ModelRow>(
    `select ${columns} from finegrain.models
     where ($1::uuid is null or id > $1) and ($3::text is null or role = $3)
     order by id limit $2`,
    [page.after, page.limit, page.role],
  );
}

export async function insertModel(
  tx: Transaction,
  model: Pick<ModelRow, 'id' | 'name' | 'role' | 'digest' | 'tokenizer_digest' | 'files' | 'metrics'> & {
    projectId: string;
  },
): Promise<ModelRow> {
  const rows = await tx.query<ModelRow>(
    `insert into finegrain.models (project_id, id, name, role, digest, tokenizer_digest, files, metrics)
     values ($1, $2, $3, $4, $5, $6, $7, $8) returning ${columns}`,
    [
      model.projectId,
      model.id,
      model.name,
      model.role,
      model.digest,
      model.tokenizer_digest,
      JSON.stringify(model.files),
      JSON.stringify(model.metrics),
    ],
  );
  return rows[0]!;
}

/** @throws DatabaseError 23503 while an alias names the model */
export async function deleteModel(tx: Transaction, id: string): Promise<ModelRow | undefined> {
  return (
    await tx.query<ModelRow>(`delete from finegrain.models where id = $1 returning ${columns}`, [id])
  )[0];
}

export interface AliasRow {
  name: string;
  model_id: string;
  updated_at: Date;
}

/** By name, in the order of its bytes; a project has few. */
export function selectAliases(tx: Transaction): Promise<AliasRow[]> {
  return tx.query<AliasRow>(
    'select name, model_id, updated_at from finegrain.aliases order by name collate "C"',
  );
}

export async function selectAliasesOfModel(tx: Transaction, modelId: string): Promise<string[]> {
  const rows = await tx.query<{ name: string }>(
    'select name from finegrain.aliases where model_id = $1 order by name',
    [modelId],
  );
  return rows.map(({ name }) => name);
}

export async function selectAlias(tx: Transaction, name: string): Promise<AliasRow | undefined> {
  return (
    await tx.query<AliasRow>('select name, model_id, updated_at from finegrain.aliases where name = $1', [
      name,
    ])
  )[0];
}

/** Nobody else moves or deletes it until the transaction ends. */
export async function lockAlias(tx: Transaction, name: string): Promise<AliasRow | undefined> {
  return (
    await tx.query<AliasRow>(
      'select name, model_id, updated_at from finegrain.aliases where name = $1 for update',
      [name],
    )
  )[0];
}

/** undefined when there is one of the name already. @throws DatabaseError 23503 when the model is gone */
export async function insertAlias(
  tx: Transaction,
  alias: { projectId: string; name: string; modelId: string },
): Promise<AliasRow | undefined> {
  return (
    await tx.query<AliasRow>(
      `insert into finegrain.aliases (project_id, name, model_id) values ($1, $2, $3)
       on conflict do nothing returning name, model_id, updated_at`,
      [alias.projectId, alias.name, alias.modelId],
    )
  )[0];
}

/** @throws DatabaseError 23503 when the model is gone */
export async function moveAlias(
  tx: Transaction,
  alias: { name: string; modelId: string },
): Promise<AliasRow> {
  const rows = await tx.query<AliasRow>(
    `update finegrain.aliases set model_id = $2, updated_at = now() where name = $1
     returning name, model_id, updated_at`,
    [alias.name, alias.modelId],
  );
  return rows[0]!;
}

export async function deleteAlias(tx: Transaction, name: string): Promise<void> {
  await tx.query('delete from finegrain.aliases where name = $1', [name]);
}
