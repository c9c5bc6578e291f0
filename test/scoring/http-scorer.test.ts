// Models on a server elsewhere: what is sent, what is made of the answers, and what a server that misbehaves costs.
import { setMaxListeners } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { openOutgoingClient } from '../../src/outgoing/client.ts';
import { openScoringEngine, type Sequence, type ServedModel } from '../../src/scoring/engine.ts';
import { openArtifactStore } from '../../src/storage/artifact-store.ts';
import { storeTinyModel, tinyModelFolder } from '../support/models.ts';
import { type PoolingAsked, type PoolingReply, startPoolingServer } from '../support/pooling-server.ts';
import { eventually, scorerProcesses } from '../support/scorer-processes.ts';

t.setTimeout(120_000);

const golden: { prompt_token_ids: number[]; token_ids: number[]; rewards: number[] }[] = JSON.parse(
  await readFile(new URL('golden.json', tinyModelFolder), 'utf8'),
).items;
const sequences = golden.map(
  ({ prompt_token_ids, token_ids }): Sequence => ({ promptIds: prompt_token_ids, responseIds: token_ids }),
);
const never = new AbortController().signal;
setMaxListeners(0, never);
const other = (token: number): Sequence => ({ promptIds: [1], responseIds: [token, token] });

/** The rewards of the golden texts, and −0.5 for any other token. */
function rewardsFor({ input }: PoolingAsked): number[] {
  const item = golden.find(
    ({ prompt_token_ids, token_ids }) => [...prompt_token_ids, ...token_ids].join() === input.join(),
  );
  return item ? [...item.prompt_token_ids.map(() => 0), ...item.rewards] : input.map(() => -0.5);
}
const honest = (asked: PoolingAsked): PoolingReply => ({ numbers: rewardsFor(asked) });
const isGolden = ({ input }: PoolingAsked): boolean =>
  golden.some(({ prompt_token_ids: prompt }) => prompt.join() === input.slice(0, prompt.length).join());

interface Options {
  limits?: Partial<Parameters<typeof openScoringEngine>[0]>;
  allow?: string[];
  readKey?: (project: string, secret: string) => Promise<string>;
}

async function setUp(t: Test, reply: (asked: PoolingAsked) => PoolingReply, options: Options = {}) {
  const server = await startPoolingServer(t, reply);
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-http-scorer-'));
  const artifacts = openArtifactStore(join(folder, 'artifacts'));
  const outgoing = openOutgoingClient({ allow: options.allow ?? ['127.0.0.0/8'] });
  let logged = '';
  const log = pino(
    { level: 'trace' },
    new Writable({
      write(chunk, _encoding, done) {
        logged += chunk;
        done();
      },
    }),
  );
  const engine = openScoringEngine({
    modelCacheFolder: join(folder, 'models'),
    artifacts,
    servers: { outgoing, readKey: options.readKey ?? (async () => 'a key of the test') },
    log,
    maxScorers: 1,
    memoryBytes: 4 * 1024 ** 3,
    ...options.limits,
  });
  t.teardown(async () => {
    await engine.close();
    await outgoing.close();
    await rm(folder, { recursive: true });
  });
  const store = async (path = '', http: object = {}, card: object = {}): Promise<ServedModel> => ({
    ...(await storeTinyModel(artifacts, {
      'reward.onnx': null,
      'finegrain.json': (text) =>
        JSON.stringify({
          ...JSON.parse(text),
          onnx: undefined,
          http: { base_url: server.url + path, model: 'big', gives: 'rewards', ...http },
          ...card,
        }),
    })),
    project_id: 'one',
  });
  return { server, engine, store, artifacts, logged: () => logged };
}

