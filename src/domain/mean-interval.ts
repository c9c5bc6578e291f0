// Standard error and interval of a mean whose terms come in clusters.
import { normalQuantile, studentQuantile } from './distributions.ts';
import type { ClusterSums } from './judgements.ts';

export interface ConfidenceInterval {
  low: number;
  high: number;
  level: number;
  /**
   * `wilson`: score interval, for wins and losses only, one judgement per item; also where there is no spread to measure
   * (for any outcomes in 0..1 it is then wide enough). `student_t`: mean ± t · standard error, cut to what is possible.
   * `cluster_robust_t`: the same with items as clusters.
   */
  method: 'wilson' | 'student_t' | 'cluster_robust_t';
}

export interface MeanEstimate {
  /** 0..1 */
  mean: number;
  /** null with fewer than two clusters */
  standardError: number | null;
  clusters: number;
  n: number;
  /** every term is 0 or 1 */
  onlyWinsAndLosses: boolean;
}

/** Variance of Σ sums / Σ counts, robust to dependence within clusters; null with fewer than two. */
export function clusteredVariance({ sums, counts }: ClusterSums): number | null {
  const clusters = sums.length;
  if (clusters < 2) return null;
  const n = total(counts);
  const mean = total(sums) / n;
  let squares = 0;
  for (let k = 0; k < clusters; k++) squares += (sums[k]! - mean * counts[k]!) ** 2;
  return ((clusters / (clusters - 1)) * squares) / (n * n);
}

export const total = (values: Float64Array): number => values.reduce((sum, value) => sum + value, 0);

export function meanInterval(estimate: MeanEstimate, level: number): ConfidenceInterval {
  const { mean, standardError, clusters, n, onlyWinsAndLosses } = estimate;
  const clustered = clusters < n;
  if ((onlyWinsAndLosses && !clustered) || !standardError)
    return { ...wilson(mean, clusters, level), level, method: 'wilson' };
  return {
    ...studentInterval(mean, standardError, clusters - 1, level),
    level,
    method: clustered ? 'cluster_robust_t' : 'student_t',
  };
}

/** Score interval of a share of n trials (Wilson 1927). */
export function wilson(share: number, n: number, level: number): { low: number; high: number } {
  const z2 = normalQuantile((1 - level) / 2) ** 2;
  const center = (share + z2 / (2 * n)) / (1 + z2 / n);
  const half = Math.sqrt(z2 * ((share * (1 - share)) / n + z2 / (4 * n ** 2))) / (1 + z2 / n);
  return within(center - half, center + half);
}

/** Cut to 0..1. */
export function studentInterval(
  mean: number,
  standardError: number,
  degreesOfFreedom: number,
  level: number,
): { low: number; high: number } {
  const half = -studentQuantile((1 - level) / 2, degreesOfFreedom) * standardError;
  return within(mean - half, mean + half);
}

const within = (low: number, high: number) => ({ low: Math.max(0, low), high: Math.min(1, high) });

const power = 0.8;

/**
 * The smallest true difference that a two-sided test at 1 − level finds with 80 % power, given this standard error; null when
 * there is no spread to plan with.
 */
export function detectableDifference(
  standardError: number | null,
  clusters: number,
  level: number,
): number | null {
  if (!standardError) return null;
  const quantiles =
    -studentQuantile((1 - level) / 2, clusters - 1) - studentQuantile(1 - power, clusters - 1);
  return quantiles * standardError;
}

/** Degrees of freedom of a sum of estimated variances (Satterthwaite 1946), at least 1. */
export function satterthwaite(terms: readonly { variance: number; freedom: number }[]): number {
  const sum = terms.reduce((total, { variance }) => total + variance, 0);
  const squares = terms.reduce((total, { variance, freedom }) => total + variance ** 2 / freedom, 0);
  return squares === 0 ? 1 : Math.max(1, sum ** 2 / squares);
}
