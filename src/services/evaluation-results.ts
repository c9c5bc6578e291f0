// What comes of an evaluation: its figures, computed from the judgements that are there, and its table in several formats.
import { type JudgeKind, selectEvaluation, selectItems } from '../db/evaluations.ts';
import * as db from '../db/judgements.ts';
import { toAlpacaEval } from '../domain/alpaca-eval.ts';
import { groupBy, type Judgement as JudgedOutcome, mean } from '../domain/judgements.ts';
import type { WinRateReport } from '../domain/win-rate.ts';
import type { Caller, Services } from './context.ts';
import {
  type EvaluationInputs,
  type EvaluationRequest,
  findEvaluation,
  type ResponderSummary,
} from './evaluations.ts';
import { orderOf } from './judgements.ts';
import { nameOfLlm } from './llm-judges.ts';
import type { Prompt } from './pair-rows.ts';
import { affordable, winRateOf } from './win-rates.ts';

export interface EvaluationResult {
  evaluation_id: string;
  state: string;
  /** judgements are still to come */
  running: boolean;
  /** of the evaluation's own judge */
  figures: WinRateReport;
  /** programs that judged beside it, those of most judgements first */
  other_judges: { judge: { kind: JudgeKind; name: string }; figures: WinRateReport }[];
}

/** Further ones are left out. */
export const maxOtherJudges = 20;

/** @throws Problem not_found */
export async function getResult(
  services: Services,
  caller: Caller,
  id: string,
  signal: AbortSignal,
): Promise<EvaluationResult> {
  const { row, judged, llm } = await services.db.transaction(caller.projectId, async (tx) => {
    const row = await findEvaluation(tx, id);
    const llm = row.judge === 'llm' ? await nameOfLlm(tx, row.id) : null;
    return { row, llm, judged: await db.selectJudged(tx, row.id) };
  });
  const { candidates, options } = row.request as EvaluationRequest;
  const { trained, circular } = row.inputs as EvaluationInputs;
  const outcomesOf = (rows: db.JudgedRow[]) => rows.map((one) => outcomeOf(candidates, one));
  const own = outcomesOf(judged.filter((one) => isOwn(one, row.judge, llm)));
  const people = outcomesOf(judged.filter(({ judge_kind }) => judge_kind === 'person'));
  const bootstrap = options.bootstrap && affordable(options.bootstrap, own.length + people.length);
  const report = await winRateOf(
    own,
    { ...options, ...(bootstrap && { bootstrap }), trained_policies: trained },
    signal,
    row.judge === 'person' ? [] : people,
  );
  const { bootstrap: _, ...ofOthers } = options;
  const other_judges: EvaluationResult['other_judges'] = [];
  for (const group of othersIn(judged, row.judge, llm)) {
    const { judge_kind: kind, judge_name: name } = group[0]!;
    const figures = await winRateOf(
      outcomesOf(group),
      { ...ofOthers, trained_policies: trained },
      signal,
      people,
    );
    other_judges.push({ judge: { kind, name }, figures });
  }
  const running = row.finished_at === null;
  const fewerRounds = bootstrap !== undefined && bootstrap !== options.bootstrap;
  return {
    evaluation_id: id,
    state: row.state,
    running,
    figures: {
      ...report,
      summary: running ? `So far: ${report.summary}` : report.summary,
      notes: [...report.notes, ...notesOn({ running, state: row.state, circular, fewerRounds })],
    },
    other_judges,
  };
}

/** The judgements of each program that is not the evaluation's own judge. */
function othersIn(judged: db.JudgedRow[], judge: JudgeKind, llm: string | null): db.JudgedRow[][] {
  const others = judged.filter((one) => one.judge_kind !== 'person' && !isOwn(one, judge, llm));
  return [...groupBy(others, (one) => JSON.stringify([one.judge_kind, one.judge_name])).values()]
    .sort((a, b) => b.length - a.length)
    .slice(0, maxOtherJudges);
}

/** Whether it is by the evaluation's own judge, whom alone the figures are of: others may post what another LLM says. */
const isOwn = (
  { judge_kind, judge_name }: Pick<db.JudgedRow, 'judge_kind' | 'judge_name'>,
  judge: JudgeKind,
  llm: string | null,
): boolean => judge_kind === judge && (llm === null || judge_name === llm);

