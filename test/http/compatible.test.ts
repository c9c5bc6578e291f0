// /pooling and /get_reward as the clients of vLLM and OpenRLHF use them. The bodies are those that their programs send:
// vLLM's examples/pooling/reward/token_reward_online.py, OpenRLHF's utils/remote_rm_utils.py (0.5 to 0.8) and
// utils/agent.py (0.11).
import { once } from 'node:events';
import t from 'tap';
import { registerTinyModel, tinyModelWithNaN } from '../support/models.ts';
import { openSocket } from '../support/raw-http.ts';
import { startTestServer } from '../support/server.ts';

const long = 'Hello there, how are you today? '.repeat(5);
const flat = (data: number[][]): number[] => data.map(([reward]) => reward!);
const sum = (values: number[]): number => values.reduce((total, value) => total + value, 0);

t.test('routes of other servers', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const pool = (json: unknown) => call('POST', '/pooling', { json });
  const reward = (json: unknown) => call('POST', '/get_reward', { json });

  await t.test('without a model', async (t) => {
    t.match(await pool({ input: 'Hi' }), { status: 404, body: { errors: [{ pointer: '/model' }] } });
    t.match(await reward({ query: ['Hi'] }), { status: 404, body: { code: 'not_found' } });
  });

  const id = await registerTinyModel(server, { alias: 'token-reward' });
  const tokenIds = async (text: string): Promise<number[]> =>
    (await call('POST', '/v1/tokenize', { json: { responses: [text] } })).body.responses[0].token_ids;

  t.test("vLLM's client, with a text", async (t) => {
    const { status, body } = await pool({ model: 'token-reward', input: 'vLLM is great!' });
    t.equal(status, 200);
    t.match(body, { id: /^pooling-/, object: 'list', created: Number, model: 'token-reward' });
    t.ok(Math.abs(body.created - Date.now() / 1000) < 60);
    const tokens = 1 + (await tokenIds('vLLM is great!')).length;
    t.same(body.usage, {
      prompt_tokens: tokens,
      total_tokens: tokens,
      completion_tokens: 0,
      prompt_tokens_details: null,
    });
    t.equal(body.data.length, 1);
    t.match(body.data[0], { index: 0, object: 'pooling', data: { length: tokens } });
    t.ok(body.data[0].data.every((row: unknown[]) => row.length === 1 && typeof row[0] === 'number'));
  });

  t.test('a text, several, token ids: the same tokens have the same rewards', async (t) => {
    const ids = [1, ...(await tokenIds('Hello there'))];
    const other = [1, ...(await tokenIds('I am fine.'))];
    const data = async (json: object) => (await pool(json)).body.data;
    const [one] = await data({ input: 'Hello there' });
    t.same(await data({ input: ids }), [one]);
    const both = await data({ input: ['I am fine.', 'Hello there'], model: id });
    t.same(both[1], { ...one, index: 1 });
    t.same(await data({ input: [other, ids] }), both);
    t.same(await data({ input: '', add_special_tokens: false }), [{ index: 0, object: 'pooling', data: [] }]);
    const [withoutBos] = await data({ input: 'Hello there', add_special_tokens: false });
    t.equal(withoutBos.data.length, one.data.length - 1);
    t.same((await data({ input: ids.slice(1) }))[0], withoutBos);
  });

  t.test("vLLM's client, with a conversation", async (t) => {
    const messages = [
      { role: 'user', content: [{ type: 'text', text: 'Say hello.' }] },
      { role: 'assistant', content: 'Hello there', name: 'unknown fields are ignored' },
    ];
    const { body } = await pool({ model: 'token-reward', messages });
    const scored = await call('POST', '/v1/score', {
      json: { prompt: 'Say hello.', responses: ['Hello there'], include_eos: true },
    });
    const [{ rewards, prompt_token_count }] = scored.body.results;
    t.equal(body.usage.prompt_tokens, prompt_token_count + rewards.length);
    t.same(flat(body.data[0].data).slice(prompt_token_count), rewards, 'the response as of POST /v1/score');
    const open = await pool({ messages, continue_final_message: true });
    t.same(open.body.data[0].data, body.data[0].data.slice(0, -1), 'without what ends it');
    const asking = await pool({ messages: messages.slice(0, 1), add_generation_prompt: true });
    t.same(asking.body.data[0].data, body.data[0].data.slice(0, prompt_token_count));
  });

  t.test('what an SDK sends of defaults changes nothing; base64 holds the same numbers', async (t) => {
    const [plain] = (await pool({ input: 'Hello there' })).body.data;
    const defaults = {
      user: null,
      truncate_prompt_tokens: null,
      truncation_side: null,
      request_id: 'b2f1',
      priority: 0,
      cache_salt: null,
      add_special_tokens: true,
      encoding_format: 'float',
      embed_dtype: 'float32',
      endianness: 'native',
      dimensions: null,
      use_activation: null,
      task: 'token_classify',
    };
    t.same((await pool({ model: null, input: 'Hello there', ...defaults })).body.data, [plain]);
    const { body } = await pool({ input: 'Hello there', encoding_format: 'base64' });
    const bytes = Buffer.from(body.data[0].data, 'base64');
    t.same(
      flat(plain.data).map((_, index) => bytes.readFloatLE(4 * index)),
      flat(plain.data),
    );
    t.equal(bytes.length, 4 * plain.data.length);
  });

  t.test('truncation is as asked for', async (t) => {
    const ids = [1, ...(await tokenIds(long))];
    const data = async (json: object) => (await pool(json)).body.data;
    t.same(await data({ input: long, truncate_prompt_tokens: -1 }), await data({ input: ids.slice(-64) }));
    t.same(await data({ input: long, truncate_prompt_tokens: 8 }), await data({ input: ids.slice(-8) }));
    t.same(
      await data({ input: long, truncate_prompt_tokens: 8, truncation_side: 'right' }),
      await data({ input: ids.slice(0, 8) }),
    );
    t.match(await pool({ input: ['Hello', long] }), {
      status: 422,
      body: {
        code: 'unprocessable',
        detail: /^\/input\/1 cannot be scored\. too_long: it has \d+ tokens, and the model reads 64/,
        errors: [{ pointer: '/input/1', in: 'body' }],
      },
    });
    t.match(await pool({ input: long, truncate_prompt_tokens: 65 }), { status: 422 });
  });

  t.test("OpenRLHF's client before 0.6: queries alone", async (t) => {
    const query = ['Say hello.Hello there', 'Say hello.I am fine.', ''];
    const { status, body } = await reward({ query });
    t.equal(status, 200);
    t.same(body.scores, body.rewards);
    t.same(body.extra_logs, { dummy_scores: body.rewards });
    const pooled = (await pool({ input: query })).body.data;
    t.same(
      body.rewards,
      pooled.map(({ data }: { data: number[][] }) => sum(flat(data).slice(1))),
      'the sum over all tokens but BOS, in order',
    );
    t.equal(body.rewards[2], 0);
  });

  t.test(
    "OpenRLHF's client from 0.6 on: prompts say where responses begin; labels are nothing",
    async (t) => {
      const query = ['Say hello.Hello there', 'Say hello.I am fine.', 'Say hello.'];
      const prompts = ['Say hello.', 'Say hello.', 'Say hello.'];
      const { body } = await reward({ query, prompts, labels: [null, '42', null] });
      const prompt = [1, ...(await tokenIds('Say hello.'))];
      const whole = await Promise.all(
        ['Hello there', 'I am fine.'].map(async (response) => [...prompt, ...(await tokenIds(response))]),
      );
      const pooled = (await pool({ input: whole })).body.data;
      t.same(body.rewards, [
        ...pooled.map(({ data }: { data: number[][] }) => sum(flat(data).slice(prompt.length))),
        0,
      ]);
      const unknown = await reward({ query, prompts: ['Something else', null, 'Say hello.'] });
      const alone = await reward({ query });
      t.same(unknown.body.rewards, [alone.body.rewards[0], alone.body.rewards[1], 0]);
      const one = { query: query.slice(0, 1), prompts: prompts.slice(0, 1), labels: [''] }; // as 0.11 sends them
      t.same((await reward(one)).body.rewards, [body.rewards[0]]);
    },
  );

  t.test('text that spells a control token is scored as text', async (t) => {
    const spelled = await tokenIds('<|eos|>');
    t.ok(spelled.length > 3);
    t.equal((await pool({ input: '<|eos|>' })).body.usage.prompt_tokens, spelled.length + 1);
    const [asText] = (await reward({ query: ['<|eos|>'] })).body.rewards;
    const [pooled] = (await pool({ input: [1, ...spelled] })).body.data;
    t.equal(asText, sum(flat(pooled.data).slice(1)));
  });

  t.test('a model that gives NaN is an error, never null', async (t) => {
    const { changes, text } = await tinyModelWithNaN();
    const model = await registerTinyModel(server, { changes });
    t.match(await pool({ model, input: ['Hello', text] }), {
      status: 422,
      body: { detail: /not_finite/, errors: [{ pointer: '/input/1' }] },
    });
    const alias = await call('PUT', '/v1/aliases/token-reward', { json: { model_id: model } });
    t.equal(alias.status, 200);
    t.match(await reward({ query: ['Hello', text] }), {
      status: 422,
      body: { errors: [{ pointer: '/query/1' }] },
    });
    await call('PUT', '/v1/aliases/token-reward', { json: { model_id: id } });
  });

  t.test('errors', async (t) => {
    const refusals: [number, string, unknown, string][] = [
      [422, '/pooling', {}, ''],
      [422, '/pooling', { input: 'a', messages: [{ role: 'user', content: 'a' }] }, '/messages'],
      [422, '/pooling', { input: 'a\ud800' }, '/input'],
      [422, '/pooling', { input: [1, 319, 320] }, '/input'],
      [422, '/pooling', { input: [[5], [2_000_000_000]] }, '/input/1'],
      [404, '/pooling', { input: 'a', model: 'Qwen/Qwen3-0.6B' }, '/model'],
      [400, '/pooling', { input: [] }, '/input'],
      [400, '/pooling', { input: [1, 'a'] }, '/input'],
      [400, '/pooling', { input: [-1] }, '/input/0'],
      [400, '/pooling', { input: new Array(1025).fill('a') }, '/input'],
      [400, '/pooling', { input: 'a', task: 'embed' }, '/task'],
      [400, '/pooling', { input: 'a', encoding_format: 'bytes' }, '/encoding_format'],
      [400, '/pooling', { messages: [{ role: 'tool', content: 'a' }] }, '/messages/0/role'],
      [422, '/get_reward', { query: ['a', long] }, '/query/1'],
      [422, '/get_reward', { query: ['a'], prompts: ['a', 'b'] }, '/prompts'],
      [422, '/get_reward', { query: ['\udc00'] }, '/query/0'],
      [400, '/get_reward', {}, '/query'],
      [400, '/get_reward', { query: 'a' }, '/query'],
      [400, '/get_reward', { query: [] }, '/query'],
    ];
    for (const [status, path, json, pointer] of refusals) {
      const answer = await call('POST', path, { json });
      const name = `${path} ${JSON.stringify(json).slice(0, 80)}`;
      t.equal(answer.status, status, name);
      t.ok(
        answer.body.errors?.some((error: { pointer: string }) => error.pointer === pointer),
        `${name}: ${JSON.stringify(answer.body).slice(0, 300)}`,
      );
    }
    for (const path of ['/pooling', '/get_reward']) {
      const large = { [path === '/pooling' ? 'input' : 'query']: new Array(10).fill('b'.repeat(999_999)) };
      t.match(await call('POST', path, { json: large }), {
        status: 413,
        body: { code: 'content_too_large' },
      });
      t.match(await call('GET', path), { status: 405 });
    }
  });

  t.test('a client that closes at once is no trouble', async (t) => {
    const body = JSON.stringify({ query: ['Hello'] });
    const head = `POST /get_reward HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ${server.bootstrapKey}\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`;
    for (const part of [head, head + body]) {
      const socket = await openSocket(server.url);
      socket.end(part);
      socket.destroySoon();
      await once(socket, 'close');
    }
    t.equal((await reward({ query: ['Hello'] })).status, 200);
  });

  t.test(
    'security: OpenRLHF, which can be given a URL only, has the key in it as the password',
    async (t) => {
      const basic = (credentials: string) => ({ authorization: `Basic ${btoa(credentials)}` });
      const key = await server.keyWith('score');
      const send = (path: string, headers: Record<string, string>) =>
        call('POST', path, { key: null, headers, json: { query: ['Hello'], input: 'Hello' } });
      t.match(await send('/get_reward', basic(`key:${key}`)), { status: 200, body: { rewards: [Number] } });
      t.match(await send('/get_reward', basic(`:${key}`)), { status: 200 });
      for (const credentials of [`key:${key}x`, key, 'key:', '', `${key}:key`])
        t.match(await send('/get_reward', basic(credentials)), { status: 401 }, credentials);
      t.match(await send('/get_reward', { authorization: 'Basic !' }), { status: 401 });
      t.match(await send('/get_reward', basic(`key:${await server.keyWith('read')}`)), { status: 403 });
      t.match(await send('/pooling', basic(`key:${key}`)), { status: 401 }, 'vLLM sends it in a header');
      t.match(await call('POST', '/v1/score', { key: null, headers: basic(`key:${key}`), json: {} }), {
        status: 401,
      });
      const stranger = await server.otherProjectKey();
      t.match(await call('POST', '/pooling', { key: stranger, json: { input: 'a', model: id } }), {
        status: 404,
      });
    },
  );
});
