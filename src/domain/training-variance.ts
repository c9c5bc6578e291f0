// What a win rate says of a recipe for training, rather than of the one policy that came out: the same recipe trained several
// times with other random numbers, items and trainings crossed.
import { type Counted, groupBy, mean, outcomeOf, sumClusters } from './judgements.ts';
import { clusteredVariance, satterthwaite, studentInterval } from './mean-interval.ts';

export interface OverTrainings {
  /** Over items and trainings. */
  standard_error: number | null;
  confidence_interval: { low: number; high: number; level: number } | null;
  /** Why there is no figure. */
  reason: string | null;
}

export interface TrainingVariance extends OverTrainings {
  /** Each training, as it first occurs. */
  seeds: { training_seed: string | number; win_rate: number; n: number }[];
}

/** A term of a variance, with its degrees of freedom. */
interface Term {
  variance: number;
  freedom: number;
}

const isNamed = ({ training_seed }: Counted): boolean => training_seed !== undefined;

/** 1 and "1" are one training. */
const bySeed = (counted: readonly Counted[]) =>
  groupBy(counted, ({ training_seed }) => String(training_seed));

/**
 * Null when no judgement names a training. The variance is that over items and that over trainings, each clustered; the noise of
 * single judgements is in both, so that the interval is rather too wide than too narrow.
 */
export function trainingVariance(counted: readonly Counted[], level: number): TrainingVariance | null {
  const named = counted.filter(isNamed);
  if (named.length === 0) return null;
  const seeds = [...bySeed(named).values()].map((members) => ({
    training_seed: members[0]!.training_seed!,
    win_rate: mean(members.map(outcomeOf)),
    n: members.length,
  }));
  const rate = mean(named.map(outcomeOf));
  const overItems = termOf(groupBy(counted, ({ item_id }) => item_id));
  return {
    seeds,
    ...overTrainings([counted], overItems, (term) => studentInterval(rate, ...term, level), level),
  };
}

/**
 * The difference of two candidates, each trained several times. Null when no judgement names a training.
 */
export function pairedTrainingVariance(
  candidates: readonly (readonly Counted[])[],
  difference: { difference: number; standard_error: number; n_shared: number },
  level: number,
): OverTrainings | null {
  if (!candidates.some((counted) => counted.some(isNamed))) return null;
  const overItems = { variance: difference.standard_error ** 2, freedom: difference.n_shared - 1 };
  const interval = ([error, freedom]: [number, number]) => {
    const { low, high } = studentInterval((1 + difference.difference) / 2, error / 2, freedom, level);
    return { low: 2 * low - 1, high: 2 * high - 1 };
  };
  return overTrainings(candidates, overItems, interval, level);
}

/** @param candidates judgements of each, whose variances over trainings are added */
function overTrainings(
  candidates: readonly (readonly Counted[])[],
  overItems: Term | null,
  intervalOf: (term: [error: number, freedom: number]) => { low: number; high: number },
  level: number,
): OverTrainings {
  const without = (reason: string) => ({ standard_error: null, confidence_interval: null, reason });
  if (!candidates.every((counted) => counted.every(isNamed)))
    return without('Some judgements name no training seed.');
  const terms = [overItems, ...candidates.map((counted) => termOf(bySeed(counted)))];
  if (!terms.every((term) => term !== null))
    return without('Training variance needs at least two training seeds and two items.');
  const variance = terms.reduce((sum, term) => sum + term.variance, 0);
  if (variance === 0) return without('There is no spread to measure.');
  const standardError = Math.sqrt(variance);
  const interval = intervalOf([standardError, satterthwaite(terms)]);
  return { standard_error: standardError, confidence_interval: { ...interval, level }, reason: null };
}

function termOf(clusters: ReadonlyMap<unknown, readonly Counted[]>): Term | null {
  const variance = clusteredVariance(sumClusters(clusters));
  return variance === null ? null : { variance, freedom: clusters.size - 1 };
}