function notesOn({
  running,
  state,
  circular,
  fewerRounds,
}: {
  running: boolean;
  state: string;
  circular: string[];
  fewerRounds: boolean;
}): string[] {
  return [
    ...(running
      ? [
          'Judgements are still to come. Whoever looks again and again, and stops where the figure pleases, is wrong more often than the interval says.',
        ]
      : []),
    ...(state === 'cancelled' || state === 'failed'
      ? [
          `The evaluation has ${state} before every judgement was there; those that are there may not be a fair sample.`,
        ]
      : []),
    ...(circular.length > 0
      ? [
          `Circular: the judge is a reward model that ${circular.join(' and ')} was trained by, so that it says how well training has pleased it, not how good the responses are.`,
        ]
      : []),
    ...(fewerRounds
      ? ['The bootstrap has fewer rounds than were asked for: there are too many judgements for more.']
      : []),
  ];
}

function outcomeOf(candidates: ResponderSummary[], row: db.JudgedRow): JudgedOutcome {
  const { name, training_seed } = candidates[row.candidate - 1]!;
  const order = orderOf(row.candidate_first);
  return {
    item_id: row.item_id,
    candidate: name,
    ...(training_seed !== undefined && { training_seed }),
    outcome: row.outcome,
    ...(row.null_reason !== null && { null_reason: row.null_reason }),
    ...(row.length_candidate !== null && { length_candidate: row.length_candidate }),
    ...(row.length_baseline !== null && { length_baseline: row.length_baseline }),
    judge: row.judge_name,
    ...(order !== null && { order }),
  };
}

export const exportFormats = {
  ndjson: 'a line for each item: its prompt, the responses, and its judgements',
  csv: 'a line for each judgement, without texts; a name that a spreadsheet would take for a formula begins with an apostrophe',
  alpaca_eval: 'the annotations file of AlpacaEval, a JSON array',
} as const;

export type ExportFormat = keyof typeof exportFormats;

/** @throws Problem not_found */
export async function exportEvaluation(
  services: Services,
  caller: Caller,
  id: string,
  format: ExportFormat,
): Promise<AsyncIterable<string>> {
  return services.db.transaction(caller.projectId, async (tx) => {
    const row = await findEvaluation(tx, id);
    const request = row.request as EvaluationRequest;
    const items = itemsWithJudgements(services, caller, row.id);
    if (format === 'csv') return csv(items, request);
    if (format === 'ndjson') return ndjson(items, request);
    const llm = row.judge === 'llm' ? await nameOfLlm(tx, row.id) : null;
    return alpacaEval(items, request, (one) => isOwn(one, row.judge, llm));
  });
}

type Items = AsyncIterable<ExportedItem>;

async function* csv(items: Items, { candidates }: EvaluationRequest): AsyncGenerator<string> {
  yield csvLine(csvColumns);
  for await (const { judgements } of items)
    for (const one of judgements) yield csvLine(csvValues(candidates[one.candidate - 1]!, one));
}

async function* ndjson(items: Items, request: EvaluationRequest): AsyncGenerator<string> {
  for await (const { item, judgements } of items)
    yield `${JSON.stringify(exportedItem(request, item, judgements))}\n`;
}

/**
 * An annotation for each item, candidate and judge whose judgements make the win rate; AlpacaEval knows no orders, so those of
 * several are one, their mean. It knows no missing responses either.
 */
async function* alpacaEval(
  items: Items,
  { candidates, baseline }: EvaluationRequest,
  counts: (one: db.JudgedRow) => boolean,
): AsyncGenerator<string> {
  let separator = '[\n';
  for await (const { item, judgements } of items) {
    const groups = groupBy(judgements.filter(counts), (one) =>
      JSON.stringify([one.candidate, one.judge_name]),
    );
    for (const group of groups.values()) {
      const judged = outcomeOf(candidates, group[0]!);
      const [response_baseline, response_candidate] = [
        item.responses[0],
        item.responses[group[0]!.candidate],
      ];
      if (response_baseline == null || response_candidate == null) continue;
      const outcomes = group.flatMap(({ outcome }) => outcome ?? []);
      const annotation = toAlpacaEval({
        ...judged,
        candidate: [judged.candidate, judged.training_seed ?? []].flat().join(' '),
        outcome: outcomes.length === 0 ? null : mean(outcomes),
        prompt: instructionOf(item.prompt as Prompt),
        response_candidate,
        response_baseline,
        baseline: baseline.name,
      });
      yield `${separator}${JSON.stringify(annotation)}`;
      separator = ',\n';
    }
  }
  yield separator === ',\n' ? '\n]\n' : '[]\n';
}

