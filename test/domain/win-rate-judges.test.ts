import t from 'tap';
import { createRandom } from '../../examples/world/random.ts';
import { computeWinRate, type Judgement } from '../../src/domain/win-rate.ts';
import { close, deviation, mean } from './judgements.ts';

const options = { agreement: { judge: 'gpt', people: ['ann', 'bob', 'cyd'] } };

/** One item, judged by those that are named. */
const item = (item_id: string | number, outcomes: Record<string, number | null>): Judgement[] =>
  Object.entries(outcomes).map(([judge, outcome]) => ({ item_id: `${item_id}`, judge, outcome }));

t.test('accuracy is against the majority of the people', async (t) => {
  const { agreement } = computeWinRate(
    [
      item(1, { gpt: 0.9, ann: 1, bob: 1, cyd: 0 }),
      item(2, { gpt: 0, ann: 0, bob: 1, cyd: 1 }),
      item(3, { gpt: 0.5, ann: 0.5 }),
      item(4, { gpt: 1, ann: 1, bob: 0 }), // undecided
      item(5, { gpt: 1 }),
      item(6, { ann: 1, other: 1 }),
      item(7, { gpt: null, ann: 1 }),
    ].flat(),
    options,
  );
  t.match(agreement, { judge: 'gpt', items: 3, undecided: 1, accuracy: 2 / 3, reason: null });
  t.same(
    agreement!.people.map(({ name, items, accuracy }) => [name, items, accuracy]),
    [
      ['ann', 4, 1],
      ['bob', 3, 1 / 3],
      ['cyd', 2, 0],
    ],
  );
  t.ok(agreement!.accuracy_interval!.low < 0.3 && agreement!.accuracy_interval!.high > 0.9);
});

t.test("Cohen's kappa equals scikit-learn", async (t) => {
  const judgements = Array.from({ length: 60 }, (_, k) => {
    const judge = ((k * 7) % 5) % 3;
    const person = k % 7 === 0 ? (judge + 1) % 3 : k % 4 === 0 ? (k * 3) % 3 : judge;
    return item(k, { gpt: judge / 2, ann: person / 2 });
  }).flat();
  const { agreement } = computeWinRate(judgements, options);
  t.doesNotThrow(() => {
    close(agreement!.kappa, 0.581151832460733); // cohen_kappa_score 1.9.1
    close(agreement!.accuracy, 0.7333333333333333);
  });
});

t.test('a second candidate on the same items is not twice as much known of the judge', async (t) => {
  const one = Array.from({ length: 40 }, (_, k) =>
    item(k, { gpt: k % 2, ann: k % 4 === 3 ? 0 : k % 2 }),
  ).flat();
  const widthOf = (judgements: Judgement[]): number => {
    const { low, high } = computeWinRate(judgements, options).agreement!.accuracy_interval!;
    return high - low;
  };
  const named = (candidate: string) => one.map((judgement) => ({ ...judgement, candidate }));
  const alone = widthOf(named('a'));
  t.ok(widthOf([...named('a'), ...named('b')]) > 0.95 * alone);
  const elsewhere = named('b').map((judgement) => ({ ...judgement, item_id: `other ${judgement.item_id}` }));
  t.ok(widthOf([...named('a'), ...elsewhere]) < 0.8 * alone);
  const single = ['a', 'b'].flatMap((candidate) =>
    item(1, { gpt: 1, ann: 1 }).map((judgement) => ({ ...judgement, candidate })),
  );
  t.ok(widthOf(single) > 0.5, 'one item');
});

t.test('agreement that cannot be told has a reason or a null', async (t) => {
  const none = computeWinRate(item(1, { gpt: 1 }), options);
  t.match(none.agreement, {
    items: 0,
    accuracy: null,
    kappa: null,
    accuracy_interval: null,
    reason: /share no item/,
  });
  t.match(none.prediction_powered, { win_rate: null, people_win_rate: null, reason: /two items/ });
  const undecided = computeWinRate(item(1, { gpt: 1, ann: 1, bob: 0 }), options);
  t.match(undecided.agreement, { accuracy: null, undecided: 1, reason: /no majority/ });
  const same = computeWinRate([...item(1, { gpt: 1, ann: 1 }), ...item(2, { gpt: 1, ann: 1 })], options);
  t.match(same.agreement, { accuracy: 1, kappa: null, reason: null });
  t.match(same.prediction_powered, {
    win_rate: 1,
    standard_error: 0,
    people_items: 2,
    judge_items: 0,
    weight: 0,
  });
  t.ok(same.prediction_powered!.confidence_interval!.low < 0.5, 'no spread is no certainty');
  t.equal(computeWinRate(item(1, { gpt: 1 })).agreement, null, 'only when asked for');
});

t.test('an item of two candidates is two items', async (t) => {
  const twice = ['a', 'b'].flatMap((candidate) =>
    item(1, { gpt: 1, ann: candidate === 'a' ? 1 : 0 }).map((one) => ({ ...one, candidate })),
  );
  t.match(computeWinRate(twice, options).agreement, { items: 2, accuracy: 0.5 });
});

