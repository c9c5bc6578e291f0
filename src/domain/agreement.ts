// How far several editors of one response agree on which of its tokens to change: Krippendorff's alpha (nominal; Krippendorff,
// Content Analysis, ch. 12) and the F1 of each two editors. Items are added one by one and only sums are kept, so that any
// number of them fits. What cannot be computed is null with a reason, never NaN.
import { studentQuantile } from './distributions.ts';
import type { Span } from './text.ts';
import { splitWords } from './words.ts';

/**
 * Which units of a response an editor changed: its words and marks, and last its end. A change that meets no word, as an insertion
 * and a change of white space alone, marks the one that stands where it is, which may be the end (ALGORITHM 1).
 * @param changes the original spans of the changed segments of an alignment, ascending; empty where something was inserted
 */
export function changedUnits(original: string, changes: readonly Span[]): boolean[] {
  const { start, end } = splitWords(original);
  const marked = new Array<boolean>(start.length + 1).fill(false);
  let k = 0;
  for (const [from, to] of changes) {
    while (k < end.length && end[k]! <= from) k++;
    marked[k] = true; // the first that reaches beyond the beginning of the change
    for (let next = k + 1; next < start.length && start[next]! < to; next++) marked[next] = true;
  }
  return marked;
}

const figures = ['disagreements', 'changed', 'kept'] as const;
type Figures = Record<(typeof figures)[number], number>;

/** Sums over items. An item is one response with the marks of its editors. */
export interface AgreementSums {
  /** items with two editors or more: the others say nothing about agreement */
  items: number;
  /** units of those items */
  units: number;
  /** marks of all editors: of changed units, of kept ones, and o_ck = o_kc of the coincidence matrix */
  totals: Figures;
  /** sums of the products of two figures of an item */
  products: Record<keyof Figures, Figures>;
  /** each two editors of an item */
  editorPairs: number;
  f1: number;
}

const noFigures = (): Figures => ({ disagreements: 0, changed: 0, kept: 0 });

export function emptyAgreement(): AgreementSums {
  const products = { disagreements: noFigures(), changed: noFigures(), kept: noFigures() };
  return { items: 0, units: 0, totals: noFigures(), products, editorPairs: 0, f1: 0 };
}

/** Adds an item to the sums. @param marks of each editor, for the same units in the same order */
export function addItem(sums: AgreementSums, marks: readonly (readonly boolean[])[]): void {
  const editors = marks.length;
  if (editors < 2) return;
  const units = marks[0]!.length;
  const item = noFigures();
  for (let unit = 0; unit < units; unit++) {
    const changed = marks.reduce((count, mark) => count + (mark[unit] ? 1 : 0), 0);
    item.changed += changed;
    item.kept += editors - changed;
    item.disagreements += (changed * (editors - changed)) / (editors - 1);
  }
  sums.items++;
  sums.units += units;
  for (const one of figures) {
    sums.totals[one] += item[one];
    for (const other of figures) sums.products[one][other] += item[one] * item[other];
  }
  for (let one = 0; one < editors; one++) {
    for (let other = one + 1; other < editors; other++) {
      sums.editorPairs++;
      sums.f1 += changedF1(marks[one]!, marks[other]!);
    }
  }
}

/** 2 × changed by both / (changed by one + changed by the other); 1 where neither changed anything. */
function changedF1(one: readonly boolean[], other: readonly boolean[]): number {
  let both = 0;
  let all = 0;
  for (let unit = 0; unit < one.length; unit++) {
    if (one[unit] && other[unit]) both++;
    all += (one[unit] ? 1 : 0) + (other[unit] ? 1 : 0);
  }
  return all === 0 ? 1 : (2 * both) / all;
}

export interface Agreement {
  /** 1 = always, 0 = as often as chance would, below 0 = less often. */
  alpha: number | null;
  /** Null with fewer than two items, and where items do not differ in how far their editors agree. */
  confidence_interval: { low: number; high: number; level: number } | null;
  /** Mean over each two editors of an item, 0..1. */
  pairwise_f1: number | null;
  /** Share of all marks that say changed, 0..1. */
  changed_fraction: number | null;
  /** Why alpha is null. */
  reason: string | null;
}

const level = 0.95;

export function summarizeAgreement(sums: AgreementSums): Agreement {
  const { changed, kept, disagreements } = sums.totals;
  const marks = changed + kept;
  if (sums.items === 0) {
    const reason = 'No response has edits of two editors.';
    return { alpha: null, confidence_interval: null, pairwise_f1: null, changed_fraction: null, reason };
  }
  const rest = { pairwise_f1: sums.f1 / sums.editorPairs, changed_fraction: changed / marks };
  if (changed === 0 || kept === 0) {
    const what = changed === 0 ? 'No editor changed any token' : 'Every editor changed every token';
    const reason = `${what}: without variation, agreement cannot be told from chance.`;
    return { alpha: null, confidence_interval: null, ...rest, reason };
  }
  const alpha = 1 - ((marks - 1) * disagreements) / (changed * kept);
  return { alpha, confidence_interval: interval(sums, alpha), ...rest, reason: null };
}

/**
 * Student's interval with the infinitesimal jackknife over items (the delta method on their sums): items, not tokens, are
 * what was drawn, since the tokens of a response are changed together.
 */
function interval(
  { items, totals, products }: AgreementSums,
  alpha: number,
): Agreement['confidence_interval'] {
  if (items < 2) return null;
  const { changed, kept, disagreements } = totals;
  const expected = changed * kept;
  const marks = changed + kept;
  const slope: Figures = {
    disagreements: -(marks - 1) / expected,
    changed: (disagreements / expected) * ((marks - 1) / changed - 1),
    kept: (disagreements / expected) * ((marks - 1) / kept - 1),
  };
  let variance = 0;
  for (const one of figures) {
    for (const other of figures) {
      const scatter = products[one][other] - (totals[one] * totals[other]) / items;
      variance += slope[one] * slope[other] * scatter;
    }
  }
  const error = Math.sqrt(Math.max(0, (variance * items) / (items - 1)));
  if (error < 1e-9) return null; // rounding of sums aside
  const half = studentQuantile((1 + level) / 2, items - 1) * error;
  return { low: Math.max(-1, alpha - half), high: Math.min(1, alpha + half), level };
}
