// What counts as an edit rather than a rewrite. The thresholds are a dataset's; the default says no more than that most of
// the text was kept, as token labels of a rewrite would say little about single tokens (ALGORITHM 1).

export interface Minimality {
  /** Share of both texts together that is changed (1 − similarity), 0..1. */
  max_changed_fraction: number;
  /** Changed places; null: any number. */
  max_hunks: number | null;
  /** |edited − original| / original, in UTF-16 units; null: any. */
  max_length_change: number | null;
}

export const defaultMinimality: Readonly<Minimality> = {
  max_changed_fraction: 0.6,
  max_hunks: null,
  max_length_change: null,
};

/** What the thresholds are about. */
export interface EditSize {
  /** 2 × kept / (original + edited), 0..1. */
  similarity: number;
  hunks: number;
  /** (edited − original) / original, in UTF-16 units; null when only the original is empty. */
  length_change: number | null;
}

export type Excess = 'mostly_rewritten' | 'many_changes' | 'length_changed';

/** (edited − original) / original, in UTF-16 units; null when only the original is empty. */
export function lengthChange(original: string, edited: string): number | null {
  if (original === '') return edited === '' ? 0 : null;
  return (edited.length - original.length) / original.length;
}

/** The thresholds that an edit exceeds, with what it means and what to do. */
export function excesses(size: EditSize, limits: Readonly<Minimality>): { code: Excess; detail: string }[] {
  const found: { code: Excess; detail: string }[] = [];
  if (1 - size.similarity > limits.max_changed_fraction)
    found.push({
      code: 'mostly_rewritten',
      detail: `${percent(1 - size.similarity)} of the two texts is changed, more than ${percent(limits.max_changed_fraction)}, so the labels would say little about single tokens. Change less, and only what is wrong; as it is, the edit can only serve as a comparison of whole responses.`,
    });
  if (limits.max_hunks !== null && size.hunks > limits.max_hunks)
    found.push({
      code: 'many_changes',
      detail: `${size.hunks} places are changed, more than ${limits.max_hunks}. Change only what is wrong; as it is, the edit can only serve as a comparison of whole responses.`,
    });
  if (
    limits.max_length_change !== null &&
    size.length_change !== null &&
    Math.abs(size.length_change) > limits.max_length_change
  )
    found.push({
      code: 'length_changed',
      detail: `The length changed by ${percent(size.length_change)}, more than ${percent(limits.max_length_change)}. Correct what is wrong without adding or leaving out other things; as it is, the edit can only serve as a comparison of whole responses.`,
    });
  return found;
}

const percent = (share: number): string => `${Number((100 * share).toFixed(1))} %`;