t.test('the prediction-powered estimate follows its definition', async (t) => {
  const people = [1, 0, 1, 1, 0, 0.5, 1, 0];
  const judge = [0.9, 0.2, 0.1, 1, 0.8, 0.8, 1, 0];
  const alone = Array.from({ length: 40 }, (_, k) => ((k * 7) % 10) / 10);
  const { prediction_powered: found } = computeWinRate(
    [
      ...people.flatMap((outcome, k) => item(`p${k}`, { ann: outcome, gpt: judge[k]! })),
      ...alone.flatMap((outcome, k) => item(`j${k}`, { gpt: outcome })),
    ],
    options,
  );
  const covariance =
    people.reduce((sum, y, k) => sum + (y - mean(people)) * (judge[k]! - mean(judge)), 0) / 7;
  const weight = Math.min(1, covariance / ((1 + 8 / 40) * deviation([...judge, ...alone]) ** 2));
  const corrections = people.map((y, k) => y - weight * judge[k]!);
  t.ok(weight < 0.9, 'a weight that is not cut');
  t.doesNotThrow(() => {
    close(found!.weight, weight);
    close(found!.win_rate, weight * mean(alone) + mean(corrections));
    close(
      found!.standard_error,
      Math.sqrt((weight * deviation(alone)) ** 2 / 40 + deviation(corrections) ** 2 / 8),
    );
    close(found!.people_win_rate, mean(people));
    close(found!.people_standard_error, deviation(people) / Math.sqrt(8));
  });
  t.match(found, { people_items: 8, judge_items: 40 });
});

t.test('a judge that is off is corrected, and sharpens what people say', async (t) => {
  const random = createRandom('a judge that is off');
  let covered = 0;
  let narrower = 0;
  const rounds = 400;
  for (let round = 0; round < rounds; round++) {
    const judgements = Array.from({ length: 300 }, (_, k) => {
      const person = Number(random.chance(0.55));
      const gpt = random.chance(0.8) ? person : Number(random.chance(0.95)); // says yes too often
      return item(k, k < 80 ? { ann: person, gpt } : { gpt });
    }).flat();
    const { prediction_powered: found } = computeWinRate(judgements, options);
    const { low, high } = found!.confidence_interval!;
    if (low <= 0.55 && 0.55 <= high) covered++;
    if (found!.standard_error! < found!.people_standard_error!) narrower++;
  }
  t.ok(covered / rounds > 0.92 && covered / rounds < 0.98, `covers ${covered} of ${rounds}`);
  t.ok(narrower / rounds > 0.99);
});

t.test('a judge that says nothing costs nothing', async (t) => {
  const judgements = Array.from({ length: 200 }, (_, k) =>
    item(k, k < 50 ? { ann: k % 2, gpt: 0.5 } : { gpt: 0.5 }),
  ).flat();
  const { prediction_powered: found } = computeWinRate(judgements, options);
  t.match(found, { weight: 0, win_rate: 0.5 });
  t.equal(found!.standard_error, found!.people_standard_error);
});

t.test('candidates that answer the same items add no certainty by being many', async (t) => {
  const judgements = Array.from({ length: 60 }, (_, k) =>
    item(k, k < 20 ? { ann: (k * 7) % 3 ? 1 : 0, gpt: (k * 5) % 3 ? 1 : 0 } : { gpt: (k * 11) % 4 ? 1 : 0 }),
  ).flat();
  const alone = computeWinRate(judgements, options).prediction_powered!;
  const copies = ['a', 'b', 'c', 'd'].flatMap((candidate) =>
    judgements.map((one) => ({ ...one, candidate })),
  );
  const { prediction_powered: pooled, candidates } = computeWinRate(copies, options);
  t.doesNotThrow(() => {
    close(pooled!.standard_error, alone.standard_error!, 0.001); // the weight is of a little more data
    close(pooled!.people_standard_error, alone.people_standard_error!);
  });
  t.same(
    candidates!.map((one) => one.prediction_powered),
    candidates!.map(() => alone),
  );
});

t.test('items that people judged for one candidate, and the judge alone for another', async (t) => {
  const random = createRandom('one candidate checked');
  let covered = 0;
  const rounds = 300;
  for (let round = 0; round < rounds; round++) {
    const judgements = Array.from({ length: 60 }, (_, k) => {
      const rate = random.chance(0.5) ? 0.9 : 0.1; // what is hard for one is so for the other
      return ['a', 'b'].flatMap((candidate) => {
        const person = Number(random.chance(rate));
        const gpt = random.chance(0.9) ? person : 1 - person;
        const checked = (k + (candidate === 'a' ? 0 : 1)) % 2 === 0;
        return item(k, checked ? { ann: person, gpt } : { gpt }).map((one) => ({ ...one, candidate }));
      });
    }).flat();
    const { low, high } = computeWinRate(judgements, options).prediction_powered!.confidence_interval!;
    if (low <= 0.5 && 0.5 <= high) covered++;
  }
  t.ok(covered / rounds > 0.91 && covered / rounds < 0.99, `covers ${covered} of ${rounds}`);
});