t.test('sequences go out as token ids, several at a time, and no process is started', async (t) => {
  const { server, engine, store } = await setUp(t, honest);
  const model = await store('/base/');
  t.equal(engine.stateOf(model), 'not_loaded');
  const many = [...sequences, ...Array.from({ length: 60 }, (_, n) => other(n + 10))];
  const scores = await engine.score(model, many, never);
  for (const [index, { rewards }] of golden.entries())
    t.same(scores[index], { rewards: Float32Array.from(rewards) });
  t.same(scores.at(-1), { rewards: Float32Array.of(-0.5, -0.5) });
  t.equal(engine.stateOf(model), 'loaded');
  t.equal(engine.figures().queuedTokens, 0);
  t.equal(scorerProcesses().length, 0);
  t.ok(server.mostAtOnce > 4 && server.mostAtOnce <= 16, `${server.mostAtOnce} at a time`);
  t.match(server.all.at(-1), {
    path: '/base',
    authorization: undefined,
    model: 'big',
    task: 'token_classify',
    encoding_format: 'float',
    use_activation: false,
  });
  t.ok(server.all.slice(0, golden.length).every(isGolden), 'the golden texts are the first that is asked');
  t.equal(server.all.length, golden.length + many.length, 'and are asked once');
});

t.test('logits become rewards as the trainer makes them', async (t) => {
  const extreme = new Map([
    [20, 1000],
    [21, -1000],
  ]);
  const { engine, store } = await setUp(t, (asked) => ({
    numbers: rewardsFor(asked).map(
      (reward, index) =>
        (!isGolden(asked) && extreme.get(asked.input[index]!)) || Math.log(Math.expm1(-reward) || 1e-9),
    ),
  }));
  const model = await store('', { gives: 'logits' });
  const scores = await engine.score(model, [...sequences, other(20), other(21)], never);
  for (const [index, { rewards }] of golden.entries()) {
    const score = scores[index]!;
    if ('error' in score) return t.fail(score.error.detail);
    t.ok(rewards.every((reward, token) => Math.abs(reward - score.rewards[token]!) < 1e-5));
  }
  t.same(scores.at(-2), { rewards: Float32Array.of(-4, -4) }, 'not below the clip');
  t.match(scores.at(-1), { rewards: Float32Array.of(0, 0) });
  const difference = await store('', { gives: 'logits' }, { reward: { loss: 'bt_hunk' } });
  await t.rejects(engine.score(difference, sequences, never), { code: 'unprocessable' }, 'taken as they are');
});

t.test('another model behind the URL is refused, also when it comes after an outage', async (t) => {
  let serves = honest;
  const { engine, store } = await setUp(t, (asked) => serves(asked));
  const wrong = (asked: PoolingAsked) => ({ numbers: rewardsFor(asked).map((reward) => reward - 0.01) });
  serves = wrong;
  const model = await store();
  const refusal = { code: 'unprocessable', message: /golden\.json at .*the largest difference is 0\.0100/ };
  await t.rejects(engine.score(model, sequences, never), refusal);
  t.match(engine.stateOf(model), refusal);
  serves = honest;
  const next = await store('/next');
  t.match(await engine.score(next, sequences, never), [{ rewards: Float32Array }]);
  serves = () => ({ status: 503, headers: { 'retry-after': '900' } });
  await t.rejects(engine.score(next, sequences, never), { code: 'unavailable', retryAfterSeconds: 900 });
  await eventually(() => engine.stateOf(next) === 'not_loaded'); // what else was asked is broken off
  await t.rejects(engine.warm(next, never), { code: 'unavailable' });
  serves = wrong;
  await t.rejects(engine.score(next, sequences, never), refusal);
});

