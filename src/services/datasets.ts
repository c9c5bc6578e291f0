// Datasets: named collections of preference pairs.
import { v7 as uuidv7 } from 'uuid';
import * as db from '../db/datasets.ts';
import type { EditStatus } from '../db/edits.ts';
import type { Transaction } from '../db/pool.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { notFound } from '../errors.ts';
import { recordAct } from './audit.ts';
import type { Caller, Services } from './context.ts';
import { completePolicy, type EditPolicy } from './edit-policy.ts';
import type { Editor } from './edits.ts';
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
  lengths: Record<'prompt' | 'response_a' | 'response_b' | 'edited_response', db.LengthsRow>;
  duplicates: { prompts: number; pairs: number; identical_responses: number };
  edits: {
    total: number;
    by_status: Record<EditStatus, number>;
    by_editor: Record<Editor['kind'], number>;
    mean_changed_fraction: number | null;
  };
  created: { first: string | null; last: string | null };
}

const noEdits = {
  by_status: { pending: 0, accepted: 0, unchanged: 0, stale: 0, rejected: 0, superseded: 0 },
  by_editor: { person: 0, llm: 0, program: 0 },
};

export function getDatasetStats(
  { db: database }: Services,
  caller: Caller,
  id: string,
): Promise<DatasetStats> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findDataset(tx, id);
    const pairs = await db.selectPairStats(tx, uuid);
    const edits = await db.selectEditStats(tx, uuid);
    const byStatus = { ...noEdits.by_status, ...edits.by_status };
    return {
      pairs: pairs.pairs,
      preferences: { a: pairs.preferred_a, b: pairs.preferred_b, undecided: pairs.undecided },
      edited_pairs: edits.edited_pairs,
      accepted_edits: byStatus.accepted,
      lengths: {
        prompt: pairs.prompt_lengths,
        response_a: pairs.response_a_lengths,
        response_b: pairs.response_b_lengths,
        edited_response: edits.lengths,
      },
      duplicates: {
        prompts: pairs.repeated_prompts,
        pairs: pairs.repeated_pairs,
        identical_responses: pairs.identical_responses,
      },
      edits: {
        total: edits.edits,
        by_status: byStatus,
        by_editor: { ...noEdits.by_editor, ...edits.by_editor },
        mean_changed_fraction: edits.mean_changed_fraction,
      },
      created: {
        first: pairs.first_created_at?.toISOString() ?? null,
        last: pairs.last_created_at?.toISOString() ?? null,
      },
    };
  });
}
