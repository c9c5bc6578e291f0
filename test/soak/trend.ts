// Whether a series of measurements rises: the Theil-Sen slope (the median of the slopes between all pairs of points, which
// a few spikes do not move) with its 95 % interval from Kendall's rank correlation (Sen, JASA 63, 1968).

export interface Point {
  minutes: number;
  value: number;
}

export interface Trend {
  /** per minute */
  slope: number;
  low: number;
  high: number;
  /** the median of the last tenth over that of the first tenth, less one */
  growth: number;
}

/** @param points at least 10, of different times */
export function trendOf(points: Point[]): Trend {
  const n = points.length;
  const slopes: number[] = [];
  for (let i = 0; i < n; i++)
    for (let j = i + 1; j < n; j++)
      slopes.push((points[j]!.value - points[i]!.value) / (points[j]!.minutes - points[i]!.minutes));
  slopes.sort((a, b) => a - b);
  const spread = 1.96 * Math.sqrt((n * (n - 1) * (2 * n + 5)) / 18);
  const rank = (at: number): number => slopes[Math.min(slopes.length - 1, Math.max(0, Math.round(at)))]!;
  const tenth = Math.max(3, Math.floor(n / 10));
  const values = points.map(({ value }) => value);
  return {
    slope: rank((slopes.length - 1) / 2),
    low: rank((slopes.length - spread) / 2 - 1),
    high: rank((slopes.length + spread) / 2),
    growth: median(values.slice(-tenth)) / median(values.slice(0, tenth)) - 1,
  };
}

export function median(values: number[]): number {
  return quantile(values, 0.5);
}

/** The smallest value that at least this share of the values does not exceed. */
export function quantile(values: number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}
