import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { normalDistribution, normalQuantile, studentQuantile } from '../../src/domain/distributions.ts';
import {
  computeWinRate,
  type Judgement,
  type WinRate,
  type WinRateOptions,
} from '../../src/domain/win-rate.ts';
import { holds } from './holds.ts';
import { assertFinite, close, judged } from './judgements.ts';

const anyJudgement: fc.Arbitrary<Judgement> = fc.record(
  {
    item_id: fc.nat(12).map(String),
    outcome: fc.oneof(
      fc.constantFrom<number | null>(0, 0.5, 1, null, -0.1, 1.0000001, Number.NaN, Number.POSITIVE_INFINITY),
      fc.double({ min: 0, max: 1, noNaN: true }),
    ),
    length_candidate: fc.oneof(fc.nat(3000), fc.double({ min: 0, noNaN: true, noDefaultInfinity: true })),
    length_baseline: fc.nat(3000),
    difficulty: fc.double({ noNaN: true, noDefaultInfinity: true }),
    judge: fc.constantFrom('one', 'two', 'three'),
    order: fc.constantFrom('candidate_first', 'baseline_first'),
    candidate: fc.constantFrom('first', 'second', '__proto__'),
    training_seed: fc.constantFrom<string | number>(1, 2, '1'),
    null_reason: fc.constantFrom('timeout', 'refused'),
  },
  { requiredKeys: ['item_id', 'outcome'] },
);

const anyOptions: fc.Arbitrary<WinRateOptions> = fc.record(
  {
    confidence_level: fc.constantFrom(1e-9, 0.5, 0.95, 1 - 1e-9),
    bootstrap: fc.record({
      rounds: fc.constant(100),
      seed: fc.maxSafeNat(),
      method: fc.constantFrom('bca' as const, 'percentile' as const),
    }),
    length_control: fc.record(
      {
        method: fc.constantFrom('regression' as const, 'alpaca_eval' as const),
        gamed_baselines: fc.subarray(['first', 'third']),
      },
      { requiredKeys: [] },
    ),
    imputation_bounds: fc.boolean(),
    trained_policies: fc.boolean(),
    agreement: fc.constant({ judge: 'one', people: ['two', 'three', 'nobody'] }),
  },
  { requiredKeys: [] },
);

/** The definitions, item by item. */
function oracle(judgements: Judgement[]) {
  const valid = judgements.filter(({ outcome }) => outcome !== null && outcome >= 0 && outcome <= 1);
  const x = valid.map(({ outcome }) => outcome!);
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
  const clusters = [...new Set(valid.map(({ item_id }) => item_id))];
  let squares = 0;
  for (const cluster of clusters) {
    let sum = 0;
    for (const { item_id, outcome } of valid) if (item_id === cluster) sum += outcome! - mean;
    squares += sum * sum;
  }
  return {
    n: x.length,
    mean,
    error: Math.sqrt((clusters.length / (clusters.length - 1)) * squares) / x.length,
    clusters: clusters.length,
    wins: x.filter((value) => value > 0.5).length,
    losses: x.filter((value) => value < 0.5).length,
  };
}

t.test('figures follow AlpacaEval 2: mean, sd with n − 1 over √n, a draw at exactly one half', async (t) => {
  const result = computeWinRate(judged(1, 0.8, 0.5, 0.2, 0, 0.4999, null, null, 1.2, -1));
  t.equal(result.n, 6);
  t.same([result.wins, result.losses, result.ties], [2, 3, 1]);
  t.same(result.dropped, { null: 2, out_of_range: 2 });
  const x = [1, 0.8, 0.5, 0.2, 0, 0.4999];
  const mean = x.reduce((a, b) => a + b) / 6;
  const deviation = Math.sqrt(x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 5);
  t.doesNotThrow(() => {
    close(result.win_rate, mean);
    close(result.standard_error, deviation / Math.sqrt(6));
    close(result.discrete_win_rate, 2.5 / 6);
  });
  t.equal(result.clusters, 6);
});

t.test('equals the definitions on any judgements, and is never NaN', async (t) => {
  holds(
    t,
    fc.property(fc.array(anyJudgement, { maxLength: 60 }), (judgements) => {
      const result = computeWinRate(judgements);
      const expected = oracle(judgements);
      assert.equal(result.n, expected.n);
      assert.equal(result.n + result.dropped.null + result.dropped.out_of_range, judgements.length);
      assert.deepEqual(
        [result.wins, result.losses, result.clusters],
        [expected.wins, expected.losses, expected.clusters],
      );
      assert.equal(result.win_rate === null, expected.n === 0);
      if (expected.n > 0) close(result.win_rate, expected.mean);
      assert.equal(result.standard_error === null, expected.clusters < 2);
      if (expected.clusters > 1) close(result.standard_error, expected.error);
      const interval = result.confidence_interval;
      if (interval) {
        assert.ok(0 <= interval.low && interval.low <= result.win_rate! + 1e-9);
        assert.ok(
          result.win_rate! - 1e-9 <= interval.high && interval.high <= 1 && interval.low < interval.high,
        );
      }
      assertFinite(result);
    }),
    { runs: 2000 },
  );
});

