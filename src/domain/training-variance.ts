// What a win rate says of a recipe for training, rather than of the one policy that came out: the same recipe trained several
// times with other random numbers, items and trainings crossed.
import { type Counted, groupBy, mean, outcomeOf, sumClusters } from './judgements.ts';
import { clusteredVariance, satterthwaite, studentInterval } from './mean-interval.ts';

export interface TrainingVariance {
  /** Each training, as it first occurs. */
  seeds: { training_seed: string | number; win_rate: number; n: number }[];
  /** Over items and trainings. */
  standard_error: number | null;
  confidence_interval: { low: number; high: number; level: number } | null;
  /** Why there is no figure. */
  reason: string | null;
}

/**
 * Null when no judgement names a training. The variance is that over items and that over trainings, each clustered; the noise of
 * single judgements is in both, so that the interval is rather too wide than too narrow.
 */
export function trainingVariance(counted: readonly Counted[], level: number): TrainingVariance | null {
  const named = counted.filter(({ training_seed }) => training_seed !== undefined);
  if (named.length === 0) return null;
  const bySeed = groupBy(named, ({ training_seed }) => training_seed!);
  const seeds = [...bySeed].map(([training_seed, members]) => ({
    training_seed,
    win_rate: mean(members.map(outcomeOf)),
    n: members.length,
  }));
  const without = (reason: string) => ({ seeds, standard_error: null, confidence_interval: null, reason });
  if (named.length < counted.length) return without('Some judgements name no training seed.');
  const byItem = groupBy(named, ({ item_id }) => item_id);
  const [overItems, overSeeds] = [byItem, bySeed].map((groups) => clusteredVariance(sumClusters(groups)));
  if (overItems == null || overSeeds == null)
    return without('Training variance needs at least two training seeds and two items.');
  const variance = overItems + overSeeds;
  if (variance === 0)
    return without('All judgements have the same outcome, so there is no spread to measure.');
  const freedom = satterthwaite([
    { variance: overItems, freedom: byItem.size - 1 },
    { variance: overSeeds, freedom: bySeed.size - 1 },
  ]);
  const standardError = Math.sqrt(variance);
  return {
    seeds,
    standard_error: standardError,
    confidence_interval: {
      ...studentInterval(mean(named.map(outcomeOf)), standardError, freedom, level),
      level,
    },
    reason: null,
  };
}
