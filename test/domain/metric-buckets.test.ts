import fc from 'fast-check';
import t from 'tap';
import { bucketPoints, type MetricPoint, newestPoints } from '../../src/domain/metric-buckets.ts';
import { holds } from './holds.ts';

const value = fc.oneof(
  { weight: 4, arbitrary: fc.double({ noNaN: true, noDefaultInfinity: true }) },
  fc.constant(null),
);
const reported = fc.array(fc.record({ step: fc.integer({ min: 0, max: 2000 }), value }), { maxLength: 300 });
const series = fc.oneof(
  reported.map(newestPoints),
  fc
    .uniqueArray(fc.maxSafeNat(), { minLength: 1, maxLength: 200 })
    .map((steps) => newestPoints(steps.map((step) => ({ step, value: step % 7 ? step : null })))),
);
const most = fc.integer({ min: 1, max: 60 });
const inside = (points: MetricPoint[], from: number, to: number): MetricPoint[] =>
  points.filter(({ step }) => step >= from && step <= to);

t.test('of the points of a step the one that was reported last counts, in the order of steps', async (t) => {
  holds(
    t,
    fc.property(reported, (points) => {
      const newest = newestPoints(points);
      const steps = newest.map(({ step }) => step);
      return (
        steps.every((step, i) => i === 0 || step > steps[i - 1]!) &&
        points.every(({ step }) => steps.includes(step)) &&
        newest.every((point) => points.findLast(({ step }) => step === point.step) === point)
      );
    }),
  );
});

t.test('fewer points than buckets come out as they are', async (t) => {
  holds(
    t,
    fc.property(series, (points) => {
      const buckets = bucketPoints(points, Math.max(1, points.length));
      return buckets.every(
        (bucket, i) =>
          bucket.count === 1 &&
          bucket.step === points[i]!.step &&
          [bucket.min, bucket.max, bucket.mean, bucket.last].every((v) => Object.is(v, points[i]!.value)),
      );
    }),
  );
});

t.test('buckets hold every point once, in order, and are no more than were asked for', async (t) => {
  holds(
    t,
    fc.property(series, most, (points, most) => {
      const buckets = bucketPoints(points, most);
      return (
        buckets.length <= most &&
        buckets.reduce((sum, { count }) => sum + count, 0) === points.length &&
        buckets.every(
          ({ step, last_step, count }, i) =>
            count > 0 &&
            step <= last_step &&
            (i === 0 || step > buckets[i - 1]!.last_step) &&
            inside(points, step, last_step).length === count,
        )
      );
    }),
  );
});

t.test('a bucket tells the extremes of its numbers, a mean between them, and its last value', async (t) => {
  holds(
    t,
    fc.property(series, most, (points, most) =>
      bucketPoints(points, most).every(({ step, last_step, min, max, mean, last }) => {
        const held = inside(points, step, last_step);
        const numbers = held.flatMap(({ value }) => value ?? []);
        if (last !== held.at(-1)!.value) return false;
        if (numbers.length === 0) return min === null && max === null && mean === null;
        return (
          min === Math.min(...numbers) &&
          max === Math.max(...numbers) &&
          Number.isFinite(mean) &&
          mean! >= min! &&
          mean! <= max!
        );
      }),
    ),
  );
});

t.test('equal stretches of steps', async (t) => {
  const points = Array.from({ length: 100 }, (_, i) => ({ step: i * 10, value: i % 2 ? i : null }));
  t.same(bucketPoints(points, 4), [
    { step: 0, last_step: 240, min: 1, max: 23, mean: 12, last: null, count: 25 },
    { step: 250, last_step: 490, min: 25, max: 49, mean: 37, last: 49, count: 25 },
    { step: 500, last_step: 740, min: 51, max: 73, mean: 62, last: null, count: 25 },
    { step: 750, last_step: 990, min: 75, max: 99, mean: 87, last: 99, count: 25 },
  ]);
});
