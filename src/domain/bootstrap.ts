// Bootstrap interval of a mean, resampling whole clusters: percentile, or bias-corrected and accelerated (BCa; Efron 1987, with
// the acceleration from the jackknife over clusters; Efron and Tibshirani, An Introduction to the Bootstrap, ch. 14).
import { normalDistribution, normalQuantile } from './distributions.ts';
import type { ClusterSums } from './judgements.ts';
import { total } from './mean-interval.ts';
import { createDraws } from './random.ts';

export type BootstrapMethod = 'bca' | 'percentile';

export interface BootstrapOptions {
  rounds?: number;
  seed?: number;
  method?: BootstrapMethod;
}

export const bootstrapDefaults = { rounds: 1000, seed: 1, method: 'bca' } as const;

export interface BootstrapInterval {
  low: number | null;
  high: number | null;
  level: number;
  method: BootstrapMethod;
  rounds: number;
  seed: number;
  /** Standard deviation of the resampled means. */
  standard_error: number | null;
  /** Why there is no figure. */
  reason: string | null;
}

export function bootstrapMean(
  clusters: ClusterSums,
  options: BootstrapOptions,
  level: number,
): BootstrapInterval {
  const { rounds, seed, method } = { ...bootstrapDefaults, ...options };
  const answer = { low: null, high: null, level, method, rounds, seed, standard_error: null, reason: null };
  if (clusters.sums.length < 2) return { ...answer, reason: 'A bootstrap needs at least two items.' };
  const means = resampledMeans(clusters, rounds, seed).sort();
  if (means[0] === means[rounds - 1])
    return { ...answer, reason: 'All items have the same outcome, so resampling them shows no spread.' };
  const tail = (1 - level) / 2;
  const [low, high] = method === 'bca' ? correctedTails(clusters, means, tail) : [tail, 1 - tail];
  return {
    ...answer,
    low: quantileOf(means, low),
    high: quantileOf(means, high),
    standard_error: deviation(means),
  };
}

function resampledMeans({ sums, counts }: ClusterSums, rounds: number, seed: number): Float64Array {
  const draw = createDraws(seed);
  const drawn = new Int32Array(sums.length);
  const means = new Float64Array(rounds);
  for (let round = 0; round < rounds; round++) {
    draw(drawn, sums.length);
    let sum = 0;
    let n = 0;
    for (let k = 0; k < drawn.length; k++) {
      sum += sums[drawn[k]!]!;
      n += counts[drawn[k]!]!;
    }
    means[round] = sum / n;
  }
  return means;
}

/** Where to read the sorted means for a tail of `tail` on either side. */
function correctedTails(clusters: ClusterSums, means: Float64Array, tail: number): [number, number] {
  const bias = normalQuantile(shareBelow(means, total(clusters.sums) / total(clusters.counts)));
  const acceleration = accelerationOf(clusters);
  const corrected = (p: number) => {
    const z = bias + normalQuantile(p);
    const denominator = 1 - acceleration * z;
    return denominator > 0 ? normalDistribution(bias + z / denominator) : z > 0 ? 1 : 0;
  };
  return [corrected(tail), corrected(1 - tail)];
}

/** Share of means below the estimate, of equal ones half; never 0 or 1, as more rounds would find some there. */
function shareBelow(means: Float64Array, estimate: number): number {
  const tolerance = 1e-12; // sums in another order
  let below = 0;
  for (const value of means)
    below += value < estimate - tolerance ? 1 : value <= estimate + tolerance ? 0.5 : 0;
  return Math.min(Math.max(below, 0.5), means.length - 0.5) / means.length;
}

/** A sixth of the skewness of the jackknife values. */
function accelerationOf({ sums, counts }: ClusterSums): number {
  const [sum, n] = [total(sums), total(counts)];
  const values = sums.map((one, k) => (sum - one) / (n - counts[k]!));
  const center = total(values) / values.length;
  let squares = 0;
  let cubes = 0;
  for (const value of values) {
    squares += (center - value) ** 2;
    cubes += (center - value) ** 3;
  }
  return squares === 0 ? 0 : cubes / (6 * squares ** 1.5);
}

/** Between the two sorted values where it falls, linearly. */
function quantileOf(sorted: Float64Array, p: number): number {
  const position = (sorted.length - 1) * p;
  const below = Math.floor(position);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below]! + (sorted[above]! - sorted[below]!) * (position - below);
}

function deviation(values: Float64Array): number {
  const center = total(values) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - center) ** 2, 0) / (values.length - 1));
}
