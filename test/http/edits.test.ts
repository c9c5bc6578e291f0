import t from 'tap';
import { startTestServer } from '../support/server.ts';

const editor = { kind: 'person', name: 'ann' };

t.test('edits', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const dataset = (await call('POST', '/v1/datasets', { json: { name: 'edits' } })).body.id;
  const pairs = [
    {
      external_id: 'a-wins',
      prompt: 'p',
      response_a: 'fine',
      response_b: 'The cat sat on the mat.',
      preference: 'a',
    },
    { external_id: 'open', prompt: 'p', response_a: 'one two', response_b: 'three four' },
  ];
  const ids: string[] = (
    await call('POST', `/v1/datasets/${dataset}/pairs`, { json: { pairs } })
  ).body.items.map(({ id }: { id: string }) => id);

  t.test('submit: the less-preferred side, aligned', async (t) => {
    const answer = await call('POST', '/v1/edits', {
      json: {
        edits: [
          { pair_id: ids[0], edited_response: 'The dog sat on the mat.', editor, comment: 'it was a dog' },
          { dataset_id: dataset, pair_external_id: 'open', side: 'a', edited_response: 'one too', editor },
          { pair_id: ids[0], edited_response: 'The cat sat on the mat.', editor },
        ],
      },
    });
    t.match(answer, {
      status: 201,
      body: { items: [{ status: 'accepted' }, { status: 'accepted' }, { status: 'unchanged' }] },
    });
    const [first] = answer.body.items;
    t.match(first.alignment, {
      changed_original: [[4, 7]],
      changed_edited: [[4, 7]],
      minimal: true,
      stats: { hunks: 1 },
    });
    t.match((await call('GET', `/v1/edits/${first.id}`)).body, {
      pair_id: ids[0],
      side: 'b',
      editor,
      comment: 'it was a dog',
      alignment: first.alignment,
    });
    t.equal((await call('GET', `/v1/edits?dataset_id=${dataset}`)).body.items.length, 3);
    t.equal((await call('GET', `/v1/edits?pair_id=${ids[0]}&status=unchanged`)).body.items.length, 1);
    t.match((await call('GET', `/v1/datasets/${dataset}/stats`)).body, {
      edited_pairs: 2,
      accepted_edits: 2,
    });
  });

  t.test('a moved preference makes edits of the new winner stale, and back', async (t) => {
    const { body } = await call('GET', `/v1/edits?pair_id=${ids[0]}&status=accepted`);
    const edit = `/v1/edits/${body.items[0].id}`;
    await call('PATCH', `/v1/pairs/${ids[0]}`, { json: { preference: 'b' } });
    t.equal((await call('GET', edit)).body.status, 'stale');
    await call('PATCH', `/v1/pairs/${ids[0]}`, { json: { preference: 'a' } });
    t.equal((await call('GET', edit)).body.status, 'accepted');
  });

  t.test('preview', async (t) => {
    const preview = await call('POST', '/v1/edits/preview', {
      json: { original: '👍 ok then', edited: '👍 no then', unit: 'codepoint' },
    });
    t.match(preview, {
      status: 200,
      body: { changed_original: [[2, 4]], changed_edited: [[2, 4]], minimal: true, warnings: [] },
    });
    t.match(
      (await call('POST', '/v1/edits/preview', { json: { original: '👍 ok then', edited: '👍 no then' } }))
        .body,
      { changed_original: [[3, 5]] },
    );
    t.match(
      (
        await call('POST', '/v1/edits/preview', {
          json: { original: '👍 ok then', edited: '👍 no then', unit: 'byte' },
        })
      ).body,
      { changed_original: [[5, 7]] },
    );
    t.match((await call('POST', '/v1/edits/preview', { json: { original: 'abc', edited: 'xyz' } })).body, {
      minimal: false,
    });
    t.match(
      await call('POST', '/v1/edits/preview', { json: { original: 'a', edited: 'b', model: 'none' } }),
      { status: 404 },
    );
    t.match(await call('POST', '/v1/edits/preview', { json: { original: 'a' } }), {
      status: 400,
      body: { errors: [{ pointer: '/edited' }] },
    });
  });

  t.test('error: nothing is stored', async (t) => {
    const before = (await call('GET', '/v1/edits')).body.items.length;
    const good = { pair_id: ids[0], edited_response: 'x', editor };
    t.match(await call('POST', '/v1/edits', { json: { edits: [good, { ...good, pair_id: 'pair_1' }] } }), {
      status: 404,
      body: { code: 'not_found', errors: [{ pointer: '/edits/1/pair_id' }] },
    });
    t.match(
      await call('POST', '/v1/edits', {
        json: { edits: [{ dataset_id: dataset, pair_external_id: 'nobody', edited_response: 'x', editor }] },
      }),
      {
        status: 404,
        body: { errors: [{ pointer: '/edits/0/pair_external_id' }] },
      },
    );
    t.match(await call('POST', '/v1/edits', { json: { edits: [{ edited_response: 'x', editor }] } }), {
      status: 422,
      body: { errors: [{ pointer: '/edits/0' }] },
    });
    t.match(
      await call('POST', '/v1/edits', {
        json: { edits: [{ pair_id: ids[1], edited_response: 'x', editor }] },
      }),
      {
        status: 422,
        body: { code: 'unprocessable', errors: [{ pointer: '/edits/0/side' }] },
      },
    );
    t.match(
      await call('POST', '/v1/edits', {
        json: { edits: [{ ...good, editor: { kind: 'robot', name: 'r' } }] },
      }),
      {
        status: 400,
        body: { errors: [{ pointer: '/edits/0/editor/kind' }] },
      },
    );
    t.equal((await call('GET', '/v1/edits')).body.items.length, before);
  });

  t.test('security', async (t) => {
    const { body } = await call('GET', '/v1/edits');
    const stranger = await server.otherProjectKey();
    t.match(await call('GET', `/v1/edits/${body.items[0].id}`, { key: stranger }), { status: 404 });
    t.match(await call('GET', `/v1/edits?pair_id=${ids[0]}`, { key: stranger }), { status: 404 });
    t.same((await call('GET', '/v1/edits', { key: stranger })).body.items, []);
    t.match(
      await call('POST', '/v1/edits', {
        key: stranger,
        json: { edits: [{ pair_id: ids[0], edited_response: 'x', editor }] },
      }),
      { status: 404 },
    );
  });
});
