// A model from files that a project has uploaded: what is registered, what is refused, and how it is loaded.
import { readdir, readFile } from 'node:fs/promises';
import t, { type Test } from 'tap';
import { shippedSampleFolder } from '../../src/services/sample-model.ts';
import { tinyModelFolder } from '../support/models.ts';
import { type RequestOptions, startTestServer, type TestServer } from '../support/server.ts';

t.setTimeout(120_000);

type Files = Record<string, string | Buffer>;

async function tinyFiles(): Promise<Files> {
  const names = await readdir(tinyModelFolder);
  return Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, await readFile(new URL(name, tinyModelFolder))])),
  );
}

/** An ONNX graph of one tensor whose values lie in another file. */
function graphReading(location: string): Buffer {
  const field = (number: number, content: Buffer | string): Buffer => {
    const bytes = Buffer.from(content as string);
    return Buffer.concat([Buffer.from([number * 8 + 2, bytes.length]), bytes]);
  };
  const entry = Buffer.concat([field(1, 'location'), field(2, location)]);
  return field(7, field(5, field(13, entry)));
}

async function setUp(t: Test) {
  const server = await startTestServer(t, { sampleFolder: shippedSampleFolder });
  const { call } = server;
  const upload = async (files: Files, key?: string) => {
    const uploaded: { path: string; digest: string }[] = [];
    for (const [path, content] of Object.entries(files)) {
      const headers = { 'content-type': 'application/octet-stream' };
      const options = { body: content, headers, ...(key ? { key } : {}) } as RequestOptions;
      uploaded.push({ path, digest: (await call('POST', '/v1/artifacts', options)).body.digest });
    }
    return uploaded;
  };
  const register = async (files: Files, more: object = {}, options: RequestOptions = {}) =>
    call('POST', '/v1/models', {
      json: { name: 'tiny', role: 'token_reward', files: await upload(files), ...more },
      ...options,
    });
  return { server, call, upload, register };
}

async function rewardsOf({ call }: TestServer, model: string): Promise<number[]> {
  const json = { model, prompt: 'Say hello.', responses: ['Hello there.'] };
  return (await call('POST', '/v1/score', { json })).body.results[0].rewards;
}

