// Pairs as they leave: as they came in, as TRL preference rows, as token-labelled rows. Of a dataset they are read in pages,
// each in a transaction of its own, bounded in bytes: constant memory for any size.
import * as db from '../db/pairs.ts';
import type { LabelRule } from '../domain/token-labels.ts';
import { unprocessable } from '../errors.ts';
import type { Caller, Services } from './context.ts';
import { findDataset } from './datasets.ts';
import { completePolicy, thresholdsOf } from './edit-policy.ts';
import { type LabelSource, labelRows } from './label-rows.ts';
import { resolveModel } from './models.ts';
import { writeNdjson } from './ndjson.ts';
import { exportPage, readPages } from './paging.ts';
import { filterOfQuery, filterValues, type PairFilterQuery } from './pair-filter.ts';
import type { Prompt } from './pair-rows.ts';
import { renderPair } from './pairs.ts';

export const exportFormats = ['pairs', 'trl', 'labels'] as const;

export interface ExportFormat {
  /** `labels` where a model is named, else `pairs` */
  format?: (typeof exportFormats)[number];
  /** id or alias, of `labels`: whose tokenizer */
  model?: string;
  label_rule?: LabelRule;
  /** what `trl` gives for a pair without an edit: nothing, or its two responses where one is preferred */
  without_edit?: 'skip' | 'preferred';
}

/** NDJSON of the pairs of a dataset. @throws Problem not_found, unprocessable */
export async function exportPairs(
  services: Services,
  caller: Caller,
  datasetId: string,
  { format: asked, model, label_rule, without_edit, ...query }: ExportFormat & PairFilterQuery,
): Promise<AsyncGenerator<string>> {
  const format = formatOf({ format: asked, model });
  const filter = filterValues(filterOfQuery(query));
  const { dataset, modelRow } = await services.db.transaction(caller.projectId, async (tx) => ({
    dataset: await findDataset(tx, datasetId),
    modelRow: model === undefined ? null : await resolveModel(services, tx, model, '/model'),
  }));
  const rows = allPairs(services, caller, dataset.id, filter, format !== 'pairs');
  if (format === 'pairs') return writeNdjson(rendered(rows));
  const sources = labelSources(rows, dataset.edit_policy);
  if (modelRow === null) return writeNdjson(preferenceRows(sources, without_edit));
  return writeNdjson(labelRows(sources, await services.scoring.tokenizer(modelRow), label_rule ?? 'mix'));
}

/** @throws Problem unprocessable for labels without a model, or a model without labels */
export function formatOf({
  format,
  model,
}: {
  format: ExportFormat['format'] | undefined;
  model: string | undefined;
}): NonNullable<ExportFormat['format']> {
  if (format === undefined) return model === undefined ? 'pairs' : 'labels';
  if ((format === 'labels') === (model !== undefined)) return format;
  const detail =
    model === undefined
      ? 'is missing: token labels need the tokenizer of a model'
      : `belongs to the format labels, not to ${format}`;
  throw unprocessable('/model', detail, 'query');
}

function allPairs(
  { db: database }: Services,
  { projectId }: Caller,
  datasetId: string,
  filter: db.PairFilterValues,
  withEdits: boolean,
): AsyncGenerator<db.ExportedPairRow> {
  return readPages((after) =>
    database.transaction(projectId, (tx) =>
      db.selectPairsForExport(tx, datasetId, filter, { ...exportPage, after, withEdits }),
    ),
  );
}

async function* rendered(rows: AsyncIterable<db.PairRow>) {
  for await (const row of rows) yield renderPair(row);
}

async function* labelSources(
  rows: AsyncIterable<db.ExportedPairRow>,
  policy: object,
): AsyncGenerator<LabelSource> {
  const minimality = thresholdsOf(completePolicy(policy));
  for await (const row of rows) {
    const { id: key, prompt, response_a, response_b, preference, votes } = renderPair(row);
    yield { key, prompt, response_a, response_b, preference, votes, edits: row.edits ?? [], minimality };
  }
}

type Response = string | [{ role: 'assistant'; content: string }];

/** A row of TRL's preference format: texts, or messages where the prompt is a conversation. */
export interface PreferenceRow {
  prompt: Prompt;
  chosen: Response;
  rejected: Response;
}

/** One row for each edit: it is chosen, what it edits is rejected. */
export async function* preferenceRows(
  rows: AsyncIterable<LabelSource>,
  withoutEdit: ExportFormat['without_edit'] = 'skip',
): AsyncGenerator<PreferenceRow> {
  for await (const { prompt, response_a, response_b, preference, edits } of rows) {
    const respond = (content: string): Response =>
      typeof prompt === 'string' ? content : [{ role: 'assistant', content }];
    const row = (chosen: string, rejected: string): PreferenceRow => ({
      prompt,
      chosen: respond(chosen),
      rejected: respond(rejected),
    });
    for (const { side, edited_response } of edits)
      yield row(edited_response, side === 'a' ? response_a : response_b);
    if (edits.length === 0 && preference !== null && withoutEdit === 'preferred')
      yield preference === 'a' ? row(response_a, response_b) : row(response_b, response_a);
  }
}
