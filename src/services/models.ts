// Registered models and aliases, the movable names of models. Runs register models (runner_finish in migration 0003).
import type { Readable } from 'node:stream';
import * as db from '../db/models.ts';
import { sqlState, type Transaction } from '../db/pool.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { notFound, Problem } from '../errors.ts';
import type { Caller, Services } from './context.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';

export type ModelRole = db.ModelRow['role'];

/** The default model of scoring; only a model of the role token_reward may carry it. */
export const scoringAlias = 'token-reward';

export interface Model {
  id: string;
  name: string;
  role: ModelRole;
  digest: string;
  tokenizer_digest: string;
  files: { path: string; digest: string; bytes: number }[];
  metrics: Record<string, unknown>;
  run_id: string | null;
  created_at: string;
}

function render(row: db.ModelRow): Model {
  return {
    id: formatId('model', row.id),
    name: row.name,
    role: row.role,
    digest: row.digest,
    tokenizer_digest: row.tokenizer_digest,
    files: row.files,
    metrics: row.metrics,
    run_id: row.run_id && formatId('run', row.run_id),
    created_at: row.created_at.toISOString(),
  };
}

/** The row behind a model id or an alias. @throws Problem not_found */
export async function resolveModel(
  tx: Transaction,
  idOrAlias: string,
  pointer?: string,
): Promise<db.ModelRow> {
  const uuid = parseId('model', idOrAlias);
  const row = uuid ? await db.selectModel(tx, uuid) : await db.selectModelByAlias(tx, idOrAlias);
  if (!row) throw notFound('model', idOrAlias, pointer);
  return row;
}

export function listModels(
  { db: database }: Services,
  caller: Caller,
  request: PageRequest & { role?: ModelRole },
): Promise<Page<Model>> {
  return database.transaction(caller.projectId, (tx) =>
    readPage(request, (page) => db.selectModels(tx, { ...page, role: request.role ?? null }), render),
  );
}

export function getModel({ db: database }: Services, caller: Caller, idOrAlias: string): Promise<Model> {
  return database.transaction(caller.projectId, async (tx) => render(await resolveModel(tx, idOrAlias)));
}

/** @throws Problem conflict while an alias names the model */
export function deleteModel({ db: database }: Services, caller: Caller, id: string): Promise<void> {
  return database.transaction(caller.projectId, async (tx) => {
    const uuid = parseId('model', id);
    if (!uuid) throw notFound('model', id);
    const aliases = await db.selectAliasesOfModel(tx, uuid);
    if (aliases.length > 0) {
      throw new Problem(
        'conflict',
        `The model carries the alias ${aliases.join(', ')}. Move or delete the alias first.`,
      );
    }
    const deleted = await db.deleteModel(tx, uuid).catch((error) => {
      if (sqlState(error) !== foreignKeyViolation) throw error;
      throw new Problem('conflict', 'The model was just given an alias. Move or delete the alias first.');
    });
    if (!deleted) throw notFound('model', id);
  });
}

const foreignKeyViolation = '23503';

/** One file of a model. @throws Problem not_found */
export async function openModelFile(
  services: Services,
  caller: Caller,
  idOrAlias: string,
  path: string,
): Promise<{ file: Model['files'][number]; content: Readable }> {
  const { files } = await getModel(services, caller, idOrAlias);
  const file = files.find((candidate) => candidate.path === path);
  if (!file) {
    throw new Problem(
      'not_found',
      `The model has no file ${JSON.stringify(path)}; it has ${files.map((known) => known.path).join(', ')}.`,
    );
  }
  return { file, content: services.artifacts.read(file.digest) };
}

export interface Alias {
  name: string;
  model_id: string;
  updated_at: string;
}

const renderAlias = (row: db.AliasRow): Alias => ({
  name: row.name,
  model_id: formatId('model', row.model_id),
  updated_at: row.updated_at.toISOString(),
});

export function listAliases({ db: database }: Services, caller: Caller): Promise<{ items: Alias[] }> {
  return database.transaction(caller.projectId, async (tx) => ({
    items: (await db.selectAliases(tx)).map(renderAlias),
  }));
}

/**
 * Sets or moves an alias. Who uses it counts on its role, so that stays: a policy never follows a reward model.
 * @throws Problem not_found, unprocessable
 */
export function setAlias(
  { db: database }: Services,
  caller: Caller,
  name: string,
  modelId: string,
): Promise<Alias> {
  return database.transaction(caller.projectId, async (tx) => {
    const uuid = parseId('model', modelId);
    const model = uuid && (await db.selectModel(tx, uuid));
    if (!model) throw notFound('model', modelId, '/model_id');
    const role =
      name === scoringAlias ? 'token_reward' : ((await db.selectModelByAlias(tx, name))?.role ?? model.role);
    if (model.role !== role) {
      throw new Problem(
        'unprocessable',
        `The alias ${name} names a model of the role ${role}, and this model has the role ${model.role}.`,
        { errors: [{ pointer: '/model_id', detail: `is a ${model.role} model`, in: 'body' }] },
      );
    }
    const alias = { projectId: caller.projectId, name, modelId: model.id };
    return renderAlias(
      await db.upsertAlias(tx, alias).catch((error) => {
        throw sqlState(error) === foreignKeyViolation ? notFound('model', modelId, '/model_id') : error;
      }),
    );
  });
}

export function deleteAlias({ db: database }: Services, caller: Caller, name: string): Promise<void> {
  return database.transaction(caller.projectId, async (tx) => {
    if (!(await db.deleteAlias(tx, name))) throw notFound('alias', name);
  });
}
