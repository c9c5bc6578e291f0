import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import {
  openScoringEngine,
  type Precision,
  type ScoringEngine,
  type Sequence,
} from '../../src/scoring/engine.ts';
import { openArtifactStore } from '../../src/storage/artifact-store.ts';
import type { StoredModel } from '../../src/storage/model-folder.ts';
import { type FileChanges, storeTinyModel, tinyModelFolder, tinyModelWithNaN } from '../support/models.ts';
import { isAlive } from '../support/processes.ts';
import { eventually, scorerProcesses } from '../support/scorer-processes.ts';

type Limits = Partial<Parameters<typeof openScoringEngine>[0]>;

async function openEngine(t: Test, limits: Limits = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-engine-'));
  const artifacts = openArtifactStore(join(folder, 'artifacts'));
  const engine = openScoringEngine({
    modelCacheFolder: join(folder, 'models'),
    artifacts,
    log: pino({ level: 'silent' }),
    maxScorers: 1,
    memoryBytes: 4 * 1024 ** 3,
    ...limits,
  });
  t.teardown(async () => {
    await engine.close();
    if (scorerProcesses().length > 0) throw new Error('a scorer process is left');
    await rm(folder, { recursive: true });
  });
  return { engine, store: (changes?: FileChanges) => storeTinyModel(artifacts, changes) };
}

const golden: {
  prompt: string;
  response: string;
  prompt_token_ids: number[];
  token_ids: number[];
  rewards: number[];
}[] = JSON.parse(await readFile(new URL('golden.json', tinyModelFolder), 'utf8')).items;
const sequences = golden.map(
  ({ prompt_token_ids, token_ids }): Sequence => ({ promptIds: prompt_token_ids, responseIds: token_ids }),
);
const never = new AbortController().signal;

async function scoreOne(engine: ScoringEngine, model: StoredModel, signal = never) {
  return (await engine.score(model, [sequences[0]!], signal))[0]!;
}

