// One finegrain as the server of another's model: registered from its files, compared with golden.json, scored with.
import { readdir, readFile } from 'node:fs/promises';
import t from 'tap';
import { parseId } from '../../src/domain/ids.ts';
import { defaultProjectId } from '../../src/services/keys.ts';
import { scoreSlice } from '../../src/services/score-job-work.ts';
import { registerTinyModel, tinyModelFolder } from '../support/models.ts';
import { type RequestOptions, startTestServer, type TestServer } from '../support/server.ts';

t.setTimeout(120_000);

type Files = Record<string, string | Buffer>;

async function folderOf(http: object | undefined, card: object = {}): Promise<Files> {
  const names = (await readdir(tinyModelFolder)).filter((name) => !/^reward\.onnx|safetensors$/.test(name));
  const read = async (name: string) => [name, await readFile(new URL(name, tinyModelFolder))] as const;
  const files: Files = Object.fromEntries(await Promise.all(names.map(read)));
  const said = JSON.parse(files['finegrain.json']!.toString());
  return { ...files, 'finegrain.json': JSON.stringify({ ...said, onnx: undefined, http, ...card }) };
}

async function register(
  { call }: TestServer,
  files: Files,
  options: RequestOptions = {},
  role = 'token_reward',
) {
  const uploaded: { path: string; digest: string }[] = [];
  for (const [path, content] of Object.entries(files)) {
    const headers = { 'content-type': 'application/octet-stream' };
    const { body } = await call('POST', '/v1/artifacts', {
      ...options,
      body: content,
      headers,
    } as RequestOptions);
    uploaded.push({ path, digest: body.digest });
  }
  return call('POST', '/v1/models', { ...options, json: { name: 'big', role, files: uploaded } });
}

const texts = { prompt: 'Say hello.', responses: ['Hello there.', 'Damn, hello 👍', ''] };

