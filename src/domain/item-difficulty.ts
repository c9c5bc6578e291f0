// How hard each item is for any candidate, from several candidates' judgements of the same items, as AlpacaEval 2 does it: one
// logistic regression of all outcomes on an intercept and a length slope for each candidate and a term for each item.
import { groupBy } from './judgements.ts';
import { fitRidge, logistic } from './logistic-regression.ts';

export interface DifficultyRow {
  candidate: string | null;
  item: string;
  /** 0..1 */
  outcome: number;
  /** Standardised length difference within −1..1. */
  length: number;
}

// A prior of variance 1 for the logit of an item, and for a slope.
const ridge = 1;
const mostSweeps = 200;
const settled = 1e-5;

/**
 * Logit of each item, of mean 0; larger is easier. Candidates and items are fitted in turn. Null when it does not settle.
 */
export function estimateDifficulty(rows: readonly DifficultyRow[]): Map<string, number> | null {
  const items = indicesBy(rows, ({ item }) => item);
  const candidates = indicesBy(rows, ({ candidate }) => candidate);
  const ofItem = new Float64Array(rows.length);
  const ofCandidate = new Float64Array(rows.length);
  for (let sweep = 0; sweep < mostSweeps; sweep++) {
    for (const members of candidates.values())
      if (!fitCandidate(rows, members, ofItem, ofCandidate)) return null;
    const change = fitItems(rows, items, ofItem, ofCandidate);
    if (change < settled) return new Map([...items].map(([item, members]) => [item, ofItem[members[0]!]!]));
  }
  return null;
}

const indicesBy = <Key>(rows: readonly DifficultyRow[], key: (row: DifficultyRow) => Key) =>
  groupBy(
    rows.map((_, i) => i),
    (i) => key(rows[i]!),
  );

/** Writes the candidate's part of each logit; false when there is no fit. */
function fitCandidate(
  rows: readonly DifficultyRow[],
  members: readonly number[],
  ofItem: Float64Array,
  ofCandidate: Float64Array,
): boolean {
  const lengths = Float64Array.from(members, (i) => rows[i]!.length);
  const beta = fitRidge(
    {
      columns: [new Float64Array(members.length).fill(1), lengths],
      outcomes: Float64Array.from(members, (i) => rows[i]!.outcome),
      offsets: Float64Array.from(members, (i) => ofItem[i]!),
    },
    [interceptRidge, ridge],
  );
  if (beta === null) return false;
  members.forEach((i, k) => {
    ofCandidate[i] = beta[0]! + beta[1]! * lengths[k]!;
  });
  return true;
}

// Only so that a candidate that has won or lost everything has an intercept.
const interceptRidge = 1e-3;

/** One Newton step for each item, then all moved to mean 0, which the intercepts take up. Returns the largest change. */
function fitItems(
  rows: readonly DifficultyRow[],
  items: ReadonlyMap<string, readonly number[]>,
  ofItem: Float64Array,
  ofCandidate: Float64Array,
): number {
  const next = [...items.values()].map((members) => {
    const now = ofItem[members[0]!]!;
    let gradient = ridge * now;
    let bend = ridge;
    for (const i of members) {
      const rate = logistic(now + ofCandidate[i]!);
      gradient += rate - rows[i]!.outcome;
      bend += rate * (1 - rate);
    }
    return now - Math.max(-1, Math.min(1, gradient / bend));
  });
  const center = next.reduce((sum, value) => sum + value, 0) / next.length;
  let change = 0;
  let k = 0;
  for (const members of items.values()) {
    const value = next[k++]! - center;
    change = Math.max(change, Math.abs(value - ofItem[members[0]!]!));
    for (const i of members) ofItem[i] = value;
  }
  return change;
}