t.test(
  'what may pass is tried again; what stays is a 503, a fault of the model, or of one item',
  async (t) => {
    const replies: Record<string, (asked: PoolingAsked) => PoolingReply> = {
      '/busy': ({ before }) => (before < 2 ? { status: 429, headers: { 'retry-after': '1' } } : {}),
      '/loading': ({ before }) => (before < 2 ? { status: 503 } : {}),
      '/closing': ({ before }) => (before < 1 ? { way: 'close' } : {}),
      '/down': () => ({ status: 500, body: 'CUDA out of memory' }),
      '/cut': () => ({ way: 'cut' }),
      '/lost': () => ({ status: 404, body: 'no such model' }),
      '/moved': () => ({ status: 302, headers: { location: '/lost' } }),
      '/picky': ({ input }) => (input.includes(30) ? { status: 422, body: 'token 30 is not known' } : {}),
    };
    const { server, engine, store } = await setUp(t, (asked) => {
      if (isGolden(asked)) return honest(asked);
      return { ...honest(asked), ...replies[asked.path]!(asked) };
    });
    const two = [other(30), other(31)];
    const score = async (path: string) => engine.score(await store(path), two, never).catch((error) => error);
    const outcomes = Object.fromEntries(
      await Promise.all(Object.keys(replies).map(async (path) => [path, await score(path)])),
    );
    const ok = { rewards: Float32Array.of(-0.5, -0.5) };
    for (const path of ['/busy', '/loading', '/closing']) t.same(outcomes[path], [ok, ok], path);
    t.match(outcomes['/down'], {
      code: 'unavailable',
      retryAfterSeconds: 5,
      message: /^Try again later\. The server of the model answered 500: CUDA out of memory$/,
    });
    t.match(outcomes['/cut'], { code: 'unavailable', message: /broken_answer/ });
    t.match(outcomes['/lost'], {
      code: 'unprocessable',
      message: /served: its server answered 404: no such model/,
    });
    t.match(outcomes['/moved'], { code: 'unprocessable', message: /answered 302/ });
    t.match(outcomes['/picky'], [{ error: { code: 'model_failed', detail: /token 30 is not known/ } }, ok]);
    t.equal(server.all.filter(({ path, input }) => path === '/lost' && input.includes(30)).length, 1);
  },
);

t.test('an answer that is none is a 503, and no null or NaN is ever a reward', async (t) => {
  const answers: Record<string, PoolingReply> = {
    '/html': { body: '<html>Welcome</html>' },
    '/nan': { body: '{"data": [{"data": [NaN, NaN, NaN]}]}' },
    '/null': { body: 'null' },
    '/empty': { body: '{"data": []}' },
    '/short': { numbers: [-1, -1] },
    '/long': { numbers: [-1, -1, -1, -1] },
    '/labels': {
      body: JSON.stringify({
        data: [
          {
            data: [
              [0, 1],
              [0, 1],
              [0, 1],
            ],
          },
        ],
      }),
    },
    '/text': { numbers: ['-1', '-1', '-1'] },
    '/large': { body: Buffer.alloc(1_000_000, 0x20) },
    '/twice': { body: JSON.stringify({ data: [{ data: [1, 1, 1] }, { data: [1, 1, 1] }] }) },
  };
  const sick: Record<string, PoolingReply> = {
    '/null-reward': { numbers: [0, -1, null] },
    '/infinite': { body: '{"data": [{"data": [[0], [-1], [1e999]]}]}' },
    '/beyond-float32': { numbers: [0, -1, 1e300] },
  };
  const { engine, store } = await setUp(t, (asked) =>
    isGolden(asked) ? honest(asked) : { ...answers, ...sick }[asked.path]!,
  );
  const score = async (path: string) =>
    engine.score(await store(path), [other(40)], never).catch((error) => error);
  const paths = [...Object.keys(answers), ...Object.keys(sick)];
  const outcomes = await Promise.all(paths.map(score));
  for (const [index, path] of paths.entries())
    t.match(
      outcomes[index],
      path in answers
        ? { code: 'unavailable', message: /does not answer as the pooling API does|too_large/ }
        : [{ error: { code: 'not_finite', detail: /for token 1 of the response/ } }],
      path,
    );
  t.match(outcomes[paths.indexOf('/short')].message, /there are 2 numbers for 3 tokens/);
});

