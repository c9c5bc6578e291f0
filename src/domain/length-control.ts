// Length-controlled win rate (Dubois et al. 2024, AlpacaEval 2): a logistic regression of the outcome on an intercept, the
// length difference and the difficulty of the item; the win rate is then read at no length difference.
import { estimateDifficulty } from './item-difficulty.ts';
import { groupBy, mean } from './judgements.ts';
import { fitCrossValidatedLasso } from './lasso-cross-validation.ts';
import { solve } from './linear-equations.ts';
import {
  curvatureOf,
  fitRidge,
  type LogisticData,
  logistic,
  predictLogits,
  withRidge,
} from './logistic-regression.ts';
import { studentInterval } from './mean-interval.ts';

/** `regression`: a ridge on the slopes. `alpaca_eval`: a lasso, chosen by cross-validation, and gamed baselines. */
export type LengthControlMethod = 'regression' | 'alpaca_eval';

export interface LengthControlRow {
  candidate: string | null;
  /** Rows of one item are not independent of each other. */
  item: string;
  /** Share of the candidate, 0..1. */
  outcome: number;
  /** length of the candidate's response − length of the baseline's */
  lengthDifference: number;
  /** Logit with which the items differ for any candidate; used when every row has it. */
  difficulty?: number | undefined;
}

export interface LengthControlled {
  win_rate: number | null;
  /** Over items, robust to several judgements of one; it takes difficulty and penalty as given. */
  standard_error: number | null;
  confidence_interval: { low: number; high: number; level: number } | null;
  /** Judgements that have lengths. */
  n: number;
  method: LengthControlMethod;
  /** Where the difficulty of the items comes from. */
  difficulty: 'none' | 'given' | 'estimated';
  /** On the scale of the logit; `length` for a difference far larger than the usual one. */
  coefficients: { intercept: number; length: number; difficulty: number | null } | null;
  /** What the lasso divides the penalty by; null with the ridge. */
  inverse_penalty: number | null;
  /** False when only the penalty keeps the answer finite, or there is none. */
  identified: boolean;
  /** Why there is no figure, or it is not identified. */
  reason: string | null;
}

export interface LengthControlOptions {
  method: LengthControlMethod;
  level: number;
  /** From estimateItemDifficulty; none when left out. */
  estimated?: ReadonlyMap<string, number> | null;
  /** Judgements of versions of the baseline that were told to be long or short; for `alpaca_eval`. */
  gamed?: readonly LengthControlRow[];
}

// Penalty ½ · ridge · β² on the slopes, not on the intercept: keeps them finite when lengths separate wins from losses.
const ridge = 1;
// Together; the intercept of the candidate is no part of them (AlpacaEval, glm_winrate.py, length_controlled_v1).
const gamedWeight = 0.2;

interface Design {
  /** Intercept, length, and difficulty where there is one. */
  data: LogisticData & { weights: Float64Array };
  /** Row numbers of each item. */
  clusters: number[][];
  /** Of the candidate; the rows behind are gamed baselines. */
  rows: number;
}

type Found = Pick<LengthControlled, 'win_rate' | 'standard_error' | 'coefficients' | 'inverse_penalty'> &
  Pick<LengthControlled, 'identified' | 'reason'>;

const unknown = (reason: string): Found => ({
  win_rate: null,
  standard_error: null,
  coefficients: null,
  inverse_penalty: null,
  identified: false,
  reason,
});

/** Soft outcomes are taken as they are. Never NaN: what the data cannot tell has a null and a reason. */
export function lengthControlledWinRate(
  rows: readonly LengthControlRow[],
  { method, level, estimated = null, gamed = [] }: LengthControlOptions,
): LengthControlled {
  const everyRow = [...rows, ...gamed];
  const given = everyRow.every((row) => row.difficulty !== undefined);
  const known = estimated !== null && everyRow.every(({ item }) => estimated.has(item));
  const difficulty = given ? 'given' : known ? 'estimated' : 'none';
  const difficultyOf =
    difficulty === 'none'
      ? null
      : (row: LengthControlRow) => (given ? row.difficulty! : estimated!.get(row.item)!);
  const found = findRate(rows, gamed, difficultyOf, method);
  const { win_rate, standard_error } = found;
  const clusters = groupBy(rows, ({ item }) => item).size;
  return {
    ...found,
    confidence_interval:
      win_rate === null || standard_error === null
        ? null
        : { ...studentInterval(win_rate, standard_error, clusters - 1, level), level },
    n: rows.length,
    method,
    difficulty,
  };
}

