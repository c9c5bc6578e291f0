import pg from 'pg';
import t from 'tap';
import { startTestServer } from '../support/server.ts';

t.test('agreement between editors', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const original = 'It was opened in 1936, damn it.'; // It was opened in 1936 , damn it . and its end
  const pairs = [0, 1, 2].map((k) => ({
    external_id: `p${k}`,
    prompt: `prompt ${k}`,
    response_a: 'It was opened in 1932.',
    response_b: original,
    preference: 'a',
  }));
  const dataset = (await call('POST', '/v1/datasets', { json: { name: 'agreement' } })).body.id;
  const { items } = (await call('POST', `/v1/datasets/${dataset}/pairs`, { json: { pairs } })).body;
  const ids: string[] = items.map(({ id }: { id: string }) => id);
  const edit = async (pair: number, name: string, edited_response: string, side?: 'a') => {
    const given = { pair_id: ids[pair], side, edited_response, editor: { kind: 'person', name } };
    return (await call('POST', '/v1/edits', { json: { edits: [given] } })).body.items[0].id;
  };
  const ofPair = async (pair: number) => (await call('GET', `/v1/pairs/${ids[pair]}/agreement`)).body;
  const ofDataset = async () => (await call('GET', `/v1/datasets/${dataset}/agreement`)).body;

  t.test('without edits of two editors there is nothing to say, and the answer says so', async (t) => {
    t.same(await ofPair(0), { pair_id: ids[0], responses: [] });
    await edit(0, 'ann', 'It was opened in 1932, damn it.');
    await edit(0, 'bob', 'It was opened in 1934.', 'a');
    t.same((await ofPair(0)).responses, [], 'of two responses');
    t.match(await ofDataset(), {
      responses: 0,
      tokens: 0,
      edits: 0,
      editors: 0,
      alpha: null,
      confidence_interval: null,
      pairwise_f1: null,
      reason: 'No response has edits of two editors.',
    });
  });

  t.test('of a pair: which editors, how many tokens each changed, and the figures', async (t) => {
    await edit(0, 'bob', 'It was opened in 1932.');
    const { responses } = await ofPair(0);
    t.match(responses, [
      {
        side: 'b',
        tokens: 10,
        editors: 2,
        edits: [
          { editor: { kind: 'person', name: 'ann' }, changed_tokens: 1 },
          { editor: { kind: 'person', name: 'bob' }, changed_tokens: 4 },
        ],
        pairwise_f1: 2 / 5,
        changed_fraction: 5 / 20,
        reason: null,
      },
    ]);
    // 3 units of 10 in which they differ; 5 marks say changed and 15 kept
    t.equal(responses[0].alpha, 1 - (19 * 3) / (5 * 15));
  });

  t.test(
    'the last edit of an editor counts, an unchanged one too, a rejected or superseded one not',
    async (t) => {
      await edit(1, 'ann', original);
      await edit(1, 'bob', 'It was opened in 1932, damn it.');
      await edit(1, 'bob', original);
      t.match((await ofPair(1)).responses, [
        {
          editors: 2,
          edits: [{ changed_tokens: 0 }, { changed_tokens: 0 }],
          alpha: null,
          pairwise_f1: 1,
          reason: /No editor/,
        },
      ]);
      const bad = await edit(1, 'cy', 'Something else altogether.');
      t.equal((await ofPair(1)).responses[0].editors, 3);
      const reject = { decision: 'reject', reviewer: 'eve' };
      t.equal((await call('POST', `/v1/edits/${bad}/decision`, { json: reject })).status, 200);
      t.equal((await ofPair(1)).responses[0].editors, 2);
      const better = { decision: 'supersede', reviewer: 'eve', edited_response: 'It was opened in 1932.' };
      const other = await edit(1, 'cy', 'It was opened in 1931.');
      t.equal((await call('POST', `/v1/edits/${other}/decision`, { json: better })).status, 200);
      t.match(
        (await ofPair(1)).responses[0].edits.map(({ editor }: { editor: { name: string } }) => editor.name),
        ['ann', 'bob', 'eve'],
      );
    },
  );

  t.test('edits that another version aligned are aligned anew', async (t) => {
    const before = await ofDataset();
    const client = new pg.Client({ connectionString: server.database.superuserUrl });
    await client.connect();
    await client.query(
      `update finegrain.edits set alignment_version = 0, alignment = alignment || '{"segments": []}'`,
    );
    await client.end();
    t.same(await ofDataset(), before);
  });

  t.test('of a dataset: pooled over its responses, with an interval over them', async (t) => {
    const body = await ofDataset();
    t.match(body, { responses: 2, edits: 5, editors: 3, tokens: 20, reason: null });
    t.ok(
      body.alpha < 1 &&
        body.confidence_interval.low < body.alpha &&
        body.alpha < body.confidence_interval.high,
    );
  });

  t.test('errors', async (t) => {
    for (const path of [
      '/v1/pairs/pair_019356f0b3c47d5e8f6a7b8c9d0e1f2a',
      '/v1/datasets/ds_019356f0a1b27c3d8e4f5a6b7c8d9e0f',
    ])
      t.match(await call('GET', `${path}/agreement`), { status: 404, body: { code: 'not_found' } });
    t.equal((await call('GET', '/v1/pairs/nonsense/agreement')).status, 404);
  });

  t.test('security: a key with the scope read, of this project', async (t) => {
    for (const path of [`/v1/pairs/${ids[0]}/agreement`, `/v1/datasets/${dataset}/agreement`]) {
      t.equal((await call('GET', path, { key: 'wrong' })).status, 401);
      const writer = await server.keyWith('edits:write');
      t.match(await call('GET', path, { key: writer }), { status: 403, body: { code: 'missing_scope' } });
      const stranger = await server.otherProjectKey();
      t.equal((await call('GET', path, { key: stranger })).status, 404);
    }
  });
});