t.test('any judgements under any options have an answer, and no figure is NaN', async (t) => {
  holds(
    t,
    fc.property(fc.array(anyJudgement, { maxLength: 40 }), anyOptions, (judgements, options) => {
      const result = computeWinRate(judgements, options);
      assertFinite(result);
      assert.ok(result.summary.endsWith('.') && !/NaN|undefined|null/.test(result.summary), result.summary);
      const wholes = [result, ...(result.candidates ?? [])];
      for (const { length_controlled, bootstrap, reason, win_rate } of wholes) {
        assert.equal(reason === null || reason.endsWith('.'), true);
        assert.equal(win_rate === null && reason === null, false);
        if (length_controlled?.win_rate === null) assert.ok(length_controlled.reason);
        if (bootstrap?.low === null) assert.ok(bootstrap.reason);
      }
    }),
    { runs: 1000 },
  );
});

t.test('judgements of one item are one cluster: repeating them all adds no certainty', async (t) => {
  const once = judged(1, 0, 1, 1, 0.5, 0, 1);
  const twice = computeWinRate([...once, ...once]);
  t.doesNotThrow(() => close(twice.standard_error, computeWinRate(once).standard_error!));
  t.equal(twice.clusters, 7);
  t.equal(twice.confidence_interval!.method, 'cluster_robust_t');
});

t.test('the interval says its method and covers as it promises', async (t) => {
  const method = (result: WinRate) => result.confidence_interval?.method;
  const binary = computeWinRate(judged(...Array.from({ length: 20 }, (_, k) => (k < 16 ? 1 : 0))));
  t.equal(method(binary), 'wilson');
  t.doesNotThrow(() => {
    close(binary.confidence_interval!.low, 0.5839826, 1e-6); // Wilson 1927, 16 of 20
    close(binary.confidence_interval!.high, 0.9193423, 1e-6);
  });
  const soft = computeWinRate(judged(0.2, 0.4, 0.9), { confidence_level: 0.9 });
  t.equal(method(soft), 'student_t');
  t.equal(soft.confidence_interval!.level, 0.9);
  t.doesNotThrow(() =>
    close(soft.confidence_interval!.high, Math.min(1, 0.5 + 2.9199855804 * soft.standard_error!), 1e-6),
  );
  for (const level of [1e-12, 0.5, 0.999999, 1 - 1.2e-16]) {
    t.doesNotThrow(() => assertFinite(computeWinRate(judged(0.2, 0.4, 0.9), { confidence_level: level })));
  }
  const ties = computeWinRate(judged(0.5, 0.5, 0.5));
  t.equal(ties.standard_error, 0);
  t.equal(method(ties), 'wilson', 'no spread is no certainty');
  t.ok(ties.confidence_interval!.low < 0.2);
});

t.test('nothing to compute gives nulls and a reason', async (t) => {
  for (const nothing of [[], judged(null, null), judged(1.5, Number.NaN)]) {
    const result = computeWinRate(nothing);
    t.match(result, {
      win_rate: null,
      standard_error: null,
      confidence_interval: null,
      discrete_win_rate: null,
      n: 0,
      clusters: 0,
    });
    t.type(result.reason, 'string');
  }
  const one = computeWinRate(judged(1));
  t.match(one, { win_rate: 1, standard_error: null, reason: /two items/ });
  t.equal(computeWinRate(judged(1, 0)).reason, null);
});

t.test('position consistency: the same verdict in both orders', async (t) => {
  const inOrders = (item_id: string, first: number, second: number): Judgement[] => [
    { item_id, outcome: first, order: 'candidate_first' },
    { item_id, outcome: second, order: 'baseline_first' },
  ];
  t.equal(
    computeWinRate([...inOrders('a', 1, 0.9), ...inOrders('b', 1, 0), ...judged(1)]).position_consistency,
    0.5,
  );
  t.equal(computeWinRate(judged(1, 0)).position_consistency, null);
});