/** From the judgements of several candidates; null with one candidate, or when few items have more than one judgement. */
export function estimateItemDifficulty(rows: readonly LengthControlRow[]): Map<string, number> | null {
  const candidates = groupBy(rows, ({ candidate }) => candidate);
  const items = groupBy(rows, ({ item }) => item).size;
  if (candidates.size < 2 || rows.length < 1.5 * items) return null;
  const lengths = new Map<LengthControlRow, number>();
  for (const members of candidates.values()) {
    const standardised = standardise(members);
    members.forEach((row, k) => void lengths.set(row, standardised?.[k] ?? 0));
  }
  return estimateDifficulty(rows.map((row) => ({ ...row, length: lengths.get(row)! })));
}

function findRate(
  rows: readonly LengthControlRow[],
  gamed: readonly LengthControlRow[],
  difficultyOf: ((row: LengthControlRow) => number) | null,
  method: LengthControlMethod,
): Found {
  const lengths = standardise(rows);
  if (lengths === null)
    return unknown(
      'The length difference is the same in all judgements, so its effect cannot be told apart.',
    );
  const rate = mean(rows.map(({ outcome }) => outcome));
  if (rate === 0 || rate === 1)
    return unknown('All outcomes are the same, so the regression has no finite answer.');
  const design = designOf(rows, lengths, gamed, difficultyOf);
  if (design.clusters.length <= design.data.columns.length)
    return unknown('There are too few items for a regression.');
  return method === 'regression' ? byRidge(design) : byLasso(design);
}

/** tanh of the length difference over its standard deviation; null when there is none. */
function standardise(rows: readonly LengthControlRow[]): Float64Array | null {
  const spread = standardDeviation(rows.map(({ lengthDifference }) => lengthDifference));
  return spread > 0
    ? Float64Array.from(rows, ({ lengthDifference }) => Math.tanh(lengthDifference / spread))
    : null;
}

function designOf(
  rows: readonly LengthControlRow[],
  lengths: Float64Array,
  gamed: readonly LengthControlRow[],
  difficultyOf: ((row: LengthControlRow) => number) | null,
): Design {
  const baselines = [...groupBy(gamed, ({ candidate }) => candidate).values()];
  const everyRow = [...rows, ...baselines.flat()];
  const length = Float64Array.from([
    ...lengths,
    ...baselines.flatMap((members) => [...(standardise(members) ?? members.map(() => 0))]),
  ]);
  const own = (_: unknown, i: number) => i < rows.length;
  const intercept = Float64Array.from(everyRow, (_, i) => (own(_, i) ? 1 : 0));
  return {
    data: {
      columns: [intercept, length, ...(difficultyOf ? [Float64Array.from(everyRow, difficultyOf)] : [])],
      outcomes: Float64Array.from(everyRow, ({ outcome }) => outcome),
      weights: Float64Array.from(everyRow, (_, i) => (own(_, i) ? 1 : gamedWeight / baselines.length)),
    },
    clusters: [
      ...groupBy(
        everyRow.map((_, i) => i),
        (i) => everyRow[i]!.item,
      ).values(),
    ],
    rows: rows.length,
  };
}

function byRidge(design: Design): Found {
  const ridges = design.data.columns.map((_, k) => (k === 0 ? 0 : ridge));
  const beta = fitRidge(design.data, ridges);
  return beta === null ? unknown(notSettled) : readRate(design, beta, ridges);
}

function byLasso(design: Design): Found {
  const chosen = fitCrossValidatedLasso(design.data, design.clusters);
  if (chosen === null) return unknown(notSettled);
  const { beta, inversePenalty } = chosen;
  const none = beta.map(() => 0);
  return { ...readRate(design, beta, none), inverse_penalty: inversePenalty };
}

const notSettled = 'The regression did not converge.';

