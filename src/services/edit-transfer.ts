// Edits by the thousand, in and out: an import row by row, and the export that it takes back.
import { selectDataset } from '../db/datasets.ts';
import * as db from '../db/edits.ts';
import { type PairRow, selectPairsForEdits } from '../db/pairs.ts';
import type { Transaction } from '../db/pool.ts';
import { formatId, parseId } from '../domain/ids.ts';
import type { Caller, Services } from './context.ts';
import { findDataset } from './datasets.ts';
import { type EditRowInput, parseEditRow } from './edit-rows.ts';
import { type EditOfPair, lessPreferred, prepareEdits } from './edits.ts';
import { writeNdjson } from './ndjson.ts';
import { exportPage, readPages } from './paging.ts';
import type { RowError } from './pair-rows.ts';
import { type ImportResult, importRows, type RowOutcome, type RowStream } from './row-import.ts';

// each is aligned with its original, which takes longer than all else
const batch = { rows: 200, bytes: 1_000_000 };

/** Imports row by row; repeated, it adds what is missing. @param defaultDataset of rows that name no other */
export async function importEdits(
  { db: database }: Services,
  { projectId }: Caller,
  defaultDataset: string | undefined,
  source: RowStream,
): Promise<ImportResult> {
  if (defaultDataset !== undefined)
    await database.transaction(projectId, (tx) => findDataset(tx, defaultDataset));
  return importRows(
    source,
    parseEditRow,
    (rows) =>
      database.transaction(projectId, (tx) => storeEdits(tx, projectId, rows, defaultDataset ?? null)),
    batch,
  );
}

/** An edit is there already when the same editor gave the same text for the same response. */
async function storeEdits(
  tx: Transaction,
  projectId: string,
  rows: EditRowInput[],
  defaultDataset: string | null,
): Promise<RowOutcome[]> {
  const found = await findPairs(tx, rows, defaultDataset);
  const outcomes = rows.map((row, index): RowOutcome | { edit: EditOfPair; row: EditRowInput } => {
    const pair = found[index]!;
    if ('code' in pair) return pair;
    const { edited_response, editor, comment, prompt_version: promptVersion } = row;
    const side = row.side ?? lessPreferred(pair);
    if (side === null)
      return invalid('invalid_row', '/side', 'is required while the preference of the pair is null');
    return { edit: { pair, side, edited_response, editor, comment, promptVersion, taskId: null }, row };
  });
  const edits = outcomes.flatMap((outcome) =>
    typeof outcome === 'object' && 'edit' in outcome ? [outcome] : [],
  );
  const stored = await db.selectStoredEdits(
    tx,
    edits.map(({ edit }) => editKey(edit)),
  );
  const seen = new Set(edits.filter((_, index) => stored.has(index)).map(({ edit }) => keyText(edit)));
  const fresh = edits.filter(({ edit }) => {
    const key = keyText(edit);
    return !seen.has(key) && seen.add(key);
  });
  const prepared = await prepareEdits(
    tx,
    fresh.map(({ edit }) => edit),
  );
  const results = new Map(
    fresh.map(({ edit, row }, index) => {
      const { row: made, refusal } = prepared[index]!;
      return [edit, { made: { ...made, status: statusOf(row, made.status) }, refusal }];
    }),
  );
  await db.insertEdits(
    tx,
    projectId,
    [...results.values()].flatMap(({ made, refusal }) => (refusal === null ? [made] : [])),
  );
  return outcomes.map((outcome) => {
    if (typeof outcome === 'string' || 'code' in outcome) return outcome;
    const result = results.get(outcome.edit);
    if (!result) return 'unchanged';
    return result.refusal === null ? 'created' : invalid('edit_refused', '/edited_response', result.refusal);
  });
}

/** What reviewers kept out stays out; the rest is as a new edit would be. */
function statusOf({ status }: EditRowInput, asNew: db.EditStatus): db.EditStatus {
  return status === 'rejected' || status === 'superseded' || status === 'pending' ? status : asNew;
}

const invalid = (code: RowError['code'], pointer: string, detail: string): RowError => ({
  code,
  pointer,
  detail,
});