/** AlpacaEval's instructions are texts; a conversation is kept as JSON. */
const instructionOf = (prompt: Prompt): string =>
  typeof prompt === 'string' ? prompt : JSON.stringify(prompt);

interface ExportedItem {
  item: Awaited<ReturnType<typeof selectItems>>[number];
  judgements: db.JudgedRow[];
}

const itemPage = 200;

/** Page by page, each in a transaction of its own. */
async function* itemsWithJudgements(
  { db: database }: Services,
  { projectId }: Caller,
  evaluationId: string,
): AsyncGenerator<ExportedItem> {
  for (let after = 0; ; after += itemPage) {
    const { items, judged } = await database.transaction(projectId, async (tx) => ({
      items: await selectItems(tx, evaluationId, { after, limit: itemPage }),
      judged: await db.selectJudged(tx, evaluationId, { after, until: after + itemPage }),
    }));
    for (const item of items)
      yield { item, judgements: judged.filter(({ number }) => number === item.number) };
    if (items.length < itemPage) return;
  }
}

function exportedItem(
  { candidates, baseline }: EvaluationRequest,
  { item_id, prompt, responses }: ExportedItem['item'],
  judgements: db.JudgedRow[],
): object {
  return {
    item_id,
    prompt,
    responses: [baseline, ...candidates].map(({ name, training_seed }, responder) => ({
      name,
      ...(training_seed !== undefined && { training_seed }),
      response: responses[responder],
    })),
    judgements: judgements.map(({ number: _, item_id: __, candidate, candidate_first, ...judged }) => ({
      candidate: candidates[candidate - 1]!.name,
      training_seed: candidates[candidate - 1]!.training_seed ?? null,
      order: orderOf(candidate_first),
      ...judged,
    })),
  };
}

const csvColumns = [
  'item_id',
  'candidate',
  'training_seed',
  'judge_kind',
  'judge',
  'order',
  'outcome',
  'null_reason',
  'length_candidate',
  'length_baseline',
];

const csvValues = ({ name, training_seed }: ResponderSummary, row: db.JudgedRow) => [
  row.item_id,
  name,
  training_seed ?? null,
  row.judge_kind,
  row.judge_name,
  orderOf(row.candidate_first),
  row.outcome,
  row.null_reason,
  row.length_candidate,
  row.length_baseline,
];

/** Ids and names are given by whoever may write them, and the table is opened by others. */
const unlikeFormula = (text: string): string => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);

/** RFC 4180. */
function csvLine(values: (string | number | null)[]): string {
  const quoted = values.map((value) => {
    const text = typeof value === 'string' ? unlikeFormula(value) : String(value ?? '');
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  });
  return `${quoted.join(',')}\r\n`;
}

export interface EvaluationItem {
  number: number;
  item_id: string;
  prompt: Prompt;
  responses: { name: string; training_seed: string | number | null; response: string | null }[];
}

/** In their order, after a number; `next_after` goes into the next request, null on the last page. @throws Problem not_found */
export function listItems(
  { db: database }: Services,
  caller: Caller,
  id: string,
  { after = 0, limit = 50 }: { after?: number; limit?: number },
): Promise<{ items: EvaluationItem[]; next_after: number | null }> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid, request } = await findEvaluation(tx, id, selectEvaluation);
    const { candidates, baseline } = request as EvaluationRequest;
    const rows = await selectItems(tx, uuid, { after, limit });
    return {
      items: rows.map(({ number, item_id, prompt, responses }) => ({
        number,
        item_id,
        prompt: prompt as Prompt,
        responses: [baseline, ...candidates].map(({ name, training_seed }, responder) => ({
          name,
          training_seed: training_seed ?? null,
          response: responses[responder]!,
        })),
      })),
      next_after: rows.length < limit ? null : rows.at(-1)!.number,
    };
  });
}
