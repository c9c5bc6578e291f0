import t from 'tap';
import { Value } from 'typebox/value';
import { alignTexts } from '../../src/domain/alignment.ts';
import { segmentRewards } from '../../src/domain/segment-rewards.ts';
import type { Span } from '../../src/domain/text.ts';
import { Comparison, ScoredItem } from '../../src/http/routes/score.ts';
import { openApiDocument } from '../../src/openapi.ts';
import { registerTinyModel, tinyModelWithNaN } from '../support/models.ts';
import { startTestServer } from '../support/server.ts';

const edit = { prompt: 'Say hello.', original: 'Hello there, ox.', edited: 'Hello there, friend.' };

interface Part {
  original_reward: number;
  edited_reward: number;
  difference: number;
}
const sum = (values: number[]): number => values.reduce((total, value) => total + value, 0);

t.test('the example in the document adds up', async (t) => {
  const { components } = JSON.parse(await openApiDocument());
  const schema = (name: string) => components.schemas[name].examples[0];
  const request = schema('ComparisonRequest');
  const { segments, end, original, edited, ...whole } = schema('Comparison');
  const withCovers = (text: string, { offsets, rewards }: { offsets: Span[]; rewards: number[] }) => ({
    text,
    covers: offsets,
    rewards,
  });
  const alignment = alignTexts(request.original, request.edited);
  const rewards = segmentRewards(
    alignment.segments,
    withCovers(request.original, original),
    withCovers(request.edited, edited),
  );
  const rounded = (value: unknown) =>
    JSON.parse(
      JSON.stringify(value, (_, field) => (typeof field === 'number' ? Number(field.toFixed(3)) + 0 : field)),
    );
  t.same({ segments, end }, rounded(rewards));
  t.equal(whole.difference, rounded(edited.reward - original.reward));
  t.same([whole.minimal, whole.warnings], [alignment.minimal, alignment.warnings]);
});

