// How hard each item is for any candidate, from several candidates' judgements of the same items, as AlpacaEval 2 does it: one
// logistic regression of all outcomes on an intercept and a length slope for each candidate and a term for each item.
import { logistic } from './logistic-regression.ts';
import { total } from './mean-interval.ts';

export interface DifficultyRow {
  candidate: string | null;
  item: string;
  /** 0..1 */
  outcome: number;
  /** Standardised length difference within −1..1. */
  length: number;
}

// A prior of variance 1 for the logit of an item, and for a slope; next to none for an intercept, so that a candidate that has
// won or lost everything has one.
const ridge = 1;
const interceptRidge = 1e-3;
const mostSweeps = 500;
const settled = 1e-6;
const longestStep = 1; // of a logit; Newton's from far away may be too long

interface Rows {
  /** Numbers of item and candidate, outcome and length of each row. */
  item: Int32Array;
  candidate: Int32Array;
  outcome: Float64Array;
  length: Float64Array;
}

interface Fit {
  items: Float64Array;
  intercepts: Float64Array;
  slopes: Float64Array;
}

/** Logit of each item, of mean 0; larger is easier. Items and candidates take turns. Null when it does not settle. */
export function estimateDifficulty(rows: readonly DifficultyRow[]): Map<string, number> | null {
  const items = numbersOf(rows.map(({ item }) => item));
  const candidates = numbersOf(rows.map(({ candidate }) => candidate));
  const numbered: Rows = {
    item: Int32Array.from(rows, ({ item }) => items.get(item)!),
    candidate: Int32Array.from(rows, ({ candidate }) => candidates.get(candidate)!),
    outcome: Float64Array.from(rows, ({ outcome }) => outcome),
    length: Float64Array.from(rows, ({ length }) => length),
  };
  const fit: Fit = {
    items: new Float64Array(items.size),
    intercepts: new Float64Array(candidates.size),
    slopes: new Float64Array(candidates.size),
  };
  for (let sweep = 0; sweep < mostSweeps; sweep++) {
    const change = Math.max(moveCandidates(numbered, fit), moveItems(numbered, fit));
    if (change < settled) return new Map([...items].map(([item, number]) => [item, fit.items[number]!]));
  }
  return null;
}

function numbersOf<Name>(names: readonly Name[]): Map<Name, number> {
  const numbers = new Map<Name, number>();
  for (const name of names) if (!numbers.has(name)) numbers.set(name, numbers.size);
  return numbers;
}

const rateOf = ({ item, candidate, length }: Rows, { items, intercepts, slopes }: Fit, i: number): number =>
  logistic(items[item[i]!]! + intercepts[candidate[i]!]! + slopes[candidate[i]!]! * length[i]!);

const bounded = (step: number): number => Math.max(-longestStep, Math.min(longestStep, step));

/** One Newton step for the intercept and slope of each candidate. Returns the largest of a slope. */
function moveCandidates(rows: Rows, fit: Fit): number {
  const { intercepts, slopes } = fit;
  const gradient = [intercepts.map((value) => interceptRidge * value), slopes.map((value) => ridge * value)];
  const [a, b, c] = [interceptRidge, 0, ridge].map((value) => slopes.map(() => value)); // the Hessian [[a, b], [b, c]]
  for (let i = 0; i < rows.outcome.length; i++) {
    const [k, length] = [rows.candidate[i]!, rows.length[i]!];
    const rate = rateOf(rows, fit, i);
    const bend = rate * (1 - rate);
    gradient[0]![k]! += rate - rows.outcome[i]!;
    gradient[1]![k]! += (rate - rows.outcome[i]!) * length;
    a![k]! += bend;
    b![k]! += bend * length;
    c![k]! += bend * length * length;
  }
  let largest = 0;
  for (let k = 0; k < slopes.length; k++) {
    const [u, v] = [gradient[0]![k]!, gradient[1]![k]!];
    const determinant = a![k]! * c![k]! - b![k]! ** 2;
    const steps = [
      bounded((c![k]! * u - b![k]! * v) / determinant),
      bounded((a![k]! * v - b![k]! * u) / determinant),
    ];
    intercepts[k]! -= steps[0]!;
    slopes[k]! -= steps[1]!;
    largest = Math.max(largest, Math.abs(steps[1]!));
  }
  return largest;
}

/** One Newton step for each item, then all moved to mean 0, which the intercepts take up. Returns the largest move. */
function moveItems(rows: Rows, fit: Fit): number {
  const { items, intercepts } = fit;
  const gradient = items.map((value) => ridge * value);
  const bend = items.map(() => ridge);
  for (let i = 0; i < rows.outcome.length; i++) {
    const rate = rateOf(rows, fit, i);
    gradient[rows.item[i]!]! += rate - rows.outcome[i]!;
    bend[rows.item[i]!]! += rate * (1 - rate);
  }
  const moved = items.map((value, k) => value - bounded(gradient[k]! / bend[k]!));
  const center = total(moved) / moved.length;
  let largest = 0;
  for (let k = 0; k < items.length; k++) {
    largest = Math.max(largest, Math.abs(moved[k]! - center - items[k]!));
    items[k] = moved[k]! - center;
  }
  for (let k = 0; k < intercepts.length; k++) intercepts[k]! += center;
  return largest;
}
