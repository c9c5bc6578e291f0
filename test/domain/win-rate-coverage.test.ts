// Whether intervals cover as often as they promise, by simulation. What is drawn is the same in every run.
import t, { type Test } from 'tap';
import { createRandom, type Random } from '../../examples/world/random.ts';
import { normalQuantile } from '../../src/domain/distributions.ts';
import { computeWinRate, type Judgement, type WinRateReport } from '../../src/domain/win-rate.ts';
import { logistic, mean } from './judgements.ts';

const normal = (random: Random): number => normalQuantile((random.integer(2 ** 31) + 0.5) / 2 ** 31);

type Range = { low: number | null; high: number | null } | null | undefined;

/** Share of rounds in which the interval holds the truth. */
function coverage(rounds: number, truth: number, interval: (round: number) => Range): number {
  let covered = 0;
  for (let round = 0; round < rounds; round++) {
    const range = interval(round);
    if (range?.low != null && range.high != null && range.low <= truth && truth <= range.high) covered++;
  }
  return covered / rounds;
}

const within = (t: Pick<Test, 'ok'>, share: number, low: number, high: number, what: string) =>
  t.ok(low <= share && share <= high, `${what}: covers ${share}, not ${low} to ${high}`);

t.test('Student, Wilson and cluster-robust intervals', async (t) => {
  const random = createRandom('intervals of a mean');
  const soft = coverage(1500, 1 / 3, () => {
    const judgements = Array.from({ length: 40 }, (_, k) => ({
      item_id: `${k}`,
      outcome: random.next() ** 2,
    }));
    return computeWinRate(judgements).confidence_interval;
  });
  within(t, soft, 0.93, 0.97, 'Student');
  const binary = coverage(1500, 0.9, () => {
    const judgements = Array.from({ length: 30 }, (_, k) => ({
      item_id: `${k}`,
      outcome: Number(random.chance(0.9)),
    }));
    return computeWinRate(judgements).confidence_interval;
  });
  within(t, binary, 0.92, 0.985, 'Wilson');
  const clustered = coverage(800, 0.5, () => {
    const judgements = Array.from({ length: 40 }, (_, k) => {
      const rate = random.next();
      return Array.from({ length: 5 }, () => ({ item_id: `${k}`, outcome: Number(random.chance(rate)) }));
    }).flat();
    return computeWinRate(judgements).confidence_interval;
  });
  within(t, clustered, 0.93, 0.97, 'clustered');
});

t.test('bootstrap of skewed outcomes', async (t) => {
  for (const method of ['bca', 'percentile'] as const) {
    const random = createRandom(`bootstrap ${method}`);
    const share = coverage(300, 0.2, (seed) => {
      const judgements = Array.from({ length: 60 }, (_, k) => ({
        item_id: `${k}`,
        outcome: random.next() ** 4,
      }));
      return computeWinRate(judgements, { bootstrap: { rounds: 300, seed, method } }).bootstrap;
    });
    within(t, share, 0.9, 0.98, method);
  }
});

t.test('paired differences, and strengths of a ranking', async (t) => {
  const random = createRandom('paired');
  const results: WinRateReport[] = Array.from({ length: 300 }, () => {
    const items = Array.from({ length: 60 }, () => normal(random));
    const judge = (candidate: string, edge: number): Judgement[] =>
      items.map((item, k) => ({
        item_id: `${k}`,
        candidate,
        outcome: Number(random.chance(logistic(item + edge))),
      }));
    return computeWinRate([...judge('a', 0.8), ...judge('b', 0)]);
  });
  // E logistic(Z + 0.8), by a sum over the quantiles of Z
  const rate = mean(
    Array.from({ length: 10_000 }, (_, k) => logistic(normalQuantile((k + 0.5) / 10_000) + 0.8)),
  );
  const difference = coverage(300, rate - 0.5, (k) => results[k]!.comparisons![0]!.confidence_interval);
  within(t, difference, 0.92, 0.98, 'paired');
  const strength = coverage(300, Math.log(rate / (1 - rate)), (k) => {
    return results[k]!.ranking!.find(({ candidate }) => candidate === 'a')!.confidence_interval;
  });
  within(t, strength, 0.92, 0.98, 'Bradley-Terry');
});

t.test('length-controlled win rates', async (t) => {
  const random = createRandom('length control');
  const judge = (item_id: string, item: number, edge: number): Judgement => {
    const length = normal(random);
    const outcome = Number(random.chance(logistic(edge + item + 0.8 * Math.tanh(length))));
    return {
      item_id,
      outcome,
      length_candidate: 1000 + 300 * length,
      length_baseline: 1000,
      difficulty: item,
    };
  };
  const rateOf = (edge: number) =>
    mean(Array.from({ length: 10_000 }, (_, k) => logistic(normalQuantile((k + 0.5) / 10_000) + edge)));
  const given = coverage(200, rateOf(-0.5), () => {
    const judgements = Array.from({ length: 150 }, (_, k) => judge(`${k}`, normal(random), -0.5));
    return computeWinRate(judgements).length_controlled!.confidence_interval;
  });
  within(t, given, 0.91, 0.98, 'difficulty given');
  const estimated = coverage(100, rateOf(-0.5), () => {
    const judgements = Array.from({ length: 150 }, (_, k) => {
      const item = normal(random);
      return [-0.5, 0, 0.5, 1].map((edge) => {
        const { difficulty: _, ...judgement } = judge(`${k}`, item, edge);
        return { ...judgement, candidate: `${edge}` };
      });
    }).flat();
    return computeWinRate(judgements).candidates![0]!.length_controlled!.confidence_interval;
  });
  within(t, estimated, 0.88, 0.99, 'difficulty estimated');
});

t.test('training variance: leaving it out covers too rarely, including it does not', async (t) => {
  const random = createRandom('training variance');
  const trainings = 4;
  const results = Array.from({ length: 300 }, () => {
    const items = Array.from({ length: 80 }, () => normal(random));
    const judgements = Array.from({ length: trainings }, (_, training_seed) => {
      const luck = 0.6 * normal(random);
      return items.map((item, k): Judgement => {
        return { item_id: `${k}`, training_seed, outcome: Number(random.chance(logistic(item + luck))) };
      });
    }).flat();
    return computeWinRate(judgements);
  });
  within(
    t,
    coverage(300, 0.5, (k) => results[k]!.confidence_interval),
    0.4,
    0.85,
    'items alone',
  );
  within(
    t,
    coverage(300, 0.5, (k) => results[k]!.training!.confidence_interval),
    0.93,
    0.99,
    'with trainings',
  );
});