t.test('/v1/score/compare', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const compare = (json: unknown) => call('POST', '/v1/score/compare', { json });
  const near = (found: number, wanted: number, what: string) => t.ok(Math.abs(found - wanted) < 1e-9, what);
  const checkSums = (body: Part & { segments: Part[]; end: Part }) => {
    for (const side of ['original_reward', 'edited_reward', 'difference'] as const)
      near(
        sum([...body.segments, body.end].map((part) => part[side])),
        body[side],
        `${side}: segments and the end sum to the whole`,
      );
  };

  await t.test('without a model', async (t) => {
    t.match(await compare(edit), { status: 404, body: { errors: [{ pointer: '/model' }] } });
  });

  const id = await registerTinyModel(server, { alias: 'token-reward' });

  t.test('happy', async (t) => {
    const { status, body } = await compare(edit);
    t.equal(status, 200);
    t.match(body, {
      model: { id, alias: 'token-reward', digest: /^sha256:/ },
      unit: 'utf16',
      segments: [
        { kind: 'keep', original: [0, 13], edited: [0, 13], difference: 0 },
        { kind: 'replace', original: [13, 15], edited: [13, 19] },
        { kind: 'keep', original: [15, 16], edited: [19, 20] },
      ],
      minimal: true,
      warnings: [],
    });
    t.ok(Value.Check({ ScoredItem }, Comparison, body), 'as the document says');
    checkSums(body);

    const { body: scored } = await call('POST', '/v1/score', {
      json: { prompt: edit.prompt, responses: [edit.original, edit.edited], include_eos: true },
    });
    t.same([body.original, body.edited], scored.results, 'what POST /v1/score says, the end included');
    t.equal(body.original_reward, body.original.reward);
    t.equal(body.edited_reward, body.edited.reward);
    t.equal(body.difference, body.edited.reward - body.original.reward);
    t.equal(body.end.original_reward, body.original.rewards.at(-1));
    t.equal(body.end.edited_reward, body.edited.rewards.at(-1));
    t.ok(body.end.difference !== 0 && body.segments[1].difference !== 0, 'the model tells them apart');

    const swapped = (await compare({ ...edit, original: edit.edited, edited: edit.original, model: id }))
      .body;
    t.match(swapped.model, { id, alias: null });
    t.equal(swapped.difference, -body.difference);
  });

  t.test(
    'an insertion has no reward in the original; at the end the difference is that of EOS',
    async (t) => {
      const { body } = await compare({ ...edit, original: 'Hello', edited: 'Hello there.' });
      t.match(body.segments, [
        { kind: 'keep', difference: 0 },
        { kind: 'insert', original: [5, 5], edited: [5, 12], original_reward: 0 },
      ]);
      t.ok(body.end.difference !== 0);
      checkSums(body);
    },
  );

  t.test('spans are in the unit that was asked for, rewards the same', async (t) => {
    const texts = { original: '👍 Hello', edited: '👍 Hey' };
    const answers = await Promise.all(
      ['utf16', 'codepoint', 'byte'].map((unit) => compare({ prompt: 'Hi', ...texts, unit })),
    );
    const [utf16, codepoint, byte] = answers.map(({ body }) => body);
    const spans = (body: typeof utf16) => body.segments.at(-1).original;
    t.same(
      [spans(utf16), spans(codepoint), spans(byte)],
      [
        [3, 8],
        [2, 7],
        [5, 10],
      ],
    );
    t.equal(byte.original.offsets.at(-1)[1], 10);
    for (const body of [codepoint, byte]) {
      t.same(body.end, utf16.end);
      t.same(
        body.segments.map((part: Part) => part.difference),
        utf16.segments.map((part: Part) => part.difference),
      );
    }
  });

  t.test('equal and empty versions, conversations', async (t) => {
    t.match((await compare({ ...edit, edited: edit.original })).body, {
      segments: [{ kind: 'keep', difference: 0 }],
      difference: 0,
      warnings: [{ code: 'identical' }],
    });
    const empty = (await compare({ ...edit, original: '', edited: '' })).body;
    t.match(empty, { segments: [], difference: 0 });
    t.equal(empty.original_reward, empty.end.original_reward);
    const conversation = [{ role: 'user', content: edit.prompt }];
    t.same(
      (await compare({ ...edit, prompt: conversation })).body,
      (await compare(edit)).body,
      'a prompt is one message of the user',
    );
    t.match((await compare({ ...edit, edited: 'No' })).body, {
      minimal: false,
      warnings: [{ code: 'no_common_text' }],
    });
  });

  t.test('errors', async (t) => {
    const long = 'Hello there, how are you today? '.repeat(5);
    t.match(await compare({ ...edit, edited: long }), {
      status: 422,
      body: {
        code: 'unprocessable',
        detail: /^\/edited cannot be scored\. too_long: .* the model reads 64 in all/,
        errors: [{ pointer: '/edited', in: 'body' }],
      },
    });
    t.match((await compare({ ...edit, original: long, edited: long })).body.errors, [
      { pointer: '/original' },
      { pointer: '/edited' },
    ]);
    const scored = (await compare(edit)).body.original;
    const room = 'a'.repeat(64 - scored.prompt_token_count);
    t.match(await compare({ ...edit, edited: room.slice(1) }), { status: 200 }, 'exactly full');
    t.match(await compare({ ...edit, edited: room }), { status: 422 }, 'the end needs a place as well');

    const { changes, text } = await tinyModelWithNaN();
    const broken = await registerTinyModel(server, { changes });
    t.match(await compare({ ...edit, model: broken, original: text }), {
      status: 422,
      body: { detail: /not_finite/, errors: [{ pointer: '/original' }] },
    });

    const policy = await registerTinyModel(server, { role: 'policy' });
    t.match(await compare({ ...edit, model: policy }), {
      status: 422,
      body: { detail: /only a token_reward model can score/ },
    });
    t.match(await compare({ ...edit, model: 'nothing' }), { status: 404 });

    const misfits: [string, unknown, object][] = [
      ['no prompt', { original: 'a', edited: 'b' }, { pointer: '/prompt' }],
      ['no original', { prompt: 'a', edited: 'b' }, { pointer: '/original' }],
      ['no edited version', { prompt: 'a', original: 'b' }, { pointer: '/edited' }],
      ['an unknown field', { ...edit, truncate: true }, { pointer: '/truncate' }],
      ['a number', { ...edit, edited: 1 }, { pointer: '/edited' }],
      ['another unit', { ...edit, unit: 'word' }, { pointer: '/unit' }],
    ];
    const illFormed: [string, unknown, object][] = [
      ['a lone surrogate', { ...edit, edited: '\ud800' }, { pointer: '/edited' }],
      ['NUL', { ...edit, original: 'a\0' }, { pointer: '/original' }],
    ];
    const refused = async (status: number, name: string, json: unknown, error: object) => {
      const answer = await compare(json);
      t.equal(answer.status, status, name);
      t.match(answer.body.errors.at(-1), error, name);
    };
    for (const [name, json, error] of misfits) await refused(400, name, json, error);
    for (const [name, json, error] of illFormed) await refused(422, name, json, error);
    t.match(await call('POST', '/v1/score/compare', { body: 'x', headers: { 'content-type': 'text/csv' } }), {
      status: 415,
    });
    const bytes = `{"prompt": "a", "original": "b", "edited": "${'c'.repeat(9 * 1024 * 1024)}"}`;
    t.match(
      await call('POST', '/v1/score/compare', {
        body: bytes,
        headers: { 'content-type': 'application/json' },
      }),
      { status: 413, body: { code: 'content_too_large' } },
    );
  });

  t.test('security', async (t) => {
    const stranger = await server.otherProjectKey();
    for (const json of [edit, { ...edit, model: id }])
      t.match(await call('POST', '/v1/score/compare', { key: stranger, json }), { status: 404 });
    const scorer = await server.keyWith('score');
    t.match(await call('POST', '/v1/score/compare', { key: scorer, json: edit }), { status: 200 });
  });
});
