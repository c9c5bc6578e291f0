// Two candidates on the items that both were judged on: the mean of the differences item by item, so that what makes an item
// hard for both does not blur the comparison.
import { type Counted, groupBy, mean, outcomeOf } from './judgements.ts';
import { type ConfidenceInterval, detectableDifference, meanInterval } from './mean-interval.ts';

export interface PairedDifference {
  /** Mean outcome of the first less that of the second, −1..1; each item has the same weight. */
  difference: number | null;
  standard_error: number | null;
  confidence_interval: ConfidenceInterval | null;
  /** Items that both were judged on. */
  n_shared: number;
  minimal_detectable_difference: number | null;
  /** Why there is no figure. */
  reason: string | null;
}

export type ItemOutcomes = ReadonlyMap<string, number>;

/** Mean outcome of each item. */
export const outcomesByItem = (counted: readonly Counted[]): ItemOutcomes =>
  new Map(
    [...groupBy(counted, ({ item_id }) => item_id)].map(([item, members]) => [
      item,
      mean(members.map(outcomeOf)),
    ]),
  );

export function pairedDifference(first: ItemOutcomes, second: ItemOutcomes, level: number): PairedDifference {
  const differences: number[] = [];
  for (const [item, outcome] of first) {
    const other = second.get(item);
    if (other !== undefined) differences.push(outcome - other);
  }
  const n = differences.length;
  const nothing = { standard_error: null, confidence_interval: null, minimal_detectable_difference: null };
  if (n === 0) return { ...nothing, difference: null, n_shared: 0, reason: 'The two share no item.' };
  const difference = mean(differences);
  if (n === 1)
    return {
      ...nothing,
      difference,
      n_shared: 1,
      reason: 'One shared item has no spread: judge at least two.',
    };
  const squares = differences.reduce((sum, value) => sum + (value - difference) ** 2, 0);
  const error = Math.sqrt(squares / (n - 1) / n);
  return {
    difference,
    standard_error: error,
    confidence_interval: differenceInterval(difference, error, n, level),
    n_shared: n,
    minimal_detectable_difference: detectableDifference(error, n, level),
    reason: null,
  };
}

/** Through the share ½ + difference / 2, so that differences without a spread have a score interval too. */
function differenceInterval(difference: number, error: number, n: number, level: number): ConfidenceInterval {
  const { low, high, method } = meanInterval(
    { mean: (1 + difference) / 2, standardError: error / 2, clusters: n, n, onlyWinsAndLosses: false },
    level,
  );
  return { low: 2 * low - 1, high: 2 * high - 1, level, method };
}
