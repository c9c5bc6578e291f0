import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { bradleyTerry, type Game } from '../../src/domain/bradley-terry.ts';
import { computeWinRate, type Judgement } from '../../src/domain/win-rate.ts';
import { holds } from './holds.ts';
import { close, deviation, jackknifeError, judged, logistic, mean } from './judgements.ts';

const of = (candidate: string, ...outcomes: (number | null)[]): Judgement[] =>
  judged(...outcomes).map((one) => ({ ...one, candidate }));

t.test('several candidates: each alone, and pooled at the top', async (t) => {
  const first = of('first', 1, 0, 1, 1, null);
  const second = of('second', 0, 0, 0.5);
  const result = computeWinRate([...first, ...second]);
  t.equal(result.win_rate, 3.5 / 7);
  t.equal(result.clusters, 4);
  for (const [k, judgements] of [first, second].entries()) {
    const { summary, notes, candidates, comparisons, ranking, agreement, prediction_powered, ...alone } =
      computeWinRate(judgements);
    t.same([candidates, comparisons, ranking, agreement, prediction_powered], [null, null, null, null, null]);
    t.same(result.candidates![k], {
      candidate: k === 0 ? 'first' : 'second',
      ...alone,
      agreement,
      prediction_powered,
    });
    t.type(summary, 'string');
    t.type(notes.length, 'number');
  }
  t.match(result.summary, /^2 candidates together win 50\.0 % of 7 judgements of 4 items/);
  t.match(result.notes[1], /pooled over all candidates, clustered by item/);
});

t.test('a paired difference is the mean difference over shared items', async (t) => {
  const result = computeWinRate([...of('a', 1, 0.8, 0.3, 0.9, 1), ...of('b', 0.5, 0.9, 0, 0.2)]);
  const differences = [0.5, -0.1, 0.3, 0.7];
  const [comparison] = result.comparisons!;
  t.match(comparison, { candidates: ['a', 'b'], n_shared: 4, reason: null });
  t.doesNotThrow(() => {
    close(comparison!.difference, mean(differences));
    close(comparison!.standard_error, deviation(differences) / 2);
    const half = 3.182446305284263 * (deviation(differences) / 2);
    close(comparison!.confidence_interval!.low, mean(differences) - half, 1e-9);
    close(comparison!.confidence_interval!.high, Math.min(1, mean(differences) + half), 1e-9);
  });
});

t.test('pairing sees what separate intervals do not', async (t) => {
  const hard = Array.from({ length: 200 }, (_, k) => ((k * 29) % 90) / 100);
  const result = computeWinRate([...of('a', ...hard.map((x, k) => x + (k % 3) / 50)), ...of('b', ...hard)]);
  const [a, b] = result.candidates!;
  t.ok(a!.confidence_interval!.low < b!.confidence_interval!.high, 'they overlap');
  t.ok(result.comparisons![0]!.confidence_interval!.low > 0);
});

t.test('several judgements of an item count once in a comparison', async (t) => {
  const judgements = [...of('a', 1, 0), ...of('a', 0, 0), ...of('b', 0, 0.5)];
  t.equal(computeWinRate(judgements).comparisons![0]!.difference, mean([0.5 - 0, 0 - 0.5]));
});

t.test('what cannot be compared has a reason', async (t) => {
  const compare = (...judgements: Judgement[]) => computeWinRate(judgements).comparisons![0]!;
  const apart = compare(...of('a', 1), { ...of('b', 1)[0]!, item_id: 'other' });
  t.match(apart, {
    difference: null,
    standard_error: null,
    confidence_interval: null,
    n_shared: 0,
    reason: /no item/,
  });
  t.match(compare(...of('a', 1), ...of('b', 0)), { difference: 1, confidence_interval: null, reason: /two/ });
  const equal = compare(...of('a', 1, 1, 1), ...of('b', 1, 1, 1));
  t.match(equal, { difference: 0, standard_error: 0, minimal_detectable_difference: null });
  t.ok(equal.confidence_interval!.low < -0.5, 'no spread is no certainty');
});

