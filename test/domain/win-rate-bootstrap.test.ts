import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { bootstrapMean } from '../../src/domain/bootstrap.ts';
import { normalDistribution, normalQuantile } from '../../src/domain/distributions.ts';
import { computeWinRate, type Judgement } from '../../src/domain/win-rate.ts';
import { holds } from './holds.ts';
import { close, judged, mean } from './judgements.ts';

const clusters = (sums: number[], counts: number[]) => ({
  sums: Float64Array.from(sums),
  counts: Float64Array.from(counts),
});

/** Mean of every resample that there is, n^n of them, ascending. */
function everyResample(sums: number[], counts: number[]): number[] {
  const n = sums.length;
  const means = Array.from({ length: n ** n }, (_, number) => {
    const drawn = Array.from({ length: n }, (_, k) => Math.floor(number / n ** k) % n);
    const total = (values: number[]) => drawn.reduce((sum, k) => sum + values[k]!, 0);
    return total(sums) / total(counts);
  });
  return means.sort((a, b) => a - b);
}

/** BCa (Efron and Tibshirani, equations 14.9 to 14.15) on a sorted list of resampled means. */
function bcaOracle(sums: number[], counts: number[], resampled: number[], level: number): [number, number] {
  const total = (values: number[]) => values.reduce((a, b) => a + b, 0);
  const estimate = total(sums) / total(counts);
  const below = resampled.filter((value) => value < estimate - 1e-12).length;
  const equal = resampled.filter((value) => Math.abs(value - estimate) <= 1e-12).length;
  const bias = normalQuantile((below + equal / 2) / resampled.length);
  const left = sums.map((sum, k) => (total(sums) - sum) / (total(counts) - counts[k]!));
  const center = mean(left);
  const acceleration =
    total(left.map((value) => (center - value) ** 3)) /
    (6 * total(left.map((value) => (center - value) ** 2)) ** 1.5);
  const end = (p: number) => {
    const z = normalQuantile(p);
    const share = normalDistribution(bias + (bias + z) / (1 - acceleration * (bias + z)));
    return resampled[Math.round(share * (resampled.length - 1))]!;
  };
  return [end((1 - level) / 2), end((1 + level) / 2)];
}

t.test('percentile and BCa on few items come to what all resamples say', async (t) => {
  for (const [sums, counts] of [
    [
      [0.1, 0.25, 0.3, 0.9, 0.97],
      [1, 1, 1, 1, 1],
    ],
    [
      [0, 2.6, 0.31, 1.37, 0.05],
      [1, 3, 1, 2, 1],
    ],
  ] as [number[], number[]][]) {
    const all = everyResample(sums, counts);
    const [low, high] = bcaOracle(sums, counts, all, 0.8);
    const options = { rounds: 40_000, seed: 5 };
    const bca = bootstrapMean(clusters(sums, counts), options, 0.8);
    const percentile = bootstrapMean(clusters(sums, counts), { ...options, method: 'percentile' }, 0.8);
    t.doesNotThrow(() => {
      close(bca.low, low, 0.012);
      close(bca.high, high, 0.012);
      close(percentile.low, all[Math.round(0.1 * (all.length - 1))]!, 0.012);
      close(percentile.high, all[Math.round(0.9 * (all.length - 1))]!, 0.012);
      const center = mean(all);
      close(bca.standard_error, Math.sqrt(mean(all.map((value) => (value - center) ** 2))), 0.003);
    });
  }
});

t.test('BCa equals scipy', async (t) => {
  // scipy.stats.bootstrap 1.17.1, method BCa, 400,000 resamples
  const values = [0.02, 0.11, 0.13, 0.2, 0.31, 0.37, 0.48, 0.55, 0.62, 0.91, 0.97, 0.99];
  const cubed = values.map((value) => value ** 3);
  const ofScipy: [number[], number, number][] = [
    [values, 0.298333, 0.671667],
    [cubed, 0.107681, 0.53112],
  ];
  for (const [outcomes, low, high] of ofScipy) {
    const { bootstrap } = computeWinRate(judged(...outcomes), { bootstrap: { rounds: 50_000 } });
    t.doesNotThrow(() => {
      close(bootstrap!.low, low, 0.004);
      close(bootstrap!.high, high, 0.004);
    });
  }
});

t.test('the same seed gives the same interval, another seed another', async (t) => {
  const judgements = judged(...Array.from({ length: 50 }, (_, k) => ((k * 7) % 11) / 10));
  const interval = (seed: number) =>
    computeWinRate(judgements, { bootstrap: { seed, rounds: 200 } }).bootstrap!;
  t.same(interval(1), interval(1));
  t.not(interval(1).low, interval(2).low);
  t.not(interval(1).low, interval(1 + 2 ** 32).low, 'all of the seed counts');
  t.match(computeWinRate(judgements, { bootstrap: {} }).bootstrap, {
    method: 'bca',
    rounds: 1000,
    seed: 1,
    level: 0.95,
  });
  t.equal(computeWinRate(judgements).bootstrap, null, 'only when asked for');
});

t.test('items are drawn whole: repeating all judgements changes nothing', async (t) => {
  const once = judged(1, 0, 1, 1, 0.5, 0, 1, 0.2);
  const of = (judgements: Judgement[]) =>
    computeWinRate(judgements, { bootstrap: { rounds: 500 } }).bootstrap;
  const [single, double] = [of(once)!, of([...once, ...once])!];
  t.doesNotThrow(() => {
    close(double.low, single.low!);
    close(double.high, single.high!);
  });
});

t.test('where there is no spread there is a reason', async (t) => {
  const reason = (...outcomes: number[]) => {
    const { low, high, standard_error, reason } = computeWinRate(judged(...outcomes), { bootstrap: {} })
      .bootstrap!;
    t.same([low, high, standard_error], [null, null, null]);
    return reason;
  };
  t.match(reason(), /two items/);
  t.match(reason(1), /two items/);
  t.match(reason(0.5, 0.5, 0.5), /no spread/);
});

t.test('the interval lies within the outcomes and is in order', async (t) => {
  holds(
    t,
    fc.property(
      fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 2, maxLength: 15 }),
      fc.constantFrom('bca' as const, 'percentile' as const),
      fc.constantFrom(0.5, 0.95, 1 - 1e-9),
      (outcomes, method, confidence_level) => {
        const options = { confidence_level, bootstrap: { rounds: 100, method } };
        const { low, high } = computeWinRate(judged(...outcomes), options).bootstrap!;
        if (low === null || high === null) return;
        assert.ok(
          low <= high && low >= Math.min(...outcomes) - 1e-12 && high <= Math.max(...outcomes) + 1e-12,
        );
      },
    ),
  );
});
