// Registered models and aliases, the movable names of models. Runs register models (runner_finish in migration 0003), and
// so do projects that have uploaded the files of one (model-examination.ts); beside those of a project stands the shipped sample (sample-model.ts), which carries the scoring alias by default.
import type { Readable } from 'node:stream';
import { v7 as uuidv7 } from 'uuid';
import * as db from '../db/models.ts';
import { sqlState, type Transaction } from '../db/pool.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { notFound, Problem } from '../errors.ts';
import { recordAct } from './audit.ts';
import type { Caller, Services } from './context.ts';
import type { ExaminedModel } from './model-examination.ts';
import { ArtifactsGone, holdArtifacts } from './named-artifacts.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { checkPrecondition, type Precondition } from './preconditions.ts';
import type { SampleModel } from './sample-model.ts';

export type ModelRole = db.ModelRow['role'];

/** The default model of scoring; only a model of the role token_reward may carry it. The sample does until then. */
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
  shared: boolean;
  created_at: string;
}

/** True for the shipped sample, which is every project's and none's. */
export const isShared = ({ sample }: Services, { id }: db.ModelRow): boolean => id === sample?.row.id;

function render(services: Services, row: db.ModelRow): Model {
  return {
    id: formatId('model', row.id),
    name: row.name,
    role: row.role,
    digest: row.digest,
    tokenizer_digest: row.tokenizer_digest,
    files: row.files,
    metrics: row.metrics,
    run_id: row.run_id && formatId('run', row.run_id),
    shared: isShared(services, row),
    created_at: row.created_at.toISOString(),
  };
}

/** The model of an id that the project can use; its files are in the artifact store. @throws Problem unavailable */
export async function findModelById(
  { sample }: Services,
  tx: Transaction,
  id: string,
): Promise<db.ModelRow | undefined> {
  const uuid = parseId('model', id);
  if (sample && uuid === sample.row.id) return usable(sample);
  return uuid ? db.selectModel(tx, uuid) : undefined;
}

/** What an alias stands for in the project; as findModelById. */
export async function findModelByAlias(
  { sample }: Services,
  tx: Transaction,
  alias: string,
): Promise<db.ModelRow | undefined> {
  const row = await db.selectModelByAlias(tx, alias);
  return row || alias !== scoringAlias || !sample ? row : usable(sample);
}

async function usable(sample: SampleModel): Promise<db.ModelRow> {
  await sample.store();
  return sample.row;
}

/** The model behind an id or an alias. @throws Problem not_found, unavailable */
export async function resolveModel(
  services: Services,
  tx: Transaction,
  idOrAlias: string,
  pointer?: string,
): Promise<db.ModelRow> {
  const row = parseId('model', idOrAlias)
    ? await findModelById(services, tx, idOrAlias)
    : await findModelByAlias(services, tx, idOrAlias);
  if (!row) throw notFound('model', idOrAlias, pointer);
  return row;
}

export function listModels(
  services: Services,
  caller: Caller,
  request: PageRequest & { role?: ModelRole },
): Promise<Page<Model>> {
  const role = request.role ?? null;
  const shared =
    services.sample && [null, services.sample.row.role].includes(role) ? services.sample.row : null;
  return services.db.transaction(caller.projectId, (tx) =>
    readPage(
      { cursors: services.cursors, tx, projectId: caller.projectId, list: 'models' },
      request,
      async ({ after, limit }) => {
        const rows = await db.selectModels(tx, { after, limit, role });
        if (shared === null || (after !== null && shared.id <= after)) return rows;
        return [shared, ...rows].sort((a, b) => (a.id < b.id ? -1 : 1)).slice(0, limit);
      },
      (row) => render(services, row),
    ),
  );
}

/**
 * Registers a model, once more if there is one of equal files: ids and names are many, the digest is one.
 * @param model as examineModel has found it
 * @throws Problem unavailable when a file has vanished from the store since then
 */
export function registerModel(services: Services, caller: Caller, model: ExaminedModel): Promise<Model> {
  const { projectId } = caller;
  return services.db.transaction(projectId, async (tx) => {
    const digests = model.files.map(({ digest }) => digest);
    await holdArtifacts(tx, services.artifacts, digests).catch((error) => {
      if (!(error instanceof ArtifactsGone)) throw error;
      throw new Problem('unavailable', `${error.message} Upload again what is gone.`);
    });
    const row = await db.insertModel(tx, { ...model, projectId, id: uuidv7() });
    const { name, role, digest } = row;
    const registered = render(services, row);
    await recordAct(tx, caller, {
      action: 'model.registered',
      subject: registered.id,
      detail: { name, role, digest },
    });
    return registered;
  });
}

export function getModel(services: Services, caller: Caller, idOrAlias: string): Promise<Model> {
  return services.db.transaction(caller.projectId, async (tx) =>
    render(services, await resolveModel(services, tx, idOrAlias)),
  );
}

/**
 * A model never changes, so that nothing has to be held for the condition.
 * @throws Problem not_found, precondition_failed; conflict while an alias names the model, and for the shipped sample
 */