t.test('warming loads a model once; the wait for it may end before', async (t) => {
  const { engine, store } = await openEngine(t);
  const model = await store();
  t.equal(engine.stateOf(model), 'not_loaded');
  const impatient = new AbortController();
  const waiting = engine.warm(model, impatient.signal);
  t.equal(engine.stateOf(model), 'loading');
  impatient.abort(new Error('enough'));
  await t.rejects(waiting, { message: 'enough' });
  await engine.warm(model, never);
  t.equal(engine.stateOf(model), 'loaded');
  t.equal(scorerProcesses().length, 1);
  const broken = await store({
    'golden.json': (text) => text.replace(/"rewards": \[\s*-?\d/, '"rewards": [9'),
  });
  await t.rejects(engine.warm(broken, never), { code: 'unprocessable', message: /golden\.json/ });
  t.match(engine.stateOf(broken), { code: 'unprocessable' });
});

t.test(
  "gives the trainer's rewards, each sequence the same alone, among others and in any order",
  async (t) => {
    const { engine, store } = await openEngine(t);
    const model = await store();
    const together = await engine.score(model, sequences, never);
    for (const [position, score] of together.entries()) {
      if ('error' in score) return t.fail(score.error.detail);
      const { rewards } = golden[position]!;
      t.equal(score.rewards.length, rewards.length);
      t.ok(
        rewards.every((reward, token) => Math.abs(reward - score.rewards[token]!) <= 1e-4),
        golden[position]!.response,
      );
      t.same(await engine.score(model, [sequences[position]!], never), [score], 'alone');
    }
    const backwards = await Promise.all(
      [...sequences].reverse().map((sequence) => engine.score(model, [sequence], never)),
    );
    t.same(backwards.flat().reverse(), together, 'in other requests, in another order');
    t.equal(scorerProcesses().length, 1, 'all from one process');
    t.same(await engine.score(model, [{ promptIds: [1, 4], responseIds: [] }], never), [
      { rewards: new Float32Array(0) },
    ]);
    t.same(await engine.score(model, [], never), []);
  },
);

t.test('one sequence that the model cannot compute fails alone', async (t) => {
  const { engine, store } = await openEngine(t);
  const { changes, tokenId } = await tinyModelWithNaN();
  const sick = { promptIds: [1, 4], responseIds: [40, tokenId, 41] };
  const outside = { promptIds: [1, 4], responseIds: [40, 999_999] };
  const [healthy, notFinite, failed, healthyToo] = await engine.score(
    await store(changes),
    [sequences[0]!, sick, outside, sequences[1]!],
    never,
  );
  t.match(healthy, { rewards: Float32Array });
  t.match(notFinite, { error: { code: 'not_finite', detail: /gives NaN for token \d/ } });
  t.match(failed, { error: { code: 'model_failed' } });
  t.match(healthyToo, { rewards: Float32Array });
});

t.test('a model that does not compute what its trainer computed is refused', async (t) => {
  const { engine, store } = await openEngine(t);
  const change = (edit: (item: Record<string, number[]>) => void) => (text: string) => {
    const file = JSON.parse(text);
    edit(file.items[0]);
    return JSON.stringify(file);
  };
  // the graph of fp32 does for what is refused before any difference could show
  const offerInt8 = (text: string): string => {
    const card = JSON.parse(text);
    return JSON.stringify({ ...card, onnx: { ...card.onnx, int8: { file: 'reward.onnx' } } });
  };
  const cases: [string, FileChanges, RegExp, Precision?][] = [
    [
      'another reward',
      {
        'golden.json': change((item) => {
          item.rewards![2]! += 0.25;
        }),
      },
      /\/items\/0\/rewards\/2: .*the largest difference is 0\.250, the tolerance 0\.0001/,
    ],
    [
      'another token',
      {
        'golden.json': change((item) => {
          item.token_ids![0] = 7;
        }),
      },
      /\/items\/0\/token_ids: the tokenizer gives other ids/,
    ],
    ['no golden items', { 'golden.json': null }, /golden\.json is missing/],
    ['a broken graph', { 'reward.onnx': () => 'no graph' }, /reward\.onnx cannot be loaded/],
    ['no graph of integers', {}, /not offered in int8/, 'int8'],
    [
      'other rewards of integers',
      {
        'finegrain.json': offerInt8,
        'golden.json': (text) => {
          const file = JSON.parse(text);
          const rewards = file.items.map((item: { rewards: number[] }) => item.rewards);
          rewards[1] = rewards[1].map((reward: number) => reward - 0.5);
          return JSON.stringify({ ...file, int8: { tolerance: 0.01, rewards } });
        },
      },
      /\/int8\/rewards\/1\/0: .*the largest difference is 0\.500, the tolerance 0\.01/,
      'int8',
    ],
    ['no rewards of integers', { 'finegrain.json': offerInt8 }, /golden\.json at \/int8: is missing/, 'int8'],
    [
      'a policy',
      { 'finegrain.json': (text) => JSON.stringify({ ...JSON.parse(text), onnx: undefined }) },
      /names no ONNX graph/,
    ],
    [
      'a graph outside the folder',
      { 'finegrain.json': (text) => text.replace('reward.onnx', '../reward.onnx') },
      /is not a file of the folder/,
    ],
    [
      'another input',
      { 'finegrain.json': (text) => text.replace('"input_ids"', '"tokens"') },
      /has inputs input_ids and outputs rewards/,
    ],
  ];
  for (const [name, changes, reason, precision] of cases) {
    const model = await store(changes);
    const refusal = { name: 'Problem', code: 'unprocessable', message: reason };
    const scoreOne = () => engine.score(model, [sequences[0]!], never, { precision });
    const thrown = await scoreOne().catch((error) => error);
    t.match(thrown, refusal, name);
    t.notMatch(thrown.message, tmpdir(), 'and no path of the server is told');
    t.equal(await scoreOne().catch((error) => error), thrown, 'and it is remembered');
  }
  t.match(await scoreOne(engine, await store()), { rewards: Float32Array }, 'other models are served');
});

t.test('files that are not in the store are an outage, not a fault of the model', async (t) => {
  const { engine, store } = await openEngine(t);
  const model = await store();
  const lost = {
    digest: `sha256:${'1'.repeat(64)}`,
    files: [{ ...model.files[0]!, digest: `sha256:${'2'.repeat(64)}` }],
  };
  await t.rejects(scoreOne(engine, lost), { name: 'Problem', code: 'unavailable' });
});

t.test('a process that is killed while it loads is replaced', async (t) => {
  const { engine, store } = await openEngine(t);
  const model = await store();
  const score = scoreOne(engine, model);
  process.kill(await eventually(() => scorerProcesses()[0]), 'SIGKILL');
  t.match(await score, { rewards: Float32Array });
});

t.test(
  'a process that is killed or hangs over a sequence is replaced, and the sequence scored again',
  async (t) => {
    const { engine, store } = await openEngine(t, { answerLimitMs: 3_000 });
    const model = await store();
    const expected = await scoreOne(engine, model);
    const [killed] = scorerProcesses();
    process.kill(killed!, 'SIGSTOP'); // so that it surely holds the sequence
    const held = scoreOne(engine, model);
    process.kill(killed!, 'SIGKILL');
    t.same(await held, expected, 'killed');
    const [hanging] = scorerProcesses();
    t.not(hanging, killed);
    process.kill(hanging!, 'SIGSTOP');
    t.same(await scoreOne(engine, model), expected, 'hanging');
    t.notOk(isAlive(hanging!), 'the one that hung is gone');
  },
);

t.test('work that ends its process twice is a 503, and the next is served', async (t) => {
  const { engine, store } = await openEngine(t);
  const model = await store();
  const score = scoreOne(engine, model);
  const refused = t.rejects(score, { name: 'Problem', code: 'unavailable', retryAfterSeconds: Number });
  const killed = new Set<number>();
  while (killed.size < 2) {
    const pid = await eventually(() => scorerProcesses().find((pid) => !killed.has(pid)));
    process.kill(pid, 'SIGKILL');
    killed.add(pid);
  }
  await refused;
  t.match(await scoreOne(engine, model), { rewards: Float32Array });
});

t.test(
  'a model that crashes over a token costs that request a 503, and no other anything',
  { skip: process.arch === 'x64' ? false : 'it crashes on x86 only' },
  async (t) => {
    const { engine, store } = await openEngine(t, { maxScorers: 2 });
    const crashing = await readFile(new URL('../fixtures/crashing.onnx', import.meta.url));
    const model = await store({
      'reward.onnx': () => crashing,
      'golden.json': (text) => {
        const { items, ...rest } = JSON.parse(text);
        const silent = items.map((item: { rewards: number[] }) => ({
          ...item,
          rewards: item.rewards.map(() => 0),
        }));
        return JSON.stringify({ ...rest, items: silent });
      },
    });
    const other = await store();
    const expected = await scoreOne(engine, other);
    const restarts = engine.figures().restarts;
    const harmless = () => engine.score(model, sequences, never);
    const before = [harmless(), harmless()];
    const crash = engine.score(model, [{ promptIds: [1, 4], responseIds: [40, 319] }], never);
    const after = [harmless(), harmless()];
    await t.rejects(crash, { name: 'Problem', code: 'unavailable', retryAfterSeconds: Number });
    for (const scores of await Promise.all([...before, ...after]))
      for (const [index, score] of scores.entries())
        t.match(score, { rewards: { length: sequences[index]!.responseIds.length } });
    t.equal(engine.figures().restarts, restarts + 2);
    t.same(await scoreOne(engine, other), expected);
  },
);

t.test('the queue is bounded in tokens, and an abort frees its places', async (t) => {
  const tokens = sequences[0]!.promptIds.length + sequences[0]!.responseIds.length;
  const { engine, store } = await openEngine(t, { maxQueuedTokens: 2 * tokens });
  const model = await store();
  t.match(
    await engine.score(model, [...sequences, ...sequences], never),
    { length: 2 * sequences.length },
    'one request alone always fits',
  );
  const [pid] = scorerProcesses();
  process.kill(pid!, 'SIGSTOP');
  const first = scoreOne(engine, model);
  const leaving = new AbortController();
  const second = scoreOne(engine, model, leaving.signal);
  const third = scoreOne(engine, model);
  await t.rejects(third, { name: 'Problem', code: 'overloaded', retryAfterSeconds: Number });
  leaving.abort(new Error('gone'));
  await t.rejects(second, { message: 'gone' });
  const fourth = scoreOne(engine, model);
  process.kill(pid!, 'SIGCONT');
  t.match(await first, { rewards: Float32Array });
  t.match(await fourth, { rewards: Float32Array }, 'its place was free again');
  await t.rejects(scoreOne(engine, model, AbortSignal.abort(new Error('gone before'))), {
    message: 'gone before',
  });
});

t.test('models share the memory for processes, and an idle process ends', async (t) => {
  const { engine, store } = await openEngine(t, { memoryBytes: 400 * 1024 ** 2, idleMs: 50 });
  const one = await store();
  const other = await store({ 'report.json': null, 'config.json': (text) => `${text} ` });
  let most = 0;
  const watch = setInterval(() => {
    most = Math.max(most, scorerProcesses().length);
  }, 100);
  const scores = await Promise.all([one, other, one, other].map((model) => scoreOne(engine, model)));
  clearInterval(watch);
  t.equal(most, 1, 'never two at a time');
  for (const score of scores) t.same(score, scores[0]);
  await eventually(() => scorerProcesses().length === 0);
  t.same(await scoreOne(engine, one), scores[0], 'and comes back when there is work');
});

t.test('a process that was started ahead takes the first model', async (t) => {
  const { engine, store } = await openEngine(t, { ahead: true });
  const ahead = scorerProcesses();
  t.equal(ahead.length, 1);
  await scoreOne(engine, await store());
  t.same(scorerProcesses(), ahead);
});

t.test('when it has died, another is started', async (t) => {
  const { engine, store } = await openEngine(t, { ahead: true });
  process.kill(scorerProcesses()[0]!, 'SIGKILL');
  t.match(await scoreOne(engine, await store()), { rewards: {} });
});

t.test('when nobody wants it, it ends', async (t) => {
  await openEngine(t, { ahead: true, idleMs: 50 });
  await eventually(() => scorerProcesses().length === 0);
});

t.test('several processes work for one request, with the same result', async (t) => {
  const { engine, store } = await openEngine(t, { maxScorers: 3 });
  const model = await store();
  const many = Array.from({ length: 60 }, () => sequences).flat();
  const alone = await engine.score(model, sequences, never);
  let most = 0;
  const watch = setInterval(() => {
    most = Math.max(most, scorerProcesses().length);
  }, 20);
  for (;;) {
    const scores = await engine.score(model, many, never);
    for (const [index, score] of scores.entries()) t.same(score, alone[index % sequences.length]);
    if (most === 3) break; // the first of them were done before the others had started
  }
  clearInterval(watch);
});

t.test('closing finishes what is queued and takes nothing more', async (t) => {
  const { engine, store } = await openEngine(t);
  const model = await store();
  const queued = engine.score(model, sequences, never);
  const closed = engine.close();
  await t.rejects(scoreOne(engine, model), { name: 'Problem', code: 'unavailable' });
  t.equal((await queued).length, sequences.length);
  await closed;
});
