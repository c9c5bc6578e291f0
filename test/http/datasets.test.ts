import t from 'tap';
import { startTestServer } from '../support/server.ts';

t.test('datasets', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;

  t.test('happy', async (t) => {
    const created = await call('POST', '/v1/datasets', { json: { name: 'Unicode ✓', description: 'é' } });
    t.match(created, {
      status: 201,
      body: { id: /^ds_[0-9a-f]{32}$/, name: 'Unicode ✓', description: 'é', archived_at: null },
    });
    const path = `/v1/datasets/${created.body.id}`;
    t.same((await call('GET', path)).body, created.body);
    t.match(await call('PATCH', path, { json: { name: 'renamed', description: null } }), {
      status: 200,
      body: { name: 'renamed', description: null },
    });
    const none = { min: null, median: null, mean: null, p95: null, max: null };
    t.same((await call('GET', `${path}/stats`)).body, {
      pairs: 0,
      preferences: { a: 0, b: 0, undecided: 0 },
      edited_pairs: 0,
      accepted_edits: 0,
      lengths: { prompt: none, response_a: none, response_b: none, edited_response: none },
      duplicates: { prompts: 0, pairs: 0, identical_responses: 0 },
      edits: {
        total: 0,
        by_status: { pending: 0, accepted: 0, unchanged: 0, stale: 0, rejected: 0, superseded: 0 },
        by_editor: { person: 0, llm: 0, program: 0 },
        mean_changed_fraction: null,
      },
      created: { first: null, last: null },
    });
    t.match(await call('PATCH', path, { json: { archived: true } }), {
      status: 200,
      body: { archived_at: String },
    });
    t.same((await call('GET', '/v1/datasets')).body.items, [], 'an archived dataset leaves the list');
    t.equal((await call('GET', '/v1/datasets?archived=true')).body.items.length, 1);
    t.match(await call('PATCH', path, { json: { archived: false } }), {
      status: 200,
      body: { archived_at: null },
    });
  });

  t.test('pages are stable under inserts', async (t) => {
    for (let i = 0; i < 5; i++) await call('POST', '/v1/datasets', { json: { name: `page ${i}` } });
    const first = await call('GET', '/v1/datasets?limit=3');
    await call('POST', '/v1/datasets', { json: { name: 'late' } });
    const second = await call('GET', `/v1/datasets?limit=500&cursor=${first.body.next_cursor}`);
    const names = [...first.body.items, ...second.body.items].map(({ name }) => name);
    t.same(names.slice(-6), ['page 0', 'page 1', 'page 2', 'page 3', 'page 4', 'late']);
    t.equal(new Set([...first.body.items, ...second.body.items].map(({ id }) => id)).size, names.length);
    t.equal(second.body.next_cursor, null);
  });

  t.test('error', async (t) => {
    t.match(await call('POST', '/v1/datasets', { json: {} }), {
      status: 400,
      body: { code: 'invalid_request', errors: [{ pointer: '/name', detail: 'is missing', in: 'body' }] },
    });
    t.match(await call('POST', '/v1/datasets', { json: { name: 'x', colour: 'red' } }), {
      status: 400,
      body: { errors: [{ pointer: '/colour' }] },
    });
    t.match(await call('POST', '/v1/datasets', { json: { name: '' } }), {
      status: 400,
      body: { errors: [{ pointer: '/name' }] },
    });
    t.match(await call('POST', '/v1/datasets', { json: { name: 'nul \0' } }), {
      status: 422,
      body: { code: 'ill_formed_text', errors: [{ pointer: '/name' }] },
    });
    t.match(await call('GET', '/v1/edits?pair_id=a%00b'), {
      status: 422,
      body: { code: 'ill_formed_text', errors: [{ pointer: '/pair_id', in: 'query' }] },
    });
    t.match(await call('GET', '/v1/models/a%00b'), { status: 404 }, 'NUL never reaches the database');
    t.match(
      await call('POST', '/v1/datasets', {
        body: '{"name":"\\ud800"}',
        headers: { 'content-type': 'application/json' },
      }),
      {
        status: 422,
        body: { code: 'ill_formed_text' },
      },
    );
    t.match(
      await call('POST', '/v1/datasets', {
        body: '{"name":',
        headers: { 'content-type': 'application/json' },
      }),
      { status: 400, body: { code: 'malformed_json' } },
    );
    t.match(
      await call('POST', '/v1/datasets', {
        body: 'name=x',
        headers: { 'content-type': 'application/x-www-form-urlencoded' },
      }),
      { status: 415 },
    );
    t.match(await call('POST', '/v1/datasets', { json: { name: 'x', description: 'y'.repeat(9_000_000) } }), {
      status: 413,
      body: { code: 'content_too_large' },
    });
    t.match(await call('GET', '/v1/datasets?limit=501'), {
      status: 400,
      body: { errors: [{ pointer: '/limit', in: 'query' }] },
    });
    t.match(await call('GET', '/v1/datasets?cursor=bm8'), { status: 422, body: { code: 'invalid_cursor' } });
    for (const id of [
      'ds_00000000000070008000000000000000',
      'ds_1',
      'pair_00000000000070008000000000000000',
      '%00',
    ]) {
      t.match(await call('GET', `/v1/datasets/${id}`), { status: 404, body: { code: 'not_found' } }, id);
    }
    t.match(
      await call('PATCH', '/v1/datasets/ds_1', { json: {} }),
      { status: 400 },
      'a change that changes nothing',
    );
  });

  t.test('stats: lengths in code points, duplicates, edits', async (t) => {
    const { id } = (await call('POST', '/v1/datasets', { json: { name: 'stats' } })).body;
    const pairs = [
      { external_id: '1', prompt: '👍👍', response_a: 'a', response_b: 'bbb', preference: 'a' },
      { external_id: '2', prompt: '👍👍', response_a: 'a', response_b: 'bbb', preference: 'b' },
      { external_id: '3', prompt: '👍👍', response_a: 'same', response_b: 'same' },
      {
        external_id: '4',
        prompt: [
          { role: 'user', content: 'hé' },
          { role: 'assistant', content: 'you' },
        ],
        response_a: '',
        response_b: 'one two three four',
        preference: 'a',
      },
    ];
    const { items } = (await call('POST', `/v1/datasets/${id}/pairs`, { json: { pairs } })).body;
    const edits = [
      { pair_id: items[3].id, edited_response: 'one two three five', editor: { kind: 'person', name: 'p' } },
      { pair_id: items[3].id, edited_response: 'one two three four', editor: { kind: 'llm', name: 'l' } },
      { pair_id: items[0].id, side: 'a', edited_response: 'b', editor: { kind: 'llm', name: 'l' } },
    ];
    const stored = (await call('POST', '/v1/edits', { json: { edits } })).body.items;
    const stats = (await call('GET', `/v1/datasets/${id}/stats`)).body;
    t.match(stats, {
      pairs: 4,
      preferences: { a: 2, b: 1, undecided: 1 },
      edited_pairs: 1,
      accepted_edits: 1,
      lengths: {
        prompt: { min: 2, median: 2, mean: 2.8, p95: 5, max: 5 },
        response_a: { min: 0, median: 1, mean: 1.5, p95: 4, max: 4 },
        response_b: { min: 3, median: 3, mean: 7, p95: 18, max: 18 },
        edited_response: { min: 1, max: 18 },
      },
      duplicates: { prompts: 3, pairs: 2, identical_responses: 1 },
      edits: {
        total: 3,
        by_status: { accepted: 1, unchanged: 1, stale: 1, rejected: 0 },
        by_editor: { person: 1, llm: 2, program: 0 },
        mean_changed_fraction: 1 - stored[0].alignment.stats.similarity,
      },
    });
    t.ok(stats.created.first <= stats.created.last);
  });

  t.test('security', async (t) => {
    const { body } = await call('POST', '/v1/datasets', { json: { name: 'mine' } });
    const stranger = await server.otherProjectKey();
    for (const path of [`/v1/datasets/${body.id}`, `/v1/datasets/${body.id}/stats`]) {
      t.match(await call('GET', path, { key: stranger }), { status: 404, body: { code: 'not_found' } });
    }
    t.match(await call('PATCH', `/v1/datasets/${body.id}`, { key: stranger, json: { name: 'theirs' } }), {
      status: 404,
    });
    t.same((await call('GET', '/v1/datasets', { key: stranger })).body.items, []);
  });
});