const editKey = ({ pair, side, edited_response, editor }: EditOfPair): db.EditKey => ({
  pairId: pair.id,
  side,
  editorKind: editor.kind,
  editorName: editor.name,
  text: edited_response,
});
const keyText = (edit: EditOfPair): string => JSON.stringify(Object.values(editKey(edit)));

/** The pair of each row, locked so that two imports of the same do not add twice; or why there is none. */
async function findPairs(
  tx: Transaction,
  rows: EditRowInput[],
  defaultDataset: string | null,
): Promise<(PairRow | RowError)[]> {
  const uuids = new Map<string, string | null>();
  for (const dataset of new Set(rows.map(({ dataset_id }) => dataset_id ?? defaultDataset)))
    if (dataset !== null) uuids.set(dataset, await findDatasetUuid(tx, dataset));
  const names = rows.map((row): { id: string } | { datasetId: string; externalId: string } | RowError => {
    const { pair_id, pair_external_id: externalId } = row;
    const dataset = row.dataset_id ?? defaultDataset;
    if (externalId !== null && dataset !== null) {
      const datasetId = uuids.get(dataset);
      return datasetId ? { datasetId, externalId } : invalid('not_found', '/dataset_id', 'no such dataset');
    }
    if (pair_id === null)
      return invalid(
        'invalid_row',
        '',
        'must name its pair by pair_id, or by a dataset and pair_external_id',
      );
    const id = parseId('pair', pair_id);
    return id ? { id } : invalid('not_found', '/pair_id', 'no such pair');
  });
  const external = names.flatMap((name) => ('externalId' in name ? [name] : []));
  const pairs = await selectPairsForEdits(
    tx,
    names.flatMap((name) => ('id' in name ? [name.id] : [])),
    {
      datasetIds: external.map(({ datasetId }) => datasetId),
      externalIds: external.map(({ externalId }) => externalId),
    },
    'no key update',
  );
  const byId = new Map(pairs.map((pair) => [pair.id, pair]));
  const byExternalId = new Map(
    pairs.map((pair) => [JSON.stringify([pair.dataset_id, pair.external_id]), pair]),
  );
  return names.map((name) => {
    if ('code' in name) return name;
    if ('id' in name) return byId.get(name.id) ?? invalid('not_found', '/pair_id', 'no such pair');
    return (
      byExternalId.get(JSON.stringify([name.datasetId, name.externalId])) ??
      invalid('not_found', '/pair_external_id', 'no such pair')
    );
  });
}

async function findDatasetUuid(tx: Transaction, id: string): Promise<string | null> {
  const uuid = parseId('dataset', id);
  return uuid && ((await selectDataset(tx, uuid))?.id ?? null);
}

/** One edit a line: what POST …/import takes back, for this dataset (nothing changes) or for a copy of its pairs. */
interface ExportedEdit extends Omit<EditRowInput, 'dataset_id'> {
  id: string;
  created_at: string;
}

function render(row: db.ExportedEditRow): ExportedEdit {
  return {
    id: formatId('edit', row.id),
    pair_id: formatId('pair', row.pair_id),
    pair_external_id: row.pair_external_id,
    side: row.side,
    edited_response: row.edited_response,
    editor: { kind: row.editor_kind, name: row.editor_name },
    comment: row.comment,
    prompt_version: row.prompt_version,
    status: row.status,
    created_at: row.created_at.toISOString(),
  };
}

/** NDJSON of the edits of a dataset, oldest first. @throws Problem not_found */
export async function exportEdits(
  { db: database }: Services,
  { projectId }: Caller,
  { dataset_id, status = null }: { dataset_id: string; status?: db.EditStatus | null },
): Promise<AsyncGenerator<string>> {
  const { id } = await database.transaction(projectId, (tx) => findDataset(tx, dataset_id, '/dataset_id'));
  const rows = readPages((after) =>
    database.transaction(projectId, (tx) =>
      db.selectEditsForExport(tx, { datasetId: id, status }, { ...exportPage, after }),
    ),
  );
  return writeNdjson(rendered(rows));
}

async function* rendered(rows: AsyncIterable<db.ExportedEditRow>): AsyncGenerator<ExportedEdit> {
  for await (const row of rows) yield render(row);
}