/** Minorisation and maximisation (Hunter 2004), with the half win and half loss of each player against player 0. */
function bradleyTerryOracle(games: Game[], players: number): number[] {
  const all = [
    ...games,
    ...Array.from({ length: players - 1 }, (_, k) => ({ first: k + 1, second: 0, share: 0.5, item: '' })),
  ];
  let gamma = new Array<number>(players).fill(1);
  for (let round = 0; round < 5000; round++) {
    const wins = gamma.map(() => 0);
    const meetings = gamma.map(() => 0);
    for (const { first, second, share } of all) {
      wins[first]! += share;
      wins[second]! += 1 - share;
      for (const player of [first, second]) meetings[player]! += 1 / (gamma[first]! + gamma[second]!);
    }
    gamma = wins.map((won, player) => won / meetings[player]!);
  }
  return gamma.map((value) => Math.log(value / gamma[0]!));
}

t.test('Bradley-Terry strengths equal those of a slow fit, whatever the games', async (t) => {
  const player = fc.nat(3);
  const game = fc
    .record({
      first: player,
      second: player,
      share: fc.constantFrom(0, 0.2, 0.5, 1),
      item: fc.constantFrom('1', '2'),
    })
    .filter(({ first, second }) => first !== second);
  holds(
    t,
    fc.property(fc.array(game, { maxLength: 12 }), (games) => {
      const strengths = bradleyTerry(games, 4, 0.95)!;
      const expected = bradleyTerryOracle(games, 4);
      for (const [k, { strength }] of strengths.entries()) close(strength, expected[k]!, 1e-5);
      assert.deepEqual(
        strengths.map(({ rank }) => rank),
        strengths.map(({ strength }) => 1 + strengths.filter((other) => other.strength > strength).length),
      );
    }),
    { runs: 40 },
  );
});

t.test('a ranking has the baseline in it, and intervals that a jackknife over items confirms', async (t) => {
  const outcome = (k: number, edge: number) => logistic(edge + ((k * 17) % 13) / 4 - 1.5);
  const judgements = [0.5, -1, 0.45].flatMap((edge, c) =>
    of(`${c}`, ...Array.from({ length: 120 }, (_, k) => outcome(k + c * 5, edge))),
  );
  const { ranking } = computeWinRate(judgements);
  t.same(
    ranking!.map(({ candidate, is_baseline }) => [candidate, is_baseline]),
    [
      ['0', false],
      ['2', false],
      [null, true],
      ['1', false],
    ],
  );
  const strengthOf = (kept: Judgement[]) =>
    computeWinRate(kept).ranking!.find(({ candidate }) => candidate === '1')!.strength;
  const [last] = ranking!.slice(-1);
  t.doesNotThrow(() => close(last!.standard_error! / jackknifeError(judgements, strengthOf), 1, 0.03));
  t.same(last!.rank_interval, { low: 4, high: 4 });
  t.same(ranking![0]!.rank_interval!.low, 1);
});

t.test('one that has won all stays finite, and uncertain', async (t) => {
  const { ranking } = computeWinRate([...of('all', 1, 1, 1, 1, 1), ...of('none', 0, 0, 0, 0, 0)]);
  t.same(
    ranking!.map(({ candidate }) => candidate),
    ['all', null, 'none'],
  );
  t.ok(ranking![0]!.strength > 1 && ranking![0]!.strength < 5);
  t.ok(ranking![0]!.standard_error! > 0.7);
});

t.test(
  'candidates that were judged on nothing that counts are in the table, not in the ranking',
  async (t) => {
    const result = computeWinRate([...of('a', 1, 0), ...of('b', null, 3)]);
    t.match(result.candidates![1], { candidate: 'b', win_rate: null, reason: String, nulls: { share: 0.5 } });
    t.equal(result.ranking!.length, 2);
    t.equal(computeWinRate([...of('a', null), ...of('b', null)]).ranking, null);
    t.match(
      computeWinRate([...of('a', 1), ...judged(0)]).candidates!.map(({ candidate }) => candidate),
      ['a', null],
    );
  },
);
