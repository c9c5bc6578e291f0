import { setImmediate as turn } from 'node:timers/promises';
import { pino } from 'pino';
import t from 'tap';
import { type Job, openLane } from '../../src/scoring/lane.ts';
import { openMemoryBudget } from '../../src/scoring/memory-budget.ts';
import { openPlaces } from '../../src/scoring/places.ts';
import type { Scorer, SequenceScore } from '../../src/scoring/scorer.ts';
import { ScorerDied } from '../../src/scoring/scorer-processes.ts';

/** A lane over scorers that answer when they are told to. */
function openFakeLane({ maxScorers = 1, memory = openMemoryBudget(10) } = {}) {
  const asked: { token: number; answer(score: SequenceScore): void; die(): void }[] = [];
  let started = 0;
  const start = async (): Promise<Scorer> => {
    started++;
    let end = (): void => {};
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    const score: Scorer['score'] = ({ responseIds }) =>
      new Promise((answer, reject) => {
        asked.push({ token: responseIds[0]!, answer, die: () => reject(new ScorerDied()) });
      });
    return { score, ended, close: async () => end() };
  };
  const log = pino({ level: 'silent' });
  const lane = openLane({
    start,
    bytes: 1,
    memory,
    cores: openPlaces(maxScorers),
    maxScorers,
    log,
    idleMs: 1000,
    onRestart() {},
    onIdle() {},
  });
  const outcomes: Record<number, unknown> = {};
  const job = (token: number): Job => ({
    sequence: { promptIds: [], responseIds: [token] },
    done: (score) => {
      outcomes[token] = score;
    },
    fail: (problem) => {
      outcomes[token] = problem.code;
    },
  });
  return { lane, job, asked, outcomes, starts: () => started };
}

const score: SequenceScore = { rewards: Float32Array.of(-1) };

t.test('what is taken back before it began is never scored', async (t) => {
  const { lane, job, asked, outcomes } = openFakeLane();
  const [first, second, third] = [job(1), job(2), job(3)];
  lane.add([first, second, third]);
  await turn();
  lane.remove(new Set([first, second]));
  asked[0]!.answer(score);
  await turn();
  t.same(
    asked.map(({ token }) => token),
    [1, 3],
  );
  asked[1]!.answer(score);
  await lane.close();
  t.same(Object.keys(outcomes), ['1', '3']);
});

t.test('a sequence is tried twice, and its neighbours are served by the next process', async (t) => {
  const { lane, job, asked, outcomes, starts } = openFakeLane();
  lane.add([job(1), job(2)]);
  for (const expected of [1, 1]) {
    await turn();
    const last = asked.at(-1)!;
    t.equal(last.token, expected);
    last.die();
  }
  await turn();
  asked.at(-1)!.answer(score);
  await lane.close();
  t.same(outcomes, { 1: 'unavailable', 2: score });
  t.equal(starts(), 3, 'each in a process of its own');
});

t.test('requests take turns, a sequence each', async (t) => {
  const { lane, job, asked } = openFakeLane();
  lane.add([job(1), job(2), job(3)]);
  lane.add([job(10)]);
  for (let n = 1; n <= 4; n++) {
    await turn();
    asked.at(-1)!.answer(score);
  }
  await lane.close();
  t.same(
    asked.map(({ token }) => token),
    [1, 10, 2, 3],
  );
});

t.test(
  'a second process starts for what waits, where there is memory, and gives it to who needs it',
  async (t) => {
    const memory = openMemoryBudget(2);
    const { lane, job, asked, starts } = openFakeLane({ maxScorers: 3, memory });
    lane.add([1, 2, 3, 4].map(job));
    await turn();
    await turn();
    t.same([asked.length, starts(), lane.scorers], [2, 2, 2], 'not three: there is no memory for it');
    let taken = false;
    void memory.take(1).then(() => {
      taken = true;
    });
    asked[0]!.answer(score);
    for (let n = 0; n < 5; n++) await turn();
    t.ok(taken, 'after the sequence at hand');
    t.equal(lane.scorers, 1);
    for (let n = 0; n < 10; n++) {
      asked.at(-1)!.answer(score);
      await turn();
    }
    await lane.close();
    t.same(
      asked.map(({ token }) => token),
      [1, 2, 3, 4],
    );
  },
);
