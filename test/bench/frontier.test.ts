// The benchmark's statistics on curves that can be computed by hand.
import t from 'tap';
import {
  type Checkpoint,
  type Curve,
  chooseCheckpoint,
  difference,
  estimate,
  frontierAt,
  type Judged,
  mean,
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

t.test('the frontier at a KL budget mixes its checkpoints prompt by prompt', async (t) => {
  const at = (budget: number) => frontierAt([curve], budget, 'overCareful');
  t.same(at(0), { outcomes: [0, 1], kl: 0 });
  t.same(at(0.25), { outcomes: [0.25, 1], kl: 0.25 });
  t.same(
    at(1.5),
    { outcomes: [0.5, 0.5], kl: 1.5 },
    'half way between KL 1 and the better checkpoint at KL 2',
  );
  t.same(at(2.5), { outcomes: [0.5, 0], kl: 2.5 });
  t.same(at(9), { outcomes: [1, 0], kl: 3 }, 'more KL than it ever needed changes nothing');
  t.throws(() => frontierAt([curve.slice(1)], 0.5, 'overCareful'), /as little as 0.5/);
});

t.test('a checkpoint that others beat with less KL is not on the frontier', async (t) => {
  const worse: Curve = [checkpoint(0, 0, [0, 0]), checkpoint(4, 1.5, [0, 0.5], [1, 1])];
  t.same(frontierAt([curve, worse], 1.5, 'overCareful'), frontierAt([curve], 1.5, 'overCareful'));
});

t.test('checkpoints are chosen on validation, whatever the test says', async (t) => {
  const better: Curve = [checkpoint(0, 0, [0, 0]), checkpoint(4, 0.5, [1, 1], [0, 0])];
  t.same(frontierAt([curve, better], 2, 'overCareful'), { outcomes: [0, 0], kl: 0.5 });
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
