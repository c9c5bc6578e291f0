import t from 'tap';
import { computeWinRate, type Judgement } from '../../src/domain/win-rate.ts';
import { close, mean } from './judgements.ts';

/** [trainings, items] */
const trained = (...outcomes: number[][]): Judgement[] =>
  outcomes.flatMap((ofItems, training_seed) =>
    ofItems.map((outcome, k) => ({ item_id: `${k}`, training_seed, outcome })),
  );

t.test('several trainings: each alone, and an interval over items and trainings', async (t) => {
  const outcomes = [
    [1, 0, 1, 1, 0.5],
    [1, 1, 1, 1, 0],
    [0, 0, 1, 0.5, 0],
  ];
  const { training, standard_error, summary, notes } = computeWinRate(trained(...outcomes));
  t.same(
    training!.seeds.map(({ training_seed, win_rate, n }) => [training_seed, win_rate, n]),
    outcomes.map((values, k) => [k, mean(values), 5]),
  );
  const all = mean(outcomes.flat());
  const overTrainings = (3 / 2) * outcomes.reduce((sum, values) => sum + (5 * (mean(values) - all)) ** 2, 0);
  t.doesNotThrow(() =>
    close(training!.standard_error, Math.sqrt(standard_error! ** 2 + overTrainings / 15 ** 2)),
  );
  t.ok(training!.confidence_interval!.low < all && training!.confidence_interval!.high > all);
  t.match(summary, /over items and 3 trainings\)/);
  t.match(notes.join(), /leave out training variance.*Only the intervals in `training`/);
});

t.test('a seed is the same training as a number and as a text', async (t) => {
  const numbers = trained([1, 0, 1], [0, 0, 1]);
  const mixed = numbers.map((one, k) => (k % 2 ? { ...one, training_seed: `${one.training_seed}` } : one));
  const found = computeWinRate(mixed).training!;
  t.equal(found.seeds.length, 2);
  t.equal(found.standard_error, computeWinRate(numbers).training!.standard_error);
});

t.test('a trained policy without seeds: the answer says what the intervals leave out', async (t) => {
  const judgements: Judgement[] = [{ item_id: 'a', outcome: 1 }];
  const { training, notes } = computeWinRate(judgements, { trained_policies: true });
  t.equal(training, null);
  t.match(notes.join(), /leave out training variance.*training_seed/);
  t.same(computeWinRate(judgements).notes, []);
});

t.test('training variance that cannot be told has a reason', async (t) => {
  const reason = (judgements: Judgement[]) => {
    const { standard_error, confidence_interval, reason } = computeWinRate(judgements).training!;
    t.same([standard_error, confidence_interval], [null, null]);
    return reason;
  };
  t.match(reason(trained([1, 0, 1])), /two training seeds/);
  t.match(reason(trained([1], [0])), /two items/);
  t.match(reason([...trained([1, 0], [0, 0]), { item_id: 'x', outcome: 1 }]), /name no training seed/);
  t.match(reason(trained([1, 1], [1, 1])), /no spread/);
});

t.test('trainings belong to a candidate', async (t) => {
  const two = ['a', 'b'].flatMap((candidate) =>
    trained([1, 0, 1], [0, 0, 1]).map((one) => ({ ...one, candidate })),
  );
  const { training, candidates } = computeWinRate(two);
  t.equal(training, null);
  t.equal(candidates![1]!.training!.seeds.length, 2);
});

t.test('a comparison of two recipes adds the variance of the trainings of both', async (t) => {
  const outcomes = {
    a: [
      [1, 0, 1, 1],
      [1, 1, 1, 0.5],
    ],
    b: [
      [0, 0, 1, 0.5],
      [0.5, 0, 0, 0],
      [0, 0, 0.5, 1],
    ],
  };
  const judgements = Object.entries(outcomes).flatMap(([candidate, values]) =>
    trained(...values).map((one) => ({ ...one, candidate })),
  );
  const { comparisons } = computeWinRate(judgements);
  const { training, standard_error, difference } = comparisons![0]!;
  const overTrainings = Object.values(outcomes).map((values) => {
    const all = mean(values.flat());
    const squares = values.reduce((sum, ofItems) => sum + (mean(ofItems) - all) ** 2, 0);
    return squares / (values.length - 1) / values.length;
  });
  const expected = Math.sqrt(standard_error! ** 2 + overTrainings[0]! + overTrainings[1]!);
  t.doesNotThrow(() => close(training!.standard_error, expected));
  const { low, high } = training!.confidence_interval!;
  t.ok(low < difference! - 2 * expected && high > difference! + 2 * expected && high <= 1);
  const single = judgements.filter(({ training_seed }) => training_seed === 0);
  t.match(computeWinRate(single).comparisons![0]!.training, {
    standard_error: null,
    reason: /two training seeds/,
  });
  const unnamed = judgements.map(({ training_seed: _, ...one }) => one);
  t.equal(computeWinRate(unnamed).comparisons![0]!.training, null);
});