export function deleteModel(
  services: Services,
  caller: Caller,
  id: string,
  condition: Precondition,
): Promise<void> {
  const { db: database, sample } = services;
  return database.transaction(caller.projectId, async (tx) => {
    const uuid = parseId('model', id);
    if (!uuid) throw notFound('model', id);
    if (uuid === sample?.row.id) {
      throw new Problem(
        'conflict',
        `The model ships with finegrain and belongs to every project; it cannot be deleted. Give the alias ${scoringAlias} to a model of your own, and it is used no longer.`,
      );
    }
    const row = await db.selectModel(tx, uuid);
    if (!row) throw notFound('model', id);
    checkPrecondition(condition, render(services, row));
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
    const { name, role, digest } = deleted;
    await recordAct(tx, caller, { action: 'model.deleted', subject: id, detail: { name, role, digest } });
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
  default: boolean;
  updated_at: string;
}

const renderAlias = (row: db.AliasRow): Alias => ({
  name: row.name,
  model_id: formatId('model', row.model_id),
  default: false,
  updated_at: row.updated_at.toISOString(),
});

/** The scoring alias of a project that has given it to no model. */
const defaultAlias = ({ row }: SampleModel): Alias => ({
  name: scoringAlias,
  model_id: formatId('model', row.id),
  default: true,
  updated_at: row.created_at.toISOString(),
});

export function listAliases({ db: database, sample }: Services, caller: Caller): Promise<{ items: Alias[] }> {
  return database.transaction(caller.projectId, async (tx) => {
    const items = (await db.selectAliases(tx)).map(renderAlias);
    if (!sample || items.some(({ name }) => name === scoringAlias)) return { items };
    return { items: [...items, defaultAlias(sample)].sort((a, b) => (a.name < b.name ? -1 : 1)) };
  });
}

/** What an alias stands for now: given by the project, the default, or null for no alias. */
function presentAlias(row: db.AliasRow | undefined, name: string, sample: SampleModel | null): Alias | null {
  if (row) return renderAlias(row);
  return sample && name === scoringAlias ? defaultAlias(sample) : null;
}

/** @throws Problem not_found */
export function getAlias({ db: database, sample }: Services, caller: Caller, name: string): Promise<Alias> {
  return database.transaction(caller.projectId, async (tx) => {
    const alias = presentAlias(await db.selectAlias(tx, name), name, sample);
    if (!alias) throw notFound('alias', name);
    return alias;
  });
}

/**
 * Sets or moves an alias. Who uses it counts on its role, so that stays: a policy never follows a reward model.
 * The shipped sample gets the scoring alias back, by its row's deletion, and no other: aliases refer to models of the project.
 * @throws Problem not_found, unprocessable, precondition_failed
 */
export function setAlias(
  { db: database, sample }: Services,
  caller: Caller,
  name: string,
  modelId: string,
  condition: Precondition,
): Promise<Alias> {
  return database.transaction(caller.projectId, async (tx) => {
    const uuid = parseId('model', modelId);
    const toSample = sample !== null && uuid === sample.row.id;
    if (toSample && name !== scoringAlias) throw sampleTakesNoOther(name);
    const model = toSample ? sample.row : uuid && (await db.selectModel(tx, uuid));
    if (!model) throw notFound('model', modelId, '/model_id');
    const act = { action: 'alias.set', subject: name, detail: { model_id: modelId } } as const;
    for (;;) {
      const row = await db.lockAlias(tx, name);
      checkPrecondition(condition, presentAlias(row, name, sample));
      if (toSample) {
        if (row) await db.deleteAlias(tx, name);
        await recordAct(tx, caller, act);
        return defaultAlias(sample);
      }
      await checkRole(tx, name, model);
      const alias = { projectId: caller.projectId, name, modelId: model.id };
      const set = await (row ? db.moveAlias(tx, alias) : db.insertAlias(tx, alias)).catch((error) => {
        throw sqlState(error) === foreignKeyViolation ? notFound('model', modelId, '/model_id') : error;
      });
      if (set) {
        await recordAct(tx, caller, act);
        return renderAlias(set);
      }
      // somebody else has just set it: look again, as its state is another now
    }
  });
}

/** @throws Problem unprocessable */
async function checkRole(tx: Transaction, name: string, model: db.ModelRow): Promise<void> {
  const role =
    name === scoringAlias ? 'token_reward' : ((await db.selectModelByAlias(tx, name))?.role ?? model.role);
  if (model.role === role) return;
  throw new Problem(
    'unprocessable',
    `The alias ${name} names a model of the role ${role}, and this model has the role ${model.role}.`,
    { errors: [{ pointer: '/model_id', detail: `is a ${model.role} model`, in: 'body' }] },
  );
}

function sampleTakesNoOther(name: string): Problem {
  return new Problem(
    'unprocessable',
    `The shipped sample carries the alias ${scoringAlias} and takes no other. Name it by its id where you would have used ${name}.`,
    { errors: [{ pointer: '/model_id', detail: 'is the shipped sample', in: 'body' }] },
  );
}

/** @throws Problem not_found, precondition_failed; conflict for the default of the scoring alias */
export function deleteAlias(
  { db: database, sample }: Services,
  caller: Caller,
  name: string,
  condition: Precondition,
): Promise<void> {
  return database.transaction(caller.projectId, async (tx) => {
    const row = await db.lockAlias(tx, name);
    if (row) {
      checkPrecondition(condition, renderAlias(row));
      await db.deleteAlias(tx, name);
      const detail = { model_id: formatId('model', row.model_id) };
      return recordAct(tx, caller, { action: 'alias.removed', subject: name, detail });
    }
    if (!sample || name !== scoringAlias) throw notFound('alias', name);
    throw new Problem(
      'conflict',
      `${scoringAlias} names the shipped sample as long as the project gives it to no model of its own; there is nothing to delete.`,
    );
  });
}