t.test('a server that does not answer costs its limit, and holds up nothing else', async (t) => {
  const { server, engine, store, artifacts } = await setUp(
    t,
    (asked) => (isGolden(asked) ? honest(asked) : { way: 'hang' }),
    { limits: { answerLimitMs: 2_000, maxQueuedTokens: 30 } },
  );
  const model = await store();
  const started = performance.now();
  const hanging = engine.score(
    model,
    Array.from({ length: 15 }, (_, n) => other(n + 10)),
    never,
  );
  const here = await storeTinyModel(artifacts);
  t.match(await engine.score(here, [sequences[0]!], never), [{ rewards: Float32Array }]);
  await t.rejects(
    engine.score(model, [sequences[0]!], never),
    { code: 'overloaded' },
    'its own queue is full',
  );
  await t.rejects(hanging, { code: 'unavailable', message: /timed_out/ });
  t.ok(performance.now() - started < 10_000);
  t.ok(
    await eventually(() => server.all.filter((asked) => !isGolden(asked)).every(({ left }) => left)),
    'and what the others asked is broken off with it',
  );
});

t.test('who goes away takes the requests back', async (t) => {
  const { server, engine, store } = await setUp(t, (asked) =>
    asked.input.includes(50) ? { way: 'hang' } : honest(asked),
  );
  const model = await store();
  const leaving = new AbortController();
  const hanging = engine.score(model, [other(50), other(51)], leaving.signal);
  const asked = await eventually(() => server.all.find(({ input }) => input.includes(50)));
  leaving.abort(new Error('gone'));
  await t.rejects(hanging, { message: 'gone' });
  await eventually(() => asked.left);
  const count = server.all.length;
  t.match(await engine.score(model, [other(52)], never), [{ rewards: Float32Array }]);
  t.equal(server.all.length, count + 1, 'the model is still loaded, and not compared again');
});

t.test('the key is sent, read again when it is not taken, and never told', async (t) => {
  const keys = ['sk-the-first-of-two', 'sk-the-second-of-two'];
  let read = 0;
  let valid = 0;
  const { server, engine, store, logged } = await setUp(
    t,
    (asked) => {
      if (asked.authorization !== `Bearer ${keys[valid]}`)
        return { status: 401, body: `Incorrect key provided: ${asked.authorization}` };
      return asked.input.includes(60)
        ? { status: 500, body: `overloaded, ${asked.authorization}` }
        : honest(asked);
    },
    {
      async readKey(project, secret) {
        t.same([project, secret], ['one', 'big-server']);
        return keys[Math.min(read++, 1)]!;
      },
    },
  );
  const model = await store('', { secret: 'big-server' });
  t.match(await engine.score(model, [other(61)], never), [{ rewards: Float32Array }]);
  t.equal(server.all.at(-1)!.authorization, `Bearer ${keys[0]}`);
  valid = 1; // the key was changed there, and then here
  t.match(await engine.score(model, [other(62)], never), [{ rewards: Float32Array }]);
  const failed = await engine.score(model, [other(60)], never).catch((error) => error);
  t.match(failed, { code: 'unavailable', message: /answered 500: overloaded, Bearer …/ });
  valid = 2;
  const refused = await engine.score(model, [other(63)], never).catch((error) => error);
  t.match(refused, { code: 'unprocessable', message: /answered 401: Incorrect key provided: Bearer …/ });
  for (const key of keys) t.notOk(logged().includes(key));
  t.match(logged(), /does not serve/);

  const count = server.all.length;
  await t.rejects(
    engine.score({ ...model, project_id: null }, [other(61)], never),
    { code: 'unprocessable', message: /no project/ },
    'and is of its project only',
  );
  t.equal(server.all.length, count);
});

t.test('addresses that nobody allowed are refused', async (t) => {
  const { server, engine, store } = await setUp(t, honest, { allow: [] });
  await t.rejects(engine.score(await store(), sequences, never), {
    code: 'unprocessable',
    message: /refused_address/,
  });
  t.same(server.all, []);
});
