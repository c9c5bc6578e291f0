// Datasets: named collections of preference pairs.
import { v7 as uuidv7 } from 'uuid';
import * as db from '../db/datasets.ts';
import type { Transaction } from '../db/pool.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { notFound } from '../errors.ts';
import { recordAct } from './audit.ts';
import type { Caller, Services } from './context.ts';
import { completePolicy, type EditPolicy } from './edit-policy.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { checkPrecondition, type Precondition } from './preconditions.ts';

export interface Dataset {
  id: string;
  name: string;
  description: string | null;
  edit_policy: EditPolicy;
  created_at: string;
  archived_at: string | null;
}

function render(row: db.DatasetRow): Dataset {
  return {
    id: formatId('dataset', row.id),
    name: row.name,
    description: row.description,
    edit_policy: completePolicy(row.edit_policy),
    created_at: row.created_at.toISOString(),
    archived_at: row.archived_at?.toISOString() ?? null,
  };
}

export function createDataset(
  { db: database }: Services,
  caller: Caller,
  input: { name: string; description?: string | null; edit_policy?: Partial<EditPolicy> },
): Promise<Dataset> {
  return database.transaction(caller.projectId, async (tx) =>
    render(
      await db.insertDataset(tx, {
        projectId: caller.projectId,
        id: uuidv7(),
        name: input.name,
        description: input.description ?? null,
        editPolicy: input.edit_policy ?? {},
      }),
    ),
  );
}

export function listDatasets(
  { db: database, cursors }: Services,
  caller: Caller,
  request: PageRequest & { archived?: boolean },
): Promise<Page<Dataset>> {
  return database.transaction(caller.projectId, (tx) =>
    readPage(
      { cursors, tx, projectId: caller.projectId, list: 'datasets' },
      request,
      (page) => db.selectDatasets(tx, { ...page, archived: request.archived ?? false }),
      render,
    ),
  );
}

/** The row behind a public dataset id. @throws Problem not_found */
export async function findDataset(tx: Transaction, id: string, pointer?: string): Promise<db.DatasetRow> {
  const uuid = parseId('dataset', id);
  const row = uuid ? await db.selectDataset(tx, uuid) : undefined;
  if (!row) throw notFound('dataset', id, pointer);
  return row;
}

export function getDataset({ db: database }: Services, caller: Caller, id: string): Promise<Dataset> {
  return database.transaction(caller.projectId, async (tx) => render(await findDataset(tx, id)));
}

/** @throws Problem not_found, precondition_failed */
export function updateDataset(
  { db: database }: Services,
  caller: Caller,
  id: string,
  change: {
    name?: string;
    description?: string | null;
    archived?: boolean;
    edit_policy?: Partial<EditPolicy>;
  },
  condition: Precondition,
): Promise<Dataset> {
  return database.transaction(caller.projectId, async (tx) => {
    const uuid = parseId('dataset', id);
    const before = uuid ? await db.lockDataset(tx, uuid) : undefined;
    if (!before) throw notFound('dataset', id);
    checkPrecondition(condition, render(before));
    const { edit_policy: editPolicy, ...rest } = change;
    const after = render((await db.updateDataset(tx, before.id, { ...rest, editPolicy }))!);
    if ((before.archived_at === null) !== (after.archived_at === null)) {
      const action = after.archived_at === null ? 'dataset.restored' : 'dataset.archived';
      await recordAct(tx, caller, { action, subject: id, detail: { name: after.name } });
    }
    return after;
  });
}

export interface DatasetStats {
  pairs: number;
  preferences: { a: number; b: number; undecided: number };
  edited_pairs: number;
  accepted_edits: number;
}

export function getDatasetStats(
  { db: database }: Services,
  caller: Caller,
  id: string,
): Promise<DatasetStats> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findDataset(tx, id);
    const row = await db.selectDatasetStats(tx, uuid);
    return {
      pairs: row.pairs,
      preferences: { a: row.preferred_a, b: row.preferred_b, undecided: row.undecided },
      edited_pairs: row.edited_pairs,
      accepted_edits: row.accepted_edits,
    };
  });
}
