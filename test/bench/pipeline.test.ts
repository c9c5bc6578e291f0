// What is kept of a draw says the same as the draw itself.
import t from 'tap';
import { klOfBest } from '../../bench/pipeline/best-of-n.ts';
import { packScores, readRun, type StoredDraw, storeRun, unpackScores } from '../../bench/pipeline/stored.ts';

t.test('hidden scores survive being packed', async (t) => {
  const scores = [0, -1, -9, -10, -35];
  t.equal(packScores(scores), '019az');
  t.same(unpackScores('019az'), scores);
  t.equal(packScores([-60]), 'z', 'as bad as can be');
  t.throws(() => packScores([0.5]), /no count of defects/);
  t.throws(() => packScores([2]), /no count of defects/);
});

t.test('a run that was stored is judged as before', async (t) => {
  const judged = (score: number[]) => ({
    kl: [1, 3],
    klToStart: [2, 4],
    length: [40, 42],
    score,
    overCareful: score.map((own) => (own > -2 ? 1 : own === -2 ? 0.5 : 0)),
    overStart: score.map((own) => (own > -3 ? 1 : own === -3 ? 0.5 : 0)),
  });
  const run = {
    settings: { beta: 0.1 },
    curve: [{ step: 10, samples: 640, validation: judged([-2, -3]), test: judged([0, -5]) }],
  };
  const opponents = { careful: packScores([-2, -2]), start: packScores([-3, -3]) };
  const draw: StoredDraw = {
    seed: 1,
    edits: 2,
    opponents: { validation: opponents, test: opponents },
    rewardModels: {},
    arms: {},
  };
  const stored = JSON.parse(JSON.stringify(storeRun(run)));
  const read = readRun(draw, stored);
  t.match(read, {
    settings: run.settings,
    curve: [
      {
        step: 10,
        samples: 640,
        validation: { kl: [3], klToStart: [3], length: [41], overCareful: [0.5, 0], overStart: [1, 0.5] },
        test: { score: [0, -5], overCareful: [1, 0], overStart: [1, 0] },
      },
    ],
  });
});

t.test('the KL of best-of-n is that of always choosing the best', async (t) => {
  t.equal(klOfBest(1), 0);
  // the best of n has the density n u^(n-1) at quantile u: its KL to the uniform one, summed slowly
  for (const n of [4, 16]) {
    const cells = 200_000;
    let kl = 0;
    for (let cell = 0; cell < cells; cell++) {
      const density = n * ((cell + 0.5) / cells) ** (n - 1);
      kl += (density * Math.log(density)) / cells;
    }
    t.ok(Math.abs(klOfBest(n) - kl) < 1e-3, String(n));
  }
});