t.test('models from uploads', async (t) => {
  const { server, call, upload, register } = await setUp(t);
  const tiny = await tinyFiles();

  t.test('happy: registered, downloaded, warmed, scored with, named, deleted', async (t) => {
    const files = await upload(tiny);
    const json = {
      name: 'mine',
      role: 'token_reward',
      files: [...files].reverse(),
      metrics: { pair_accuracy: 0.78, bad_token_auc: null },
    };
    const made = await call('POST', '/v1/models', { json, headers: { 'idempotency-key': 'once' } });
    t.match(made, {
      status: 201,
      body: { name: 'mine', role: 'token_reward', metrics: json.metrics, run_id: null, shared: false },
    });
    const { id, digest, tokenizer_digest } = made.body;
    t.equal(tokenizer_digest, files.find(({ path }) => path === 'tokenizer.json')!.digest);
    t.same(
      made.body.files.map(({ path }: { path: string }) => path),
      Object.keys(tiny).sort(),
      'in the order of their paths, whatever the order of the request',
    );
    const again = await call('POST', '/v1/models', { json, headers: { 'idempotency-key': 'once' } });
    t.same(again.body, made.body);
    t.equal(again.headers.get('idempotency-replayed'), 'true');
    t.same((await call('GET', `/v1/models/${id}`)).body, made.body);
    const equal = await call('POST', '/v1/models', { json: { ...json, name: 'the same' } });
    t.match(equal, { status: 201, body: { name: 'the same', digest } });
    t.not(equal.body.id, id, 'equal files are another model of the same digest');

    t.match((await call('GET', `/v1/models/${id}/serving`)).body, {
      model_id: id,
      digest,
      state: 'not_loaded',
      reason: null,
    });
    t.match(await call('POST', `/v1/models/${id}/warm`), { status: 200, body: { state: 'loaded' } });
    t.match((await call('GET', `/v1/models/${equal.body.id}/serving`)).body, { state: 'loaded' });
    t.equal((await rewardsOf(server, id)).length > 0, true);

    await call('PUT', '/v1/aliases/mine', { json: { model_id: id } });
    t.match((await call('GET', '/v1/models/mine/serving')).body, { model_id: id, state: 'loaded' });
    t.match((await call('POST', '/v1/models/mine/warm?wait_seconds=0')).body, { state: 'loaded' });
    await call('DELETE', '/v1/aliases/mine');
    t.match(await call('DELETE', `/v1/models/${id}`), { status: 204 });
    const { items } = (await call('GET', '/v1/audit-events?action=model.registered')).body;
    t.match(items, [{ detail: { name: 'the same', digest } }, { subject: id, detail: { name: 'mine' } }]);
  });

  t.test('a warm-up that takes longer than it may wait goes on', async (t) => {
    const config = `${tiny['config.json']} `; // another digest, so that nothing is loaded
    const { id } = (await register({ ...tiny, 'config.json': config })).body;
    t.match((await call('POST', `/v1/models/${id}/warm?wait_seconds=0`)).body, { state: /^load(ing|ed)$/ });
    for (;;) {
      const { state } = (await call('GET', `/v1/models/${id}/serving`)).body;
      if (state === 'loaded') break;
      t.equal(state, 'loading');
    }
  });

  t.test('a policy without a graph, in shards, and a sequence reward model', async (t) => {
    const {
      'config.json': config,
      'tokenizer.json': tokenizer,
      'model.safetensors': weights,
    } = tiny as {
      [name: string]: Buffer;
    };
    const huggingFace = {
      'config.json': JSON.stringify({ ...JSON.parse(config!.toString()), eos_token_id: 2 }),
      'tokenizer.json': tokenizer!,
    };
    const shard = 'model-00001-of-00001.safetensors';
    const index = JSON.stringify({ weight_map: { 'model.norm.weight': shard } });
    const sharded = { ...huggingFace, [shard]: weights!, 'model.safetensors.index.json': index };
    const policy = await register(sharded, { role: 'policy' });
    t.match(policy, { status: 201, body: { role: 'policy' } });
    t.match(await call('POST', `/v1/models/${policy.body.id}/warm`), {
      status: 422,
      body: { detail: /only a token_reward model is loaded here/ },
    });
    t.match((await call('GET', `/v1/models/${policy.body.id}/serving`)).body, { state: 'not_loaded' });
    const card = JSON.parse(tiny['finegrain.json']!.toString());
    const { 'reward.onnx': _, 'golden.json': __, ...rest } = tiny;
    const sequence = {
      ...rest,
      'finegrain.json': JSON.stringify({ ...card, role: 'sequence_reward', onnx: undefined }),
    };
    t.match(await register(sequence, { role: 'sequence_reward' }), { status: 201 });
    const { [shard]: ___, ...short } = sharded;
    t.match(await register(short, { role: 'policy' }), {
      status: 422,
      body: {
        detail: /model-00001-of-00001\.safetensors, which model\.safetensors\.index\.json names, is missing/,
      },
    });
    t.match(await register(huggingFace, { role: 'policy' }), {
      status: 422,
      body: { detail: /model\.safetensors is missing/ },
    });
  });

  t.test('weights beside the graph', async (t) => {
    const said = JSON.parse(tiny['finegrain.json']!.toString());
    const files = {
      ...tiny,
      'finegrain.json': JSON.stringify({ ...said, onnx: { ...said.onnx, file: 'g/reward.onnx' } }),
    };
    const withGraph = (graph: Buffer, more: Files = {}) =>
      register({ ...files, 'g/reward.onnx': graph, ...more });
    t.match(await withGraph(graphReading('weights.data'), { 'g/weights.data': 'x' }), { status: 201 });
    t.match(await withGraph(graphReading('weights.data')), {
      status: 422,
      body: { detail: /g\/reward\.onnx reads weights of g\/weights\.data, which is missing/ },
    });
    for (const outside of ['../config.json', '/etc/passwd', 'a/../../x', 'C:\\x', '..\\x'])
      t.match(
        await withGraph(graphReading(outside)),
        {
          status: 422,
          body: { detail: /reads weights outside of its folder/ },
        },
        outside,
      );
    const broken: Record<string, Buffer> = {
      'no graph': Buffer.alloc(0),
      text: Buffer.from('<html>not found</html>'),
      'cut short': (tiny['reward.onnx'] as Buffer).subarray(0, 5000),
      'an endless number': Buffer.alloc(40, 0xff),
      'a deep nest': Buffer.concat(Array.from({ length: 60 }, () => Buffer.from([0x3a, 0x7f]))),
    };
    for (const [name, graph] of Object.entries(broken))
      t.match(
        await withGraph(graph),
        { status: 422, body: { detail: /g\/reward\.onnx is not an ONNX graph/ } },
        name,
      );
  });

  t.test('what is missing, or is something else, is named with what to do', async (t) => {
    const without = (...names: string[]) =>
      Object.fromEntries(Object.entries(tiny).filter(([name]) => !names.includes(name)));
    const card = JSON.parse(tiny['finegrain.json']!.toString());
    const golden = JSON.parse(tiny['golden.json']!.toString());
    golden.items[0].token_ids[0] += 1;
    const cases: [files: Files, detail: RegExp][] = [
      [without('config.json'), /config\.json is missing/],
      [without('tokenizer.json'), /tokenizer\.json is missing/],
      [without('finegrain.json'), /finegrain\.json is missing.*python -m finegrain_trainer export/],
      [without('golden.json'), /golden\.json is missing.*python -m finegrain_trainer export/],
      [without('reward.onnx'), /graph reward\.onnx.* is missing.*python -m finegrain_trainer export/],
      [{ ...tiny, 'finegrain.json': JSON.stringify({ ...card, onnx: undefined }) }, /names no ONNX graph/],
      [
        { ...tiny, 'finegrain.json': JSON.stringify({ ...card, role: 'policy' }) },
        /says that it is a policy model/,
      ],
      [
        { ...tiny, 'finegrain.json': JSON.stringify({ ...card, onnx: { ...card.onnx, file: '../x.onnx' } }) },
        /\/onnx\/file: is not a file of the folder/,
      ],
      [
        {
          ...tiny,
          'finegrain.json': JSON.stringify({ ...card, onnx: { ...card.onnx, file: 'golden.json' } }),
        },
        /golden\.json is not called ….onnx/,
      ],
      [{ ...tiny, 'config.json': 'no JSON' }, /config\.json is not JSON/],
      [{ ...tiny, 'config.json': '[]' }, /config\.json: must be object/],
      [{ ...tiny, 'tokenizer.json': '{}' }, /tokenizer\.json cannot be loaded/],
      [{ ...tiny, 'tokenizer.json': '[1' }, /tokenizer\.json cannot be loaded/],
      [
        { ...tiny, 'golden.json': JSON.stringify(golden) },
        /golden\.json at \/items\/0\/token_ids: the tokenizer gives other ids/,
      ],
      [
        { ...tiny, 'model.safetensors': Buffer.from('\x80\x04\x95pickled, and renamed') },
        /model\.safetensors is not safetensors: its header does not fit/,
      ],
      [
        {
          ...tiny,
          'model.safetensors': 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n',
        },
        /pointer of Git LFS/,
      ],
      [{ ...tiny, 'model.safetensors': 'x' }, /it is too short/],
      [
        { ...tiny, 'model.safetensors': (tiny['model.safetensors'] as Buffer).subarray(0, -4) },
        /the tensor ".*" does not lie in the file/,
      ],
      [
        { ...tiny, 'tokenizer.json': Buffer.alloc(64 * 1024 ** 2 + 1, 0x20) },
        /tokenizer\.json has 67108865 bytes, more than 67108864/,
      ],
    ];
    for (const [files, detail] of cases)
      t.match(
        await register(files),
        { status: 422, body: { code: 'unprocessable', detail, errors: [{ pointer: '/files' }] } },
        `${detail}`,
      );
    for (const name of ['pytorch_model.bin', 'weights.pt', 'a/b.PKL', 'last.ckpt', 'w.npz'])
      t.match(
        await register({ ...tiny, [name]: 'x' }),
        {
          status: 422,
          body: {
            detail: /name of a pickle/,
            errors: [{ pointer: `/files/${Object.keys(tiny).length}/path` }],
          },
        },
        name,
      );
    for (const path of [
      '../up',
      '/etc/passwd',
      'a//b',
      '.hidden',
      'a/../b',
      'a\\b',
      'C:x',
      'dot.',
      'ü',
      '..',
    ])
      t.match(
        await register({ ...tiny, [path]: 'x' }),
        { status: 422, body: { detail: /is no path within a folder/ } },
        path,
      );
    t.match(await register({ ...tiny, 'Config.json': 'x' }), {
      status: 422,
      body: { detail: /is there already: config\.json/ },
    });
    t.match(await register({ ...tiny, 'config.json/a': 'x' }), {
      status: 422,
      body: { detail: /lies in config\.json, which is a file/ },
    });
  });

  t.test(
    'a graph that computes something else is registered, and refused with the reason when it is loaded',
    async (t) => {
      const golden = JSON.parse(tiny['golden.json']!.toString());
      golden.items[0].rewards[0] += 1;
      const { id } = (await register({ ...tiny, 'golden.json': JSON.stringify(golden) })).body;
      t.match(await call('POST', `/v1/models/${id}/warm`), {
        status: 200,
        body: { state: 'refused', reason: /golden\.json at \/items\/0\/rewards\/0: the model gives/ },
      });
      t.match((await call('GET', `/v1/models/${id}/serving`)).body, {
        state: 'refused',
        reason: /golden\.json/,
      });
      const unreadable = (await register({ ...tiny, 'reward.onnx': graphReading('w'), w: 'x' })).body;
      t.match(await call('POST', `/v1/models/${unreadable.id}/warm`), {
        status: 200,
        body: { state: 'refused', reason: /reward\.onnx cannot be loaded/ },
      });
    },
  );

  t.test('errors of the request', async (t) => {
    const [file] = await upload({ 'config.json': '{}' });
    const json = { name: 'x', role: 'policy', files: [file] };
    const send = (changes: object) => call('POST', '/v1/models', { json: { ...json, ...changes } });
    for (const wrong of [
      { name: '' },
      { role: 'judge' },
      { files: [] },
      { files: [{ path: 'a' }] },
      { files: [{ path: 'a', digest: 'sha256:x' }] },
      { files: Array.from({ length: 201 }, () => file) },
      { metrics: { accuracy: 'good' } },
      { alias: 'x' },
    ])
      t.match(
        await send(wrong),
        { status: 400, body: { code: 'invalid_request' } },
        JSON.stringify(wrong).slice(0, 80),
      );
    t.match(await call('POST', '/v1/models/nothing/warm'), { status: 404 });
    t.match(await call('GET', '/v1/models/nothing/serving'), { status: 404 });
    t.match(await call('POST', '/v1/models/token-reward/warm?wait_seconds=61'), { status: 400 });
  });

  t.test('security: files of another project are as if they were not there', async (t) => {
    const stranger = await server.otherProjectKey();
    const files = await upload(tiny);
    const json = { name: 'stolen', role: 'token_reward', files };
    t.match(await call('POST', '/v1/models', { json, key: stranger }), {
      status: 404,
      body: { code: 'not_found', errors: [{ pointer: '/files/0/digest' }] },
    });
    const own = await upload(tiny, stranger);
    const made = await call('POST', '/v1/models', { json: { ...json, files: own }, key: stranger });
    t.equal(made.status, 201);
    for (const [method, path] of [
      ['POST', `/v1/models/${made.body.id}/warm`],
      ['GET', `/v1/models/${made.body.id}/serving`],
    ] as const)
      t.match(await call(method, path), { status: 404 }, `${method} ${path} of another project`);
    t.match(await call('POST', '/v1/models', { json, key: await server.keyWith('read', 'score') }), {
      status: 403,
    });
  });
});
