import t from 'tap';
import { registerTinyModel } from '../support/models.ts';
import { startTestServer } from '../support/server.ts';

t.test('/v1/tokenize', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const tokenize = (json: unknown) => call('POST', '/v1/tokenize', { json });

  await t.test('without a model', async (t) => {
    t.match(await tokenize({ prompt: 'Hi' }), { status: 404, body: { errors: [{ pointer: '/model' }] } });
  });

  const id = await registerTinyModel(server, { alias: 'token-reward' });

  t.test('responses: exactly the tokens that are scored', async (t) => {
    const responses = ['Hello there', '👍 日 ok', '', '<|eos|>'];
    for (const unit of ['utf16', 'codepoint', 'byte']) {
      const { status, body } = await tokenize({ responses, unit });
      t.equal(status, 200);
      t.match(body, { model: { id, alias: 'token-reward' }, context_length: 64, unit, prompt: null });
      const scored = await call('POST', '/v1/score', { json: { prompt: 'Hi', responses, unit } });
      for (const [index, { token_ids, tokens, offsets }] of scored.body.results.entries())
        t.same(body.responses[index], {
          token_count: token_ids.length,
          token_ids,
          tokens,
          offsets,
          truncated: false,
        });
    }
  });

  t.test('prompts: what the model reads, format included', async (t) => {
    const { prompt } = (await tokenize({ prompt: 'Say hello.' })).body;
    t.same([prompt.token_ids.slice(0, 2), prompt.token_ids.at(-1)], [[1, 4], 5], 'BOS, user … assistant');
    t.same([prompt.messages.slice(0, 3), prompt.messages.at(-1)], [[null, null, 0], null]);
    t.same([prompt.offsets.slice(0, 2), prompt.offsets.at(-1)], [[null, null], null]);
    t.equal(prompt.tokens.join(''), 'Say hello.');
    t.equal(prompt.token_count, prompt.token_ids.length);
    const scored = await call('POST', '/v1/score', { json: { prompt: 'Say hello.', responses: ['a'] } });
    t.equal(prompt.token_count, scored.body.results[0].prompt_token_count);

    const contents = ['Be kind.', '<|user|> é'];
    const conversation = (
      await tokenize({
        unit: 'byte',
        prompt: [
          { role: 'system', content: contents[0] },
          { role: 'user', content: contents[1] },
        ],
      })
    ).body.prompt;
    for (const [message, content] of contents.entries()) {
      const places = conversation.messages.flatMap((of: number | null, at: number) =>
        of === message ? [at] : [],
      );
      t.equal(places.map((at: number) => conversation.tokens[at]).join(''), content);
      t.equal(conversation.offsets[places.at(-1)][1], Buffer.byteLength(content!));
      t.notOk(
        places.some((at: number) => conversation.token_ids[at] < 6),
        'text never is a control token',
      );
    }
  });

  t.test('what is longer than the context is counted whole and listed as far as it is read', async (t) => {
    const megabyte = 'Hello there. '.repeat(76_923).slice(0, 1_000_000);
    const { body } = await tokenize({ prompt: megabyte, responses: [megabyte, 'Hello'] });
    const [long, short] = body.responses;
    t.match(long, { truncated: true, token_ids: { length: 64 }, offsets: { length: 64 } });
    t.ok(long.token_count > 100_000);
    t.ok(megabyte.startsWith(long.tokens.join('')));
    t.match(short, { truncated: false });
    t.match(body.prompt, { truncated: true, token_ids: { length: 64 }, messages: { length: 64 } });
    t.equal(body.prompt.token_count, long.token_count + 3);
  });

  t.test('an answer is bounded for models that read much, too', async (t) => {
    const reads = (text: string) => JSON.stringify({ ...JSON.parse(text), context_length: 400_000 });
    const model = await registerTinyModel(server, { changes: { 'finegrain.json': reads } });
    const responses = new Array(3).fill('0123456789'.repeat(40_000)); // a token for each digit
    t.match(await tokenize({ model, responses }), {
      status: 422,
      body: { code: 'unprocessable', detail: /more than 1000000 tokens/ },
    });
  });

  t.test('a model of any role, as long as it has a tokenizer', async (t) => {
    const policy = await registerTinyModel(server, { role: 'policy' });
    t.match((await tokenize({ model: policy, responses: ['Hello'] })).body, {
      model: { id: policy, alias: null },
      responses: [{ tokens: Array }],
    });
    const without = await registerTinyModel(server, { changes: { 'tokenizer.json': null } });
    t.match(await tokenize({ model: without, responses: ['Hello'] }), {
      status: 422,
      body: { detail: /tokenizer\.json is missing/ },
    });
  });

  t.test('errors', async (t) => {
    const refusals: [number, unknown, string][] = [
      [422, {}, ''],
      [422, { responses: [] }, ''],
      [400, { responses: ['a'], text: 'a' }, '/text'],
      [400, { responses: new Array(257).fill('a') }, '/responses'],
      [400, { responses: ['a'.repeat(1_000_001)] }, '/responses/0'],
      [400, { responses: [1] }, '/responses/0'],
      [400, { prompt: [{ role: 'tool', content: 'a' }] }, '/prompt/0/role'],
      [422, { responses: ['a\udc00'] }, '/responses/0'],
      [404, { prompt: 'a', model: 'nothing' }, '/model'],
    ];
    for (const [status, json, pointer] of refusals) {
      const answer = await tokenize(json);
      t.equal(answer.status, status, JSON.stringify(json).slice(0, 60));
      t.equal(answer.body.errors.at(-1).pointer, pointer);
    }
    const large = { responses: new Array(10).fill('b'.repeat(999_999)) };
    t.match(await tokenize(large), { status: 413, body: { code: 'content_too_large' } });
  });

  t.test('security', async (t) => {
    const stranger = await server.otherProjectKey();
    for (const json of [{ prompt: 'a' }, { prompt: 'a', model: id }])
      t.match(await call('POST', '/v1/tokenize', { key: stranger, json }), { status: 404 });
  });
});
