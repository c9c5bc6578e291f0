// Snapshots: immutable, digest-named selections of pairs and accepted edits, split by prompt.
import { v7 as uuidv7 } from 'uuid';
import { insertArtifact } from '../db/artifacts.ts';
import type { Transaction } from '../db/pool.ts';
import * as db from '../db/snapshots.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { notFound, Problem } from '../errors.ts';
import type { Caller, Services } from './context.ts';
import { findDataset } from './datasets.ts';
import { labelRows } from './label-rows.ts';
import { resolveModel } from './models.ts';
import { holdArtifacts, untilNamed } from './named-artifacts.ts';
import { writeNdjson } from './ndjson.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { type ExportFormat, formatOf, preferenceRows } from './pair-exports.ts';
import { filterValues, type PairFilter } from './pair-filter.ts';
import {
  completeCounts,
  emptyCounts,
  type SnapshotCounts,
  type SnapshotRow,
  type Split,
  type SplitSpec,
  snapshotLines,
  snapshotRows,
} from './snapshot-content.ts';
import { defaultRules, type SnapshotRules } from './snapshot-rules.ts';

export interface Snapshot {
  id: string;
  digest: string;
  dataset_ids: string[];
  split: SplitSpec;
  rules: SnapshotRules;
  counts: SnapshotCounts;
  created_at: string;
}

function render(row: db.SnapshotRow): Snapshot {
  return {
    id: formatId('snapshot', row.id),
    digest: row.digest,
    dataset_ids: row.dataset_ids.map((id) => formatId('dataset', id)),
    split: row.split as SplitSpec,
    rules: row.rules as SnapshotRules,
    counts: completeCounts(row.counts as SnapshotCounts),
    created_at: row.created_at.toISOString(),
  };
}

export interface NewSnapshot {
  dataset_ids: string[];
  filter?: PairFilter;
  split: SplitSpec;
  rules?: Partial<SnapshotRules>;
}

/** @throws Problem not_found for a dataset, unprocessable when the fractions are not 1 together or nothing is selected */
export async function createSnapshot(
  { db: database, artifacts }: Services,
  caller: Caller,
  input: NewSnapshot,
): Promise<Snapshot> {
  const { train, validation, test } = input.split;
  if (Math.abs(train + validation + test - 1) > 1e-9) {
    throw new Problem(
      'unprocessable',
      `train, validation and test must add up to 1, not ${train + validation + test}.`,
      {
        errors: [{ pointer: '/split', detail: 'the fractions do not add up to 1', in: 'body' }],
      },
    );
  }
  const values = filterValues(input.filter, { pointer: '/filter', in: 'body' });
  const create = async (tx: Transaction): Promise<Snapshot> => {
    const datasetIds: string[] = [];
    for (const [index, id] of input.dataset_ids.entries())
      datasetIds.push((await findDataset(tx, id, `/dataset_ids/${index}`)).id);
    const counts = emptyCounts();
    const rules = { ...defaultRules, ...input.rules };
    const source = db.selectSnapshotSource(tx, datasetIds, values);
    const { digest, bytes } = await artifacts.put(
      snapshotLines(source, { split: input.split, rules, edited: values.hasEdit === true }, counts),
    );
    if (counts.pairs === 0)
      throw new Problem(
        'unprocessable',
        'No pair of these datasets fits the filter and the rules: a snapshot would be empty.',
      );
    await holdArtifacts(tx, artifacts, [digest]);
    await insertArtifact(tx, {
      projectId: caller.projectId,
      digest,
      bytes,
      mediaType: 'application/x-ndjson',
    });
    return render(
      await db.insertSnapshot(tx, {
        projectId: caller.projectId,
        id: uuidv7(),
        digest,
        dataset_ids: datasetIds,
        split: input.split,
        rules,
        counts,
      }),
    );
  };
  return untilNamed(() => database.transaction(caller.projectId, create));
}

export function listSnapshots(
  { db: database, cursors }: Services,
  caller: Caller,
  request: PageRequest,
): Promise<Page<Snapshot>> {
  return database.transaction(caller.projectId, (tx) =>
    readPage(
      { cursors, tx, projectId: caller.projectId, list: 'snapshots' },
      request,
      (page) => db.selectSnapshots(tx, page),
      render,
    ),
  );
}

/** @throws Problem not_found */
export async function findSnapshot(tx: Transaction, id: string, pointer?: string): Promise<db.SnapshotRow> {
  const uuid = parseId('snapshot', id);
  const row = uuid ? await db.selectSnapshot(tx, uuid) : undefined;
  if (!row) throw notFound('snapshot', id, pointer);
  return row;
}

export function getSnapshot({ db: database }: Services, caller: Caller, id: string): Promise<Snapshot> {
  return database.transaction(caller.projectId, async (tx) => render(await findSnapshot(tx, id)));
}

export interface ExportRequest extends ExportFormat {
  split?: Split;
}

/** NDJSON of a snapshot: pairs with their edits, TRL preference rows or token-labelled rows. */
export async function exportSnapshot(
  services: Services,
  caller: Caller,
  id: string,
  request: ExportRequest,
): Promise<AsyncGenerator<string>> {
  const format = formatOf({ format: request.format, model: request.model });
  const { digest, model } = await services.db.transaction(caller.projectId, async (tx) => ({
    digest: (await findSnapshot(tx, id)).digest,
    model: request.model === undefined ? null : await resolveModel(services, tx, request.model, '/model'),
  }));
  const rows = ofSplit(snapshotRows(services.artifacts, digest), request.split);
  if (format === 'trl') return writeNdjson(preferenceRows(rows, request.without_edit));
  if (model === null) return writeNdjson(rows);
  return writeNdjson(labelRows(rows, await services.scoring.tokenizer(model), request.label_rule ?? 'mix'));
}

async function* ofSplit(
  rows: AsyncIterable<SnapshotRow>,
  split: Split | undefined,
): AsyncGenerator<SnapshotRow> {
  for await (const row of rows) if (split === undefined || row.split === split) yield row;
}
