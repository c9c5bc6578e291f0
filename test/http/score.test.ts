import { once } from 'node:events';
import t from 'tap';
import { Value } from 'typebox/value';
import { FailedItem, ScoreAnswer, ScoredItem } from '../../src/http/routes/score.ts';
import { registerTinyModel, tinyModelWithNaN } from '../support/models.ts';
import { openSocket } from '../support/raw-http.ts';
import { eventually } from '../support/scorer-processes.ts';
import { startTestServer } from '../support/server.ts';

const one = { prompt: 'Say hello.', responses: ['Hello there'] };

t.test('/v1/score', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const score = (json: unknown) => call('POST', '/v1/score', { json });

  await t.test('without a model', async (t) => {
    t.match(await score(one), {
      status: 404,
      body: { code: 'not_found', detail: /PUT \/v1\/aliases\/token-reward/, errors: [{ pointer: '/model' }] },
    });
  });

  const id = await registerTinyModel(server, { alias: 'token-reward' });

  t.test('happy', async (t) => {
    const answer = await score({ ...one, responses: ['Hello there', 'I am fine.', ''] });
    t.match(answer, {
      status: 200,
      body: {
        model: { id, alias: 'token-reward', digest: /^sha256:/, tokenizer_digest: /^sha256:/ },
        unit: 'utf16',
      },
    });
    const [hello, fine, empty] = answer.body.results;
    t.match(hello, { status: 'ok', prompt_token_count: Number, truncated: false });
    t.ok(Value.Check({ ScoredItem, FailedItem }, ScoreAnswer, answer.body), 'as the document says');
    t.equal(hello.tokens.join(''), 'Hello there');
    t.equal(hello.rewards.length, hello.token_ids.length);
    t.equal(hello.offsets.length, hello.token_ids.length);
    t.equal(
      hello.reward,
      hello.rewards.reduce((sum: number, reward: number) => sum + reward, 0),
    );
    t.equal(hello.mean_reward, hello.reward / hello.rewards.length);
    t.same(
      { ...empty, prompt_token_count: 0 },
      {
        status: 'ok',
        token_ids: [],
        tokens: [],
        offsets: [],
        rewards: [],
        reward: 0,
        mean_reward: null,
        prompt_token_count: 0,
        truncated: false,
      },
      'a response without text has no tokens',
    );

    const items = [
      { prompt: [{ role: 'user', content: 'Say hello.' }], response: 'I am fine.' },
      { prompt: 'Say hello.', response: 'Hello there' },
    ];
    const byItems = await score({ model: id, items });
    t.match(byItems.body.model, { id, alias: null });
    t.same(byItems.body.results, [fine, hello], 'items give the same, exactly, alone or among others');
  });

  t.test('offsets tile the response in the unit that was asked for', async (t) => {
    const response = '👩‍👩‍👧 e\u0301\r\n日 ok';
    const lengths = {
      utf16: response.length,
      codepoint: [...response].length,
      byte: Buffer.byteLength(response),
    };
    const slices = {
      utf16: (start: number, end: number) => response.slice(start, end),
      codepoint: (start: number, end: number) => [...response].slice(start, end).join(''),
      byte: (start: number, end: number) => Buffer.from(response).subarray(start, end).toString(),
    };
    const rewards: number[][] = [];
    for (const unit of ['utf16', 'codepoint', 'byte'] as const) {
      const { body } = await score({ prompt: 'Hi', responses: [response], unit });
      const [item] = body.results;
      t.equal(body.unit, unit);
      let end = 0;
      for (const [index, offset] of item.offsets.entries()) {
        t.equal(offset[0], end);
        end = offset[1];
        t.equal(slices[unit](offset[0], offset[1]), item.tokens[index]);
      }
      t.equal(end, lengths[unit]);
      t.ok(item.tokens.includes('日'), 'the last of the tokens that share a character owns it');
      t.ok(item.tokens.includes(''), 'and the others are empty');
      rewards.push(item.rewards);
    }
    t.same(rewards[1], rewards[0]);
    t.same(rewards[2], rewards[0]);
  });

  t.test('the end of the response is scored when asked for', async (t) => {
    const [plain] = (await score(one)).body.results;
    const [withEos] = (await score({ ...one, include_eos: true })).body.results;
    const last = withEos.token_ids.length - 1;
    t.equal(last, plain.token_ids.length);
    t.match(withEos, { tokens: { [last]: '' }, offsets: { [last]: [11, 11] }, token_ids: { [last]: 2 } });
    t.same(withEos.rewards.slice(0, last), plain.rewards);
    t.match((await score({ prompt: 'Hi', responses: [''], include_eos: true })).body.results[0], {
      token_ids: [2],
      offsets: [[0, 0]],
      mean_reward: Number,
    });
  });

  t.test('what is too long is an error of its own, unless truncation was asked for', async (t) => {
    const long = 'Hello there, how are you today? '.repeat(5);
    const answer = await score({ ...one, responses: ['Hello there', long] });
    t.match(answer.body.results, [
      { status: 'ok' },
      { status: 'error', code: 'too_long', detail: /the model reads 64 in all\. .* set truncate/ },
    ]);
    const { body } = await score({
      ...one,
      responses: ['Hello there', long],
      truncate: true,
      include_eos: true,
    });
    const [whole, cut] = body.results;
    t.match(whole, { truncated: false, token_ids: { length: answer.body.results[0].token_ids.length + 1 } });
    t.match(cut, { status: 'ok', truncated: true, token_ids: { length: 64 - cut.prompt_token_count } });
    t.ok(long.startsWith(cut.tokens.join('')));
    const beginning = await score({ ...one, responses: [cut.tokens.slice(0, 8).join('')] });
    t.same(
      beginning.body.results[0].rewards,
      cut.rewards.slice(0, 8),
      'rewards do not depend on where it is cut',
    );
    t.match((await score({ prompt: long, responses: ['Hello'], truncate: true })).body.results, [
      { status: 'error', code: 'too_long', detail: /leaves no room/ },
    ]);
    const room = 'a'.repeat(64 - cut.prompt_token_count);
    t.match((await score({ ...one, responses: [room] })).body.results[0], { status: 'ok' }, 'exactly full');
    t.match((await score({ ...one, responses: [room], include_eos: true })).body.results[0], {
      code: 'too_long',
    });
    t.match((await score({ ...one, responses: [room], include_eos: true, truncate: true })).body.results[0], {
      status: 'ok',
      truncated: true,
      token_ids: { length: room.length },
    });
  });

  t.test('text that spells a control token is scored as text', async (t) => {
    const [item] = (await score({ prompt: '<|user|>', responses: ['<|eos|>'] })).body.results;
    t.ok(item.token_ids.length > 3);
    t.notOk(item.token_ids.some((tokenId: number) => tokenId < 6));
    t.equal(item.tokens.join(''), '<|eos|>');
  });

  t.test('an item that the model cannot compute fails alone', async (t) => {
    const { changes, text } = await tinyModelWithNaN();
    const model = await registerTinyModel(server, { changes });
    const { body } = await score({ model, prompt: 'Say hello.', responses: ['Hello', text, 'Hello'] });
    t.match(body.results, [{ status: 'ok' }, { status: 'error', code: 'not_finite' }, { status: 'ok' }]);
    t.same(body.results[0], body.results[2]);
  });

  t.test('a response of one token, and one of a megabyte among others', async (t) => {
    const megabyte = 'Hello there. '.repeat(76_924).slice(0, 1_000_000);
    const { body } = await score({ ...one, responses: ['!', megabyte, '!'] });
    const [single, long, again] = body.results;
    t.match(single, { status: 'ok', token_ids: { length: 1 }, rewards: { length: 1 }, offsets: [[0, 1]] });
    t.equal(single.mean_reward, single.reward);
    t.match(long, { status: 'error', code: 'too_long' });
    t.same(again, single);
    const cut = (await score({ ...one, responses: [megabyte], truncate: true })).body.results[0];
    t.match(cut, { status: 'ok', truncated: true, token_ids: { length: 64 - cut.prompt_token_count } });
    t.match(await score({ ...one, responses: [`${megabyte}!`] }), {
      status: 400,
      body: { errors: [{ pointer: '/responses/0' }] },
    });
  });

  t.test('errors', async (t) => {
    const misfits: [string, unknown, object][] = [
      ['an unknown field', { ...one, temperature: 1 }, { pointer: '/temperature' }],
      [
        'an unknown field of an item',
        { items: [{ prompt: 'a', response: 'b', id: 1 }] },
        { pointer: '/items/0/id' },
      ],
      ['no items', { items: [] }, { pointer: '/items' }],
      ['too many', { prompt: 'a', responses: new Array(257).fill('b') }, { pointer: '/responses' }],
      [
        'another unit',
        { ...one, unit: 'word' },
        { pointer: '/unit', detail: /"utf16", "codepoint", "byte"/ },
      ],
      ['a number', { prompt: 'a', responses: [1] }, { pointer: '/responses/0' }],
      [
        'another role',
        { prompt: [{ role: 'tool', content: 'a' }], responses: ['b'] },
        { pointer: '/prompt/0/role' },
      ],
    ];
    const neitherForm: [string, unknown, object][] = [
      ['no form', {}, { pointer: '' }],
      ['no responses', { prompt: 'Hi' }, { pointer: '/responses' }],
      ['no prompt', { responses: ['Hi'] }, { pointer: '' }],
      ['both forms', { ...one, items: [{ prompt: 'a', response: 'b' }] }, { pointer: '/prompt' }],
    ];
    const refused = async (status: number, name: string, json: unknown, error: object) => {
      const answer = await score(json);
      t.equal(answer.status, status, name);
      t.match(answer.body.errors.at(-1), error, name);
    };
    for (const [name, json, error] of misfits) await refused(400, name, json, error);
    for (const [name, json, error] of neitherForm) await refused(422, name, json, error);
    const surrogate = { prompt: 'a', responses: ['\ud800'] };
    await refused(422, 'a lone surrogate', surrogate, { pointer: '/responses/0' });
    t.match(await score({ ...one, model: 'nothing' }), {
      status: 404,
      body: { errors: [{ pointer: '/model' }] },
    });
    const policy = await registerTinyModel(server, { role: 'policy' });
    t.match(await score({ ...one, model: policy }), {
      status: 422,
      body: { code: 'unprocessable', detail: /only a token_reward model can score/ },
    });
    const broken = await registerTinyModel(server, { changes: { 'golden.json': null } });
    t.match(await score({ ...one, model: broken }), {
      status: 422,
      body: { code: 'unprocessable', detail: /golden\.json is missing/ },
    });
    t.match(await call('POST', '/v1/score', { body: 'x', headers: { 'content-type': 'text/csv' } }), {
      status: 415,
    });
    const large = { prompt: 'a', responses: new Array(10).fill('b'.repeat(999_999)) };
    t.match(await score(large), { status: 413, body: { code: 'content_too_large' } });
  });

  t.test('a client that goes away takes its work back', async (t) => {
    const { scoring } = server.services;
    const client = new AbortController();
    const taken = new Promise<unknown>((resolve) => {
      server.services.scoring = {
        ...scoring,
        score: (_model, _sequences, signal) =>
          new Promise((_resolve, reject) => {
            signal.addEventListener('abort', () => {
              resolve(signal.reason);
              reject(signal.reason);
            });
            client.abort();
          }),
      };
    });
    await t.rejects(call('POST', '/v1/score', { json: one, signal: client.signal }), { name: 'AbortError' });
    t.match(await taken, { code: 'unavailable' });
    server.services.scoring = scoring;
  });

  t.test('a client that closes as soon as it has sent leaves nothing behind', async (t) => {
    const body = JSON.stringify({ ...one, responses: new Array(256).fill('Hello there') });
    const head = `POST /v1/score HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ${server.bootstrapKey}\r\ncontent-type: application/json\r\n`;
    for (const accept of ['*/*', 'application/x-ndjson', 'text/event-stream']) {
      for (const sent of [body.slice(0, 20), body]) {
        const socket = await openSocket(server.url);
        socket.write(`${head}accept: ${accept}\r\ncontent-length: ${body.length}\r\n\r\n${sent}`);
        socket.destroySoon();
        await once(socket, 'close');
      }
    }
    t.equal((await score(one)).status, 200);
    await eventually(() => server.services.scoring.figures().queuedTokens === 0);
  });

  t.test('security', async (t) => {
    const stranger = await server.otherProjectKey();
    t.match(await call('POST', '/v1/score', { key: stranger, json: { ...one, model: id } }), { status: 404 });
    t.match(await call('POST', '/v1/score', { key: stranger, json: one }), { status: 404 });
    const scorer = await server.keyWith('score');
    t.match(await call('POST', '/v1/score', { key: scorer, json: one }), { status: 200 });
  });
});
