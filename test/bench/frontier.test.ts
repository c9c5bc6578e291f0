// The benchmark's statistics on curves that can be computed by hand.
import t from 'tap';
import {
  type Checkpoint,
  type Curve,
  chooseAtKl,
  chooseCheckpoint,
  difference,
  estimate,
  type Judged,
  mean,
  outcomesAtKl,
  samplesToReach,
} from '../../bench/loop/frontier.ts';

/** A checkpoint at which every prompt has this KL; `outcomes` over careful writers. */
function checkpoint(step: number, kl: number, validation: number[], test: number[] = validation): Checkpoint {
  const judged = (outcomes: number[]): Judged => ({
    kl: outcomes.map(() => kl),
    klToStart: outcomes.map(() => kl + 1),
    length: outcomes.map(() => 40),
    score: outcomes,
    overCareful: outcomes,
    overStart: outcomes.map(() => 1),
  });
  return { step, samples: step * 64, validation: judged(validation), test: judged(test) };
}

const curve: Curve = [
  checkpoint(0, 0, [0, 0], [0, 1]),
  checkpoint(4, 1, [0, 1], [1, 1]),
  checkpoint(8, 3, [1, 1], [1, 0]),
  checkpoint(12, 2, [1, 0.5], [0, 0]),
];

t.test('between two checkpoints outcomes are interpolated in KL, prompt by prompt', async (t) => {
  t.same(outcomesAtKl(curve, 2, 'validation', 'overCareful'), [0.5, 1]);
  t.same(outcomesAtKl(curve, 0.25, 'test', 'overCareful'), [0.25, 1]);
  t.same(outcomesAtKl(curve, 1, 'test', 'overCareful'), [1, 1]);
  t.equal(outcomesAtKl(curve, 3.1, 'test', 'overCareful'), null, 'a KL that training never had');
});

t.test('runs and checkpoints are chosen on validation, whatever the test says', async (t) => {
  const better: Curve = [checkpoint(0, 0, [0, 0]), checkpoint(4, 2, [1, 1], [0, 0])];
  t.equal(chooseAtKl([curve, better], 1, 'overCareful'), 0, '0.5 each: the first');
  t.equal(chooseAtKl([curve, better], 2, 'overCareful'), 1);
  t.equal(chooseAtKl([curve, better], 2.5, 'overCareful'), 0, 'the other one never has that KL');
  t.equal(chooseAtKl([curve, better], 4, 'overCareful'), null);
  t.match(chooseCheckpoint([curve, better], 'overCareful'), { run: 0, at: 2 }, 'the earlier of equals');
});

t.test('samples to reach a level count from the first checkpoint that has it', async (t) => {
  t.equal(samplesToReach(curve, 0.75, 'overCareful'), 256);
  t.equal(samplesToReach(curve, 0.5, 'overCareful'), 0);
  t.equal(samplesToReach(curve, 1.01, 'overCareful'), null);
});

t.test('an estimate weighs draws alike, and its intervals say how much they differ', async (t) => {
  const alike = estimate([Array(200).fill(0.5), Array(10).fill(0.5)]);
  t.match(alike, { value: 0.5, low: 0.5, high: 0.5, overDraws: { low: 0.5, high: 0.5 }, draws: [0.5, 0.5] });
  const apart = estimate([Array(50).fill(0), Array(50).fill(1)]);
  t.match(apart, { value: 0.5, low: 0, high: 1 });
  t.ok(
    apart.overDraws!.low < -5,
    'two draws so far apart say nothing: Student’s t with one degree of freedom',
  );
  const coin = estimate([Array.from({ length: 400 }, (_, i) => i % 2)]);
  t.ok(Math.abs(coin.high - coin.low - 2 * 1.96 * 0.025) < 0.01, 'over prompts alone: the binomial interval');
  t.equal(coin.overDraws, null);
  t.same(difference([1, 0.5], [0, 1]), [1, -0.5]);
  t.equal(mean([1, 2, 6]), 3);
});
