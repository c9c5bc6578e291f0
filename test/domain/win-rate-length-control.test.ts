import t from 'tap';
import { computeWinRate, type Judgement } from '../../src/domain/win-rate.ts';
import { close, deviation, jackknifeError, judged, logistic } from './judgements.ts';

/** A candidate that wins with logit `edge` at equal length, and gains by length. */
function withLengths(count: number, edge: number, gain: number): Judgement[] {
  return Array.from({ length: count }, (_, k) => {
    const difference = ((k * 37) % 101) - 20;
    const outcome = logistic(edge + gain * Math.tanh(difference / 29));
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
  const spread = deviation(differences);
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

/** The rows that the golden numbers were made of, in Python too. */
function goldenRows(
  edge: number,
  gain: number,
  shift: number,
  factor: number,
  candidate: string,
): Judgement[] {
  return Array.from({ length: 120 }, (_, k) => {
    const difference = ((k * 37) % 101) - 20 + shift;
    const difficulty = (((k * 13) % 7) - 3) / 2;
    const soft = logistic(edge + gain * Math.tanh(difference / 29) + difficulty);
    const outcome = k % 3 === 0 ? Number((factor * k) % 11 > 4) : soft;
    return {
      item_id: `${k}`,
      candidate,
      outcome,
      length_candidate: 500 + difference,
      length_baseline: 500,
      difficulty,
    };
  });
}

t.test('as AlpacaEval: lasso, cross-validation and gamed baselines equal scikit-learn', async (t) => {
  // LogisticRegressionCV 1.9.1: penalty l1, liblinear, fit_intercept False, tol 1e-12, ten Cs, fold of a row its number modulo 5,
  // rows doubled with soft labels as weights, gamed rows with weight 0.1 and no intercept, as AlpacaEval's glm_winrate.py
  const own = goldenRows(-0.4, 1.5, 0, 7, 'model');
  const gamed = [
    ...goldenRows(0.1, 2, 30, 5, 'baseline-verbose'),
    ...goldenRows(0.1, -1, -40, 5, 'baseline-concise'),
  ];
  const plain = computeWinRate(own, { length_control: { method: 'alpaca_eval' } });
  const gamed_baselines = ['baseline-verbose', 'baseline-concise'];
  const whole = computeWinRate([...own, ...gamed], {
    length_control: { method: 'alpaca_eval', gamed_baselines },
  });
  t.doesNotThrow(() => {
    close(plain.length_controlled!.inverse_penalty, 21.54434690031882);
    close(plain.length_controlled!.coefficients!.length, 1.14530025, 1e-5);
    close(plain.length_controlled!.coefficients!.difficulty, 0.63005856, 1e-5);
    close(plain.length_controlled!.coefficients!.intercept, -0.22306842, 1e-5);
    close(plain.length_controlled!.win_rate, 0.447582053461662, 1e-6);
    close(whole.length_controlled!.coefficients!.length, 0.96025247, 1e-5);
    close(whole.length_controlled!.win_rate, 0.4680097235729183, 1e-6);
  });
  t.equal(whole.n, 120, 'gamed baselines count in no figure');
  t.equal(whole.candidates, null);
  t.match(plain.notes.join(), /No gamed baselines/);
  t.notMatch(whole.notes.join(), /No gamed baselines/);
});

t.test('the standard error is that of a jackknife over items', async (t) => {
  const rows = goldenRows(-0.4, 1.5, 0, 7, 'model');
  const several = [...rows, ...rows.slice(0, 40).map((row) => ({ ...row, outcome: 1 - row.outcome! }))];
  for (const judgements of [rows, several]) {
    const figure = (kept: Judgement[]) => computeWinRate(kept).length_controlled!.win_rate!;
    const expected = jackknifeError(judgements, figure);
    t.doesNotThrow(() =>
      close(computeWinRate(judgements).length_controlled!.standard_error! / expected, 1, 0.05),
    );
  }
});

t.test('difficulty is estimated where several candidates were judged on the same items', async (t) => {
  const difficulty = (k: number) => (((k * 13) % 7) - 3) / 1.5;
  const of = (candidate: string, edge: number, gain: number, step: number): Judgement[] =>
    Array.from({ length: 300 }, (_, k) => {
      const difference = ((k * step) % 101) - 20;
      const outcome = logistic(edge + gain * Math.tanh(difference / 29) + difficulty(k));
      return {
        item_id: `${k}`,
        candidate,
        outcome,
        length_candidate: 500 + difference,
        length_baseline: 500,
      };
    });
  const result = computeWinRate([
    ...of('one', -0.5, 1, 37),
    ...of('two', 0.5, 0.5, 53),
    ...of('three', 1, 2, 71),
  ]);
  const expected = [-0.5, 0.5, 1].map(
    (edge) =>
      Array.from({ length: 300 }, (_, k) => logistic(edge + difficulty(k))).reduce((a, b) => a + b) / 300,
  );
  for (const [k, { length_controlled }] of result.candidates!.entries()) {
    t.equal(length_controlled!.difficulty, 'estimated');
    t.doesNotThrow(() => close(length_controlled!.win_rate, expected[k]!, 0.02));
  }
  t.match(result.notes.join(), /difficulty of the items is estimated/);
  const apart = computeWinRate([
    ...of('one', -0.5, 1, 37),
    ...of('two', 0.5, 0.5, 53).map((row) => ({ ...row, item_id: `other-${row.item_id}` })),
  ]);
  t.equal(apart.candidates![0]!.length_controlled!.difficulty, 'none', 'no item in common');
});

t.test('what only the penalty keeps finite is said not to be identified', async (t) => {
  const rows = withLengths(60, 0.3, 1);
  const separated = rows.map((row) => ({ ...row, outcome: row.length_candidate! > 505 ? 1 : 0 }));
  for (const method of ['regression', 'alpaca_eval'] as const) {
    const { length_controlled, notes, win_rate } = computeWinRate(separated, { length_control: { method } });
    t.equal(length_controlled!.identified, false);
    t.match(length_controlled!.reason, /only the penalty/);
    t.match(notes.join(), /not identified/);
    t.ok(length_controlled!.win_rate! > 0 && win_rate! > 0, 'both are shown');
  }
  t.equal(computeWinRate(rows).length_controlled!.identified, true);
});
