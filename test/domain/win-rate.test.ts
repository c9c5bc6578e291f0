import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { normalQuantile, studentQuantile } from '../../src/domain/distributions.ts';
import { computeWinRate, type Judgement, type WinRate } from '../../src/domain/win-rate.ts';
import { holds } from './holds.ts';

const judged = (...outcomes: (number | null)[]): Judgement[] =>
  outcomes.map((outcome, k) => ({ item_id: `item-${k}`, outcome }));
const close = (actual: number | null, expected: number, tolerance = 1e-9) =>
  assert.ok(Math.abs(actual! - expected) <= tolerance, `${actual} ≉ ${expected}`);

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
  },
  { requiredKeys: ['item_id', 'outcome'] },
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

function assertFinite(value: unknown): void {
  if (typeof value === 'number') assert.ok(Number.isFinite(value));
  if (typeof value === 'object' && value !== null) Object.values(value).forEach(assertFinite);
}

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

/** A candidate that wins with logit `edge` at equal length, and gains by length. */
function withLengths(count: number, edge: number, gain: number): Judgement[] {
  return Array.from({ length: count }, (_, k) => {
    const difference = ((k * 37) % 101) - 20;
    const outcome = 1 / (1 + Math.exp(-(edge + gain * Math.tanh(difference / 29))));
    return { item_id: `${k}`, outcome, length_candidate: 500 + difference, length_baseline: 500 };
  });
}

t.test('the length-controlled rate takes out what length alone has won', async (t) => {
  const rows = withLengths(2000, -0.4, 1.5);
  const { win_rate, length_controlled } = computeWinRate(rows);
  t.ok(win_rate! > 0.5);
  t.doesNotThrow(() => close(length_controlled!.win_rate, 1 / (1 + Math.exp(0.4)), 0.005));
  t.ok(length_controlled!.standard_error! > 0 && length_controlled!.standard_error! < 0.02);
  t.equal(length_controlled!.n, 2000);
  t.equal(computeWinRate(judged(1, 0)).length_controlled, null, 'no lengths');
});

/** The same regression with a slow fit: gradient descent, and the sandwich written out for two parameters. */
function lengthControlOracle(rows: Judgement[]): { rate: number; error: number } {
  const differences = rows.map((row) => row.length_candidate! - row.length_baseline!);
  const mean = differences.reduce((a, b) => a + b) / rows.length;
  const spread = Math.sqrt(
    differences.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (rows.length - 1),
  );
  const x = differences.map((value) => Math.tanh(value / spread));
  let [a, b] = [0, 0];
  const p = (k: number) => 1 / (1 + Math.exp(-(a + b * x[k]!)));
  for (let step = 0; step < 20_000; step++) {
    let [da, db] = [0, b];
    rows.forEach((row, k) => {
      da += p(k) - row.outcome!;
      db += (p(k) - row.outcome!) * x[k]!;
    });
    a -= (2 * da) / rows.length;
    b -= (2 * db) / rows.length;
  }
  const h = [0, 0, 0, 1].map(Number);
  const m = [0, 0, 0];
  rows.forEach((row, k) => {
    const weight = p(k) * (1 - p(k));
    const residual = (row.outcome! - p(k)) ** 2;
    h[0]! += weight;
    h[1]! += weight * x[k]!;
    h[3]! += weight * x[k]! ** 2;
    m[0]! += residual;
    m[1]! += residual * x[k]!;
    m[2]! += residual * x[k]! ** 2;
  });
  const determinant = h[0]! * h[3]! - h[1]! ** 2;
  const [u, v] = [h[3]! / determinant, -h[1]! / determinant];
  const variance = (u * u * m[0]! + 2 * u * v * m[1]! + v * v * m[2]!) * (rows.length / (rows.length - 1));
  const rate = 1 / (1 + Math.exp(-a));
  return { rate, error: rate * (1 - rate) * Math.sqrt(variance) };
}

t.test('the regression equals a slow one, soft labels and separated data included', async (t) => {
  const noisy = withLengths(60, 0.3, 1).map((row, k) => ({
    ...row,
    outcome: [0, 1, row.outcome!, 0.5][k % 4]!,
  }));
  const separated = noisy.map((row) => ({ ...row, outcome: row.length_candidate! > 505 ? 1 : 0 }));
  for (const rows of [noisy, separated]) {
    const expected = lengthControlOracle(rows);
    const { length_controlled } = computeWinRate(rows);
    t.doesNotThrow(() => {
      close(length_controlled!.win_rate, expected.rate, 1e-6);
      close(length_controlled!.standard_error, expected.error, 1e-6);
    });
  }
});

t.test('what the lengths cannot tell has a reason', async (t) => {
  const rows = withLengths(50, 0, 1);
  const reason = (judgements: Judgement[]) => {
    const { length_controlled } = computeWinRate(judgements);
    t.equal(length_controlled!.win_rate, null);
    t.equal(length_controlled!.standard_error, null);
    return length_controlled!.reason;
  };
  t.match(reason(rows.map((row) => ({ ...row, length_candidate: 7 }))), /same in all/);
  t.match(reason(rows.map((row) => ({ ...row, outcome: 1 }))), /outcomes are the same/);
  t.match(reason(rows.slice(0, 2)), /too few/);
  const mixed = computeWinRate([...rows, ...judged(1, 1)]);
  t.equal(mixed.length_controlled!.n, 50, 'judgements without lengths are left out');
});

t.test('difficulty sharpens the regression when all have it', async (t) => {
  const rows = withLengths(400, 0.2, 0.5).map((row, k) => {
    const difficulty = ((k * 13) % 7) - 3;
    const logit = Math.log(row.outcome! / (1 - row.outcome!)) + difficulty;
    return { ...row, difficulty, outcome: 1 / (1 + Math.exp(-logit)) };
  });
  const expected =
    rows.reduce((sum, { difficulty }) => sum + 1 / (1 + Math.exp(-(0.2 + difficulty))), 0) / rows.length;
  t.doesNotThrow(() => close(computeWinRate(rows).length_controlled!.win_rate, expected, 0.005));
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
  });
});
