// How far the editors of a response agree on what to change in it: of one pair, and pooled over a dataset.
import { type EditedResponseRow, selectCompetingEdits } from '../db/agreement.ts';
import {
  type Agreement,
  addItem,
  changedUnits,
  emptyAgreement,
  summarizeAgreement,
} from '../domain/agreement.ts';
import { ALIGNMENT_VERSION, alignTexts } from '../domain/alignment.ts';
import { formatId } from '../domain/ids.ts';
import type { Caller, Services } from './context.ts';
import { findDataset } from './datasets.ts';
import type { Editor } from './edits.ts';
import { findPair } from './pairs.ts';

export interface ResponseAgreement extends Omit<Agreement, 'confidence_interval'> {
  side: 'a' | 'b';
  /** of the response, its end included */
  tokens: number;
  editors: number;
  /** by the name of the editor */
  edits: { id: string; editor: Editor; changed_tokens: number }[];
}

export interface PairAgreement {
  pair_id: string;
  /** those with edits of two editors or more */
  responses: ResponseAgreement[];
}

/** Which tokens of the response each of its edits marks. */
function marksOf({ response, edits }: EditedResponseRow): boolean[][] {
  return edits.map(({ changes, edited_response }) =>
    changedUnits(response, changes ?? changesOf(response, edited_response!)),
  );
}

const changesOf = (original: string, edited: string) =>
  alignTexts(original, edited)
    .segments.filter(({ kind }) => kind !== 'keep')
    .map((segment) => segment.original);

/** @throws Problem not_found */
export function getPairAgreement(
  { db: database }: Services,
  caller: Caller,
  id: string,
): Promise<PairAgreement> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: pairId } = await findPair(tx, id);
    const responses: ResponseAgreement[] = [];
    const where = { datasetId: null, pairId, alignmentVersion: ALIGNMENT_VERSION };
    for await (const row of selectCompetingEdits(tx, where)) {
      const marks = marksOf(row);
      const sums = emptyAgreement();
      addItem(sums, marks);
      const { confidence_interval: _ofOneItem, ...agreement } = summarizeAgreement(sums);
      responses.push({
        side: row.side,
        tokens: marks[0]!.length,
        editors: marks.length,
        edits: row.edits.map(({ id: edit, editor }, index) => ({
          id: formatId('edit', edit),
          editor,
          changed_tokens: marks[index]!.filter(Boolean).length,
        })),
        ...agreement,
      });
    }
    return { pair_id: id, responses };
  });
}

export interface DatasetAgreement extends Agreement {
  /** with edits of two editors or more */
  responses: number;
  /** of those responses, their ends included */
  tokens: number;
  /** of those responses, at most one for each editor */
  edits: number;
  /** different names */
  editors: number;
}

/** Memory does not grow with the number of pairs or edits, only with that of editors. @throws Problem not_found */
export function getDatasetAgreement(
  { db: database }: Services,
  caller: Caller,
  id: string,
): Promise<DatasetAgreement> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: datasetId } = await findDataset(tx, id);
    const sums = emptyAgreement();
    const editors = new Set<string>();
    let edits = 0;
    const where = { datasetId, pairId: null, alignmentVersion: ALIGNMENT_VERSION };
    for await (const row of selectCompetingEdits(tx, where)) {
      addItem(sums, marksOf(row));
      edits += row.edits.length;
      for (const { editor } of row.edits) editors.add(editor.name);
    }
    return {
      responses: sums.items,
      tokens: sums.units,
      edits,
      editors: editors.size,
      ...summarizeAgreement(sums),
    };
  });
}
