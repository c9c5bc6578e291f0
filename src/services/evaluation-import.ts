// Annotations that AlpacaEval made, as an evaluation that has ended: the same figures, table and exports as of our own.
import { v7 as uuidv7 } from 'uuid';
import * as db from '../db/evaluations.ts';
import { insertPosted } from '../db/judgements.ts';
import { type AlpacaEvalAnnotation, fromAlpacaEval } from '../domain/alpaca-eval.ts';
import { unprocessable } from '../errors.ts';
import { ascendingUuid } from './ascending-uuid.ts';
import type { Caller, Services } from './context.ts';
import { maxCandidates, storeItems } from './evaluation-responses.ts';
import {
  type Evaluation,
  type EvaluationInputs,
  type EvaluationRequest,
  readEvaluation,
} from './evaluations.ts';

type Imported = ReturnType<typeof fromAlpacaEval>;

/** One baseline and up to eight models; an instruction is an item. @throws Problem unprocessable */
export function importEvaluation(
  services: Services,
  caller: Caller,
  { name = null, annotations }: { name?: string | null; annotations: AlpacaEvalAnnotation[] },
): Promise<Evaluation> {
  const rows = annotations.map(fromAlpacaEval);
  const baseline = theOne(rows);
  const candidates = [...new Set(rows.map(candidateOf))];
  if (candidates.length > maxCandidates)
    throw unprocessable(
      '/annotations',
      `name ${candidates.length} models; one evaluation has ${maxCandidates} at most`,
    );
  const items = itemsOf(rows, candidates);
  const numbers = new Map(items.map(({ item_id }, index) => [item_id, index + 1]));
  const request: EvaluationRequest = {
    candidates: candidates.map((one) => ({ name: one })),
    baseline: { name: baseline },
    prompts: null,
    judge: { kind: 'external', per_item: 1 },
    people: null,
    options: {},
  };
  const inputs: EvaluationInputs = { prompts: null, sources: [], model: null, circular: [], trained: false };
  return services.db.transaction(caller.projectId, async (tx) => {
    const id = uuidv7();
    const key = { projectId: caller.projectId, evaluationId: id };
    await db.insertEvaluation(tx, { ...key, id, name, judge: 'external', request, inputs, due: false });
    await storeItems(tx, key, items);
    await insertPosted(
      tx,
      key,
      rows.map(({ outcome, item_id, judge, ...row }) => ({
        id: ascendingUuid(),
        number: numbers.get(item_id)!,
        candidate: candidates.indexOf(candidateOf(row)) + 1,
        judgeKind: 'external' as const,
        judgeName: judge ?? 'alpaca_eval',
        candidateFirst: null,
        outcome,
        nullReason: outcome === null ? 'annotator_failed' : null,
        detail: null,
      })),
    );
    await db.startJudging(tx, { ...key, fence: 0 }, { items: items.length, due: false });
    await db.settleEvaluation(tx, key);
    return readEvaluation(tx, id);
  });
}

const candidateOf = ({ candidate }: { candidate?: string }): string => candidate ?? 'candidate';

function theOne(rows: Imported[]): string {
  const names = [...new Set(rows.map(({ baseline }) => baseline ?? 'baseline'))];
  if (names.length > 1)
    throw unprocessable(
      '/annotations',
      `compare with several baselines (generator_1): ${names.slice(0, 5).join(', ')}. Import them one by one`,
    );
  return names[0]!;
}

function itemsOf(rows: Imported[], candidates: string[]): db.NewItem[] {
  const items = new Map<string, db.NewItem>();
  const judged = new Set<string>();
  for (const [index, row] of rows.entries()) {
    const { item_id, outcome, prompt, response_baseline, response_candidate } = row;
    const pointer = `/annotations/${index}`;
    if (outcome !== null && !(outcome >= 0 && outcome <= 1))
      throw unprocessable(`${pointer}/preference`, 'must be 1 to 2, 0 for a tie, or null');
    const once = JSON.stringify([item_id, candidateOf(row), row.judge ?? null]);
    if (judged.has(once))
      throw unprocessable(pointer, 'comes twice: the same model, instruction and annotator as one before');
    judged.add(once);
    const item = items.get(item_id) ?? {
      item_id,
      prompt,
      responses: [response_baseline, ...candidates.map(() => null)],
    };
    items.set(item_id, item);
    const place = candidates.indexOf(candidateOf(row)) + 1;
    for (const [at, response] of [
      [0, response_baseline],
      [place, response_candidate],
    ] as const) {
      if ((item.responses[at] ?? response) !== response)
        throw unprocessable(pointer, 'has another response to its instruction than an annotation before');
      item.responses[at] = response;
    }
  }
  return [...items.values()];
}
