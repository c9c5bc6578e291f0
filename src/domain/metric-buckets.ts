// The series of a metric in as many points as a chart can show: what each bucket of steps holds is told by its extremes,
// its mean and its last value, so that no spike is lost.

export interface MetricPoint {
  step: number;
  /** null: it was no finite number */
  value: number | null;
}

export interface MetricBucket {
  /** the first and the last step that have a point in it */
  step: number;
  last_step: number;
  /** of the numbers in it; null when there is none */
  min: number | null;
  max: number | null;
  mean: number | null;
  /** the value at `last_step` */
  last: number | null;
  /** points in it, those without a number too */
  count: number;
}

/** In the order of steps, the point that was reported last for each: a resumed attempt repeats steps. */
export function newestPoints(reported: Iterable<MetricPoint>): MetricPoint[] {
  const newest = new Map<number, MetricPoint>();
  for (const point of reported) newest.set(point.step, point);
  return [...newest.values()].sort((a, b) => a.step - b.step);
}

/**
 * At most `most` buckets over equal stretches of steps, in order; stretches without points have none. Where there are no
 * more points than that, each is a bucket of its own.
 * @param points in the order of steps, one for each step
 */
export function bucketPoints(points: MetricPoint[], most: number): MetricBucket[] {
  if (points.length <= most) return points.map((point) => bucketOf([point]));
  const first = points[0]!.step;
  const width = (points.at(-1)!.step - first) / most;
  const buckets: MetricBucket[] = [];
  let held: MetricPoint[] = [];
  let place = 0;
  for (const point of points) {
    const own = Math.min(most - 1, Math.floor((point.step - first) / width));
    if (own !== place && held.length > 0) {
      buckets.push(bucketOf(held));
      held = [];
    }
    place = own;
    held.push(point);
  }
  buckets.push(bucketOf(held));
  return buckets;
}

function bucketOf(points: MetricPoint[]): MetricBucket {
  const numbers = points.flatMap(({ value }) => value ?? []);
  const end = points.at(-1)!;
  const min = numbers.length > 0 ? numbers.reduce((a, b) => Math.min(a, b)) : null;
  const max = numbers.length > 0 ? numbers.reduce((a, b) => Math.max(a, b)) : null;
  return {
    step: points[0]!.step,
    last_step: end.step,
    min,
    max,
    mean: min === null || max === null ? null : meanOf(numbers, min, max),
    last: end.value,
    count: points.length,
  };
}

/** Never outside of the extremes, and never infinite, whatever rounding and size do to the sum. */
function meanOf(numbers: number[], min: number, max: number): number {
  const sum = numbers.reduce((a, b) => a + b);
  const mean = Number.isFinite(sum)
    ? sum / numbers.length
    : numbers.reduce((mean, number) => mean + number / numbers.length, 0);
  return Math.min(max, Math.max(min, mean));
}