/** At no length difference; its variance from what each item adds to the estimate (M-estimation: Stefanski and Boos 2002). */
function readRate(design: Design, beta: readonly number[], ridges: readonly number[]): Found {
  const rates = ratesAtEqualLength(design, beta);
  const win_rate = mean([...rates]);
  const variance = rateVariance(design, beta, ridges, rates, win_rate);
  if (variance === null) return unknown('The regression is not identified.');
  if (!Number.isFinite(win_rate) || !Number.isFinite(variance))
    return unknown('Lengths or difficulties are too large to compute with.');
  const heldByPenalty = isSeparated(design.data)
    ? 'Lengths and difficulties tell wins from losses without an error, so that only the penalty keeps the regression finite.'
    : beta.every((slope) => slope === 0)
      ? 'The penalty leaves nothing of the regression.'
      : null;
  return {
    win_rate,
    standard_error: Math.sqrt(variance),
    coefficients: { intercept: beta[0]!, length: beta[1]!, difficulty: beta[2] ?? null },
    inverse_penalty: null,
    identified: heldByPenalty === null,
    reason: heldByPenalty,
  };
}

/** Of each of the candidate's rows. */
function ratesAtEqualLength({ data: { columns }, rows }: Design, beta: readonly number[]): Float64Array {
  const difficulty = columns[2];
  return Float64Array.from({ length: rows }, (_, i) =>
    logistic(beta[0]! + (difficulty ? beta[2]! * difficulty[i]! : 0)),
  );
}

/**
 * Sum over items of the square of what the item adds: how far its rates are from the mean, and its pull on the coefficients,
 * H⁻¹ · score, in the direction in which the mean rate changes. Coefficients that a lasso has set to 0 stay there. Null when the
 * others are not identified.
 */
function rateVariance(
  { data, clusters, rows }: Design,
  beta: readonly number[],
  ridges: readonly number[],
  rates: Float64Array,
  winRate: number,
): number | null {
  const direction = pullOnRate({ data, rows }, beta, ridges, rates);
  if (direction === null) return null;
  const logits = predictLogits(data, beta);
  const pull = predictLogits({ columns: data.columns, outcomes: data.outcomes }, direction);
  let squares = 0;
  for (const members of clusters) {
    let added = 0;
    for (const i of members) {
      added += data.weights[i]! * pull[i]! * (data.outcomes[i]! - logistic(logits[i]!));
      if (i < rows) added += (rates[i]! - winRate) / rows;
    }
    squares += added * added;
  }
  return (clusters.length / (clusters.length - 1)) * squares;
}

/** H⁻¹ times the gradient of the mean rate, [features]. */
function pullOnRate(
  { data, rows }: Pick<Design, 'data' | 'rows'>,
  beta: readonly number[],
  ridges: readonly number[],
  rates: Float64Array,
): number[] | null {
  const active = [...beta.keys()].filter((k) => beta[k] !== 0);
  const hessian = withRidge(curvatureOf(data, beta).hessian, ridges);
  const gradient = data.columns.map((column, k) =>
    k === 1 ? 0 : rates.reduce((sum, rate, i) => sum + rate * (1 - rate) * column[i]!, 0) / rows,
  );
  const solved = solve(
    active.map((k) => active.map((l) => hessian[k]![l]!)),
    active.map((k) => gradient[k]!),
  );
  if (solved === null) return null;
  const direction = beta.map(() => 0);
  active.forEach((k, at) => {
    direction[k] = solved[at]!;
  });
  return direction;
}

/** Whether some coefficients put every win on one side of one half and every loss on the other; next to no penalty finds them. */
function isSeparated(data: LogisticData): boolean {
  if (!data.outcomes.every(Number.isInteger)) return false;
  const beta = fitRidge(
    data,
    data.columns.map(() => 1e-6),
  );
  if (beta === null) return false;
  const logits = predictLogits(data, beta);
  return data.outcomes.every((outcome, i) => (outcome - 0.5) * logits[i]! > 0);
}

/** With n − 1. */
function standardDeviation(values: readonly number[]): number {
  const center = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - center) ** 2, 0) / (values.length - 1));
}