t.test('a model that another finegrain serves', async (t) => {
  const [behind, front] = await Promise.all([startTestServer(t), startTestServer(t)]);
  const held = await registerTinyModel(behind, { alias: 'big' });
  const key = await behind.keyWith('score');
  const http = { base_url: behind.url, model: 'big', secret: 'behind', gives: 'rewards' };
  const { call } = front;
  await call('PUT', '/v1/secrets/behind', { json: { value: key } });
  const made = await register(front, await folderOf(http));
  t.match(made, { status: 201, body: { role: 'token_reward' } });
  const { id } = made.body;

  t.test('scores exactly as that one does, by every route', async (t) => {
    t.match(await call('POST', `/v1/models/${id}/warm`), {
      status: 200,
      body: { state: 'loaded', reason: null },
    });
    const there = (await behind.call('POST', '/v1/score', { json: { model: held, ...texts } })).body;
    const here = (await call('POST', '/v1/score', { json: { model: id, ...texts } })).body;
    t.same(here.results, there.results);
    t.match(here.model, { id, precision: 'fp32' });
    const edit = { prompt: texts.prompt, original: 'Damn, hello.', edited: 'Hello.' };
    const [a, b] = await Promise.all([
      behind.call('POST', '/v1/score/compare', { json: { model: held, ...edit } }),
      call('POST', '/v1/score/compare', { json: { model: id, ...edit } }),
    ]);
    t.same(b.body.segments, a.body.segments);
    const pooled = await call('POST', '/pooling', { json: { model: id, input: ['Hello.'] } });
    t.equal(pooled.status, 200);
    t.match(await call('POST', '/v1/score', { json: { model: id, ...texts, precision: 'int8' } }), {
      status: 422,
      body: { detail: /not offered in int8/ },
    });
  });

  t.test('what is wrong is told when it is registered', async (t) => {
    const cases: [Promise<Files>, RegExp][] = [
      [
        folderOf({ ...http, base_url: 'http://10.0.0.1' }),
        /\/http\/base_url: cannot be used\. 10\.0\.0\.1 is not a public/,
      ],
      [folderOf({ ...http, base_url: 'ftp://example.org' }), /must begin with https/],
      [folderOf({ ...http, base_url: 'http://key@example.org' }), /must not contain a user name/],
      [
        folderOf({ ...http, secret: 'other' }),
        /names no secret of this project; PUT \/v1\/secrets\/other sets it/,
      ],
      [folderOf({ ...http, gives: 'logits' }, { reward: undefined }), /\/reward: is missing/],
      [
        folderOf({ ...http, gives: 'logits' }, { reward: { loss: 'survival' } }),
        /\/reward\/clip: is missing/,
      ],
      [
        folderOf({ ...http, gives: 'logits' }, { reward: { loss: 'survival', clip: -4, heads: 3 } }),
        /\/http\/gives: logits of several heads/,
      ],
      [folderOf({ ...http, gives: 'stars' }), /finegrain\.json at \/http\/gives/],
      [folderOf(undefined), /names no ONNX graph and no server/],
      [folderOf(http, { onnx: { file: 'reward.onnx', input: 'a', output: 'b' } }), /both onnx and http/],
      [folderOf(http).then((files) => ({ ...files, 'a.onnx': 'x' })), /and there is an ONNX graph, too/],
      [folderOf(http).then(({ 'golden.json': _, ...files }) => files), /golden\.json is missing/],
    ];
    for (const [files, detail] of cases)
      t.match(await register(front, await files), { status: 422, body: { detail } }, `${detail}`);
    const policy = await register(front, await folderOf(http, { role: 'policy' }), {}, 'policy');
    t.match(policy, { status: 422, body: { detail: /\/http: is for token_reward models/ } });
    const writer = await front.keyWith('models:write');
    t.match(
      await register(front, await folderOf(http), { key: writer }),
      { status: 403, body: { code: 'missing_scope' } },
      'whoever chooses the server could read the key there',
    );
    const { secret: _, ...open } = http;
    t.match(await register(front, await folderOf(open), { key: writer }), { status: 201 });
  });

  t.test('the key of one project serves no other, though their files are equal', async (t) => {
    const other = await front.otherProjectKey();
    await call('PUT', '/v1/secrets/behind', { key: other, json: { value: 'not-a-key-there' } });
    const { body } = await register(front, await folderOf(http), { key: other });
    t.equal(body.digest, made.body.digest);
    t.match(await call('POST', '/v1/score', { key: other, json: { model: body.id, ...texts } }), {
      status: 422,
      body: { code: 'unprocessable', detail: /its server answered 401/ },
    });
    await call('DELETE', '/v1/secrets/behind', { key: other });
    t.match((await call('POST', `/v1/models/${body.id}/warm`, { key: other })).body, { state: 'refused' });
    t.match(await call('POST', '/v1/score', { json: { model: id, ...texts } }), { status: 200 });
  });

  t.test('an outage is a 503, and a job waits for its end', async (t) => {
    const rows = ['Hello.', 'Hello there.'].map((response) => JSON.stringify({ prompt: 'Hi.', response }));
    const { body: artifact } = await call('POST', '/v1/artifacts', {
      body: `${rows.join('\n')}\n`,
      headers: { 'content-type': 'application/x-ndjson' },
    });
    const json = { model: id, input: { artifact: artifact.digest } };
    const job = (await call('POST', '/v1/score-jobs', { json })).body;
    await behind.app.close();
    const away = await call('POST', '/v1/score', { json: { model: id, ...texts } });
    t.match(away, { status: 503, body: { detail: /connect_failed|broken_answer/ } });
    t.ok(Number(away.headers.get('retry-after')) >= 5);
    t.match((await call('POST', `/v1/models/${id}/warm`)).body, {
      state: 'not_loaded',
      reason: /connect_failed/,
    });
    const slice = await scoreSlice(
      { ...front.services, db: front.database.open('finegrain_system') },
      { projectId: defaultProjectId, jobId: parseId('scoreJob', job.id)! },
      new AbortController().signal,
    );
    t.match(slice, /rests for 15 s/);
    t.match((await call('GET', `/v1/score-jobs/${job.id}`)).body, {
      state: 'running',
      progress: { done: 0 },
    });
  });
});