t.test('judge agreement: pairs of judges with the same verdict', async (t) => {
  const by = (item_id: string, ...outcomes: number[]): Judgement[] =>
    outcomes.map((outcome, k) => ({ item_id, outcome, judge: `judge-${k}` }));
  t.equal(computeWinRate([...by('a', 1, 1, 0), ...by('b', 0.5, 0.5), ...by('c', 1)]).judge_agreement, 2 / 4);
  t.equal(computeWinRate(by('a', 1)).judge_agreement, null);
  t.equal(computeWinRate(judged(1, 0)).judge_agreement, null);
});

t.test('quantiles equal the published tables', async (t) => {
  t.doesNotThrow(() => {
    close(normalQuantile(0.975), 1.959963984540054, 1e-8);
    close(normalQuantile(0.001), -3.090232306167813, 1e-8);
    close(studentQuantile(0.975, 1), 12.706204736432095, 1e-8);
    close(studentQuantile(0.975, 4), 2.7764451051977987, 1e-9);
    close(studentQuantile(0.995, 30), 2.749995653567, 1e-9);
    close(studentQuantile(0.05, 804), -1.646751, 1e-6);
    close(studentQuantile(0.975, 99_999), 1.9599877, 1e-6);
    close(studentQuantile(0.001, 3.7), -7.79518388, 1e-8); // scipy 1.17
    close(studentQuantile(0.4, 3.7), -0.27216446, 1e-8);
    close(normalDistribution(-1.5), 0.0668072013, 1e-10);
    close(normalDistribution(2.7), 0.996533026, 1e-9);
    for (const p of [1e-9, 0.2, 0.7]) close(normalDistribution(normalQuantile(p)), p, 1e-9);
  });
});

t.test('failures stay in the table, and are said when they are many', async (t) => {
  const failed: Judgement[] = [
    { item_id: 'x', outcome: null, null_reason: 'timeout' },
    { item_id: 'y', outcome: null, null_reason: 'timeout' },
    { item_id: 'z', outcome: null },
  ];
  const many = computeWinRate([...judged(1, 0, 1, 1, 0, 1, 1), ...failed]);
  t.same(many.nulls, {
    share: 0.3,
    by_reason: [
      { reason: 'timeout', count: 2, share: 0.2 },
      { reason: null, count: 1, share: 0.1 },
    ],
  });
  t.match(many.summary, /30\.0 % of the judgements failed/);
  t.match(many.notes[0], /3 judgements failed, 30\.0 %/);
  const few = computeWinRate([...judged(...new Array(57).fill(1)), ...failed]); // 5 % exactly
  t.notMatch(few.summary, /failed/);
  t.same(few.notes, []);
  t.same(computeWinRate([]).nulls, { share: null, by_reason: [] });
});

t.test('imputation bounds: what fails as lost, and as won', async (t) => {
  const judgements = [...judged(1, 1, 0, 0.5), { item_id: 'x', outcome: null }, { item_id: 'y', outcome: 7 }];
  const bounds = computeWinRate(judgements, { imputation_bounds: true }).imputation_bounds!;
  t.equal(bounds.all_lost.win_rate, 2.5 / 6);
  t.equal(bounds.all_won.win_rate, 4.5 / 6);
  t.ok(bounds.all_lost.confidence_interval.low < bounds.all_lost.win_rate);
  t.equal(computeWinRate(judgements).imputation_bounds, null);
  t.equal(computeWinRate(judged(null), { imputation_bounds: true }).imputation_bounds!.all_won.win_rate, 1);
});

t.test('the minimal detectable difference is found four times in five', async (t) => {
  const result = computeWinRate(judged(...Array.from({ length: 400 }, (_, k) => k % 2)));
  const z = 1.959963984540054 + 0.8416212335729143;
  t.doesNotThrow(() => close(result.minimal_detectable_difference, z * result.standard_error!, 1e-3));
  t.equal(computeWinRate(judged(0.5, 0.5)).minimal_detectable_difference, null, 'no spread to plan with');
});

t.test('the summary reads the result out', async (t) => {
  const summary = (...outcomes: (number | null)[]) => computeWinRate(judged(...outcomes)).summary;
  const times = (count: number, outcome: number) => new Array<number>(count).fill(outcome);
  t.equal(
    summary(...times(1500, 1), ...times(500, 0)),
    'The candidate wins 75.0 % of 2,000 judgements of 2,000 items (95 % interval 73.1 % to 76.8 %): it is better than the baseline.',
  );
  t.match(summary(...times(5, 1), ...times(50, 0)), /worse than the baseline\.$/);
  t.match(
    summary(...times(8, 1), ...times(7, 0)),
    /no difference from the baseline is shown; a difference of \d/,
  );
  t.match(summary(1), /^The candidate wins 100\.0 % of 1 judgement of 1 item \(.*no difference/);
  t.equal(summary(null), 'There is no win rate: no judgement has an outcome between 0 and 1.');
});
