import pg from 'pg';
import t, { type Test } from 'tap';
import { startTestServer, type TestServer } from '../support/server.ts';

const person = (name: string) => ({ kind: 'person', name });

interface Claimed {
  id: string;
  edit_request_id: string;
  lease_token: string;
  lease_expires_at: string;
  pair: { id: string; external_id: string; response_a: string; response_b: string };
  side: 'a' | 'b';
}

/** A dataset with pairs `p0`, `p1`, …, of which b is the worse response. */
async function newDataset(server: TestServer, pairs: number): Promise<{ id: string; pairs: string[] }> {
  const { id } = (await server.call('POST', '/v1/datasets', { json: { name: 'work' } })).body;
  const rows = Array.from({ length: pairs }, (_, i) => ({
    external_id: `p${i}`,
    prompt: `prompt ${i}`,
    response_a: `right ${i}`,
    response_b: `wrong ${i}`,
    preference: 'a',
    metadata: { i },
  }));
  const { items } = (await server.call('POST', `/v1/datasets/${id}/pairs`, { json: { pairs: rows } })).body;
  return { id, pairs: items.map((item: { id: string }) => item.id) };
}

async function newRequest(server: TestServer, dataset: string, options: object = {}): Promise<string> {
  const json = { dataset_id: dataset, editor: 'person', ...options };
  const { status, body } = await server.call('POST', '/v1/edit-requests', { json });
  if (status !== 202) throw new Error(JSON.stringify(body));
  return body.id;
}

async function claim(
  server: TestServer,
  name: string,
  options: object = {},
): Promise<{ items: Claimed[]; open: number | null }> {
  const json = { editor: person(name), ...options };
  const { status, body } = await server.call('POST', '/v1/edit-tasks/claim', { json });
  if (status !== 200) throw new Error(JSON.stringify(body));
  return body;
}

const act = (server: TestServer, task: Claimed, what: string, json: object = {}) =>
  server.call('POST', `/v1/edit-tasks/${task.id}/${what}`, {
    json: { lease_token: task.lease_token, ...json },
  });

const submit = (server: TestServer, task: Claimed, edited_response: string, more: object = {}) =>
  act(server, task, 'submit', { edited_response, ...more });

const names = ({ items }: { items: Claimed[] }) => items.map(({ pair }) => pair.external_id);

/** Sets the leases of tasks back, as if an hour had passed. */
async function anHourPasses(server: TestServer, ...tasks: Claimed[]): Promise<void> {
  const client = new pg.Client({ connectionString: server.database.superuserUrl });
  await client.connect();
  await client
    .query(
      `update finegrain.edit_tasks set lease_expires_at = lease_expires_at - interval '1 hour'
       where replace(id::text, '-', '') = any ($1)`,
      [tasks.map(({ id }) => id.replace('etask_', ''))],
    )
    .finally(() => client.end());
}

const conflict = (detail: RegExp) => ({ status: 409, body: { code: 'conflict', detail } });

t.test('edit requests', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;

  t.test('make a task of every pair with a preference, per redundancy', async (t) => {
    const { id, pairs } = await newDataset(server, 4);
    await call('PATCH', `/v1/pairs/${pairs[3]}`, { json: { preference: null } });
    const answer = await call('POST', '/v1/edit-requests', {
      json: { dataset_id: id, editor: 'person', redundancy: 2, instructions: 'least change' },
    });
    t.match(answer, {
      status: 202,
      body: {
        dataset_id: id,
        filter: {},
        editor: 'person',
        redundancy: 2,
        instructions: 'least change',
        state: 'open',
        pairs: 3,
        skipped: { no_preference: 1, over_limit: 0, unknown_external_ids: 0 },
        deadline: null,
        progress: { open: 6, leased: 0, submitted: 0, failed: 0, cancelled: 0, total: 6, skipped: 0 },
        editors: [],
        cancelled_at: null,
      },
    });
    t.same((await call('GET', `/v1/edit-requests/${answer.body.id}`)).body, answer.body);
    const { progress, editors, llm, usage, stopped, ...summary } = answer.body;
    t.same([llm, usage, stopped], [null, null, null], 'for the service’s own editor only');
    t.same((await call('GET', `/v1/edit-requests?dataset_id=${id}`)).body, {
      items: [summary],
      next_cursor: null,
    });
    const tasks = (await call('GET', `/v1/edit-tasks?edit_request_id=${answer.body.id}&limit=4`)).body;
    t.match(
      tasks.items.map(({ pair_id, slot, side }: Record<string, unknown>) => [pair_id, slot, side]),
      [
        [pairs[0], 1, 'b'],
        [pairs[1], 1, 'b'],
        [pairs[2], 1, 'b'],
        [pairs[0], 2, 'b'],
      ],
      'every pair once before any twice',
    );
    t.equal(
      (await call('GET', `/v1/edit-tasks?edit_request_id=${answer.body.id}&cursor=${tasks.next_cursor}`)).body
        .items.length,
      2,
    );
    t.match((await call('GET', `/v1/edit-tasks/${tasks.items[0].id}`)).body, tasks.items[0]);
  });

  t.test('the filter: what users expect of it', async (t) => {
    const { id, pairs } = await newDataset(server, 5);
    const editor = person('early');
    await call('POST', '/v1/edits', {
      json: { edits: [{ pair_id: pairs[0], edited_response: 'right', editor }] },
    });
    const { created_at } = (await call('GET', `/v1/pairs/${pairs[4]}`)).body;
    const count = async (filter: object) => {
      const json = { dataset_id: id, editor: 'program', filter };
      const { body } = await call('POST', '/v1/edit-requests', { json });
      t.same(body.filter, filter);
      return [body.pairs, body.skipped.over_limit, body.skipped.unknown_external_ids];
    };
    t.same(await count({}), [5, 0, 0]);
    t.same(await count({ has_edit: true }), [1, 0, 0]);
    t.same(await count({ has_edit: false }), [4, 0, 0]);
    t.same(await count({ limit: 3 }), [3, 2, 0]);
    t.same(await count({ external_ids: ['p1', 'p3', 'nobody'] }), [2, 0, 1]);
    t.same(await count({ external_ids: ['p0', 'p1'], has_edit: false }), [1, 0, 0]);
    t.same(await count({ created_after: '2020-01-01T00:00:00Z' }), [5, 0, 0]);
    t.same(await count({ created_after: created_at }), [0, 0, 0], 'later than a time that the API showed');
    t.same(await count({ created_after: '0000-01-01T00:00:00Z' }), [5, 0, 0]);
    const json = { dataset_id: id, editor: 'person', filter: { external_ids: ['nobody'] } };
    t.match((await call('POST', '/v1/edit-requests', { json })).body, { state: 'finished', pairs: 0 });
  });

  t.test('error', async (t) => {
    const { id } = await newDataset(server, 1);
    const post = (json: object) => call('POST', '/v1/edit-requests', { json });
    for (const [json, pointer] of [
      [{ editor: 'person' }, '/dataset_id'],
      [{ dataset_id: id }, '/editor'],
      [{ dataset_id: id, editor: 'robot' }, '/editor'],
      [{ dataset_id: id, editor: 'person', redundancy: 10 }, '/redundancy'],
      [{ dataset_id: id, editor: 'person', filter: { external_id: 'x' } }, '/filter/external_id'],
      [{ dataset_id: id, editor: 'person', filter: { created_after: 'noon' } }, '/filter/created_after'],
      [{ dataset_id: id, editor: 'person', filter: { limit: 0 } }, '/filter/limit'],
      [{ dataset_id: id, editor: 'person', deadline: 'noon' }, '/deadline'],
    ] as const)
      t.match(await post(json), { status: 400, body: { errors: [{ pointer }] } }, pointer);
    t.match(await post({ dataset_id: id, editor: 'person', instructions: 'a\0' }), {
      status: 422,
      body: { code: 'ill_formed_text', errors: [{ pointer: '/instructions' }] },
    });
    t.match(await post({ dataset_id: 'ds_1', editor: 'person' }), {
      status: 404,
      body: { errors: [{ pointer: '/dataset_id' }] },
    });
    t.match(await post({ dataset_id: id, editor: 'person', instructions: 'x'.repeat(9_000_000) }), {
      status: 413,
    });
    await call('PATCH', `/v1/datasets/${id}`, { json: { archived: true } });
    t.match(await post({ dataset_id: id, editor: 'person' }), conflict(/archived/));
    t.match(await call('GET', '/v1/edit-requests/ereq_1'), { status: 404 });
    t.match(await call('POST', '/v1/edit-requests/ereq_1/cancel'), { status: 404 });
    t.match(await call('GET', '/v1/edit-requests?dataset_id=ds_1'), { status: 404 });
    t.match(await call('GET', '/v1/edit-tasks?edit_request_id=ereq_1'), { status: 404 });
    t.match(await call('GET', '/v1/edit-tasks?state=done'), { status: 400 });
  });

  t.test('security', async (t) => {
    const { id } = await newDataset(server, 1);
    const request = `/v1/edit-requests/${await newRequest(server, id)}`;
    const stranger = await server.otherProjectKey();
    const json = { dataset_id: id, editor: 'person' };
    t.match(await call('POST', '/v1/edit-requests', { key: stranger, json }), { status: 404 });
    t.match(await call('GET', request, { key: stranger }), { status: 404 });
    t.match(await call('POST', `${request}/cancel`, { key: stranger }), { status: 404 });
    t.same((await call('GET', '/v1/edit-requests', { key: stranger })).body.items, []);
    const annotator = await server.keyWith('read', 'edits:write');
    t.match(await call('POST', '/v1/edit-requests', { key: annotator, json }), { status: 403 });
    t.match(await call('POST', `${request}/cancel`, { key: annotator }), { status: 403 });
  });
});

t.test('edit requests for the editor of the service', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  await call('PUT', '/v1/secrets/llm', { json: { value: 'sk-of-the-endpoint' } });
  const { id } = await newDataset(server, 2);
  const good = { base_url: 'https://llm.example/v1', model: 'tiny' };
  const post = (llm: object | undefined, more: object = {}) =>
    call('POST', '/v1/edit-requests', { json: { dataset_id: id, editor: 'llm', llm, ...more } });
  const resume = (request: string, json: object = {}, options: object = {}) =>
    call('POST', `/v1/edit-requests/${request}/resume`, { json, ...options });

  t.test('the settings come out as they went in, with what was left out', async (t) => {
    const { status, body } = await post(good);
    t.equal(status, 202);
    t.same(body.llm, {
      ...good,
      secret: null,
      temperature: null,
      max_tokens: null,
      concurrency: 4,
      requests_per_minute: null,
      price: null,
      limits: { max_total_tokens: null, max_cost: null },
    });
    t.same(body.usage, {
      requests: 0,
      retries: 0,
      refused: 0,
      input_tokens: 0,
      output_tokens: 0,
      cost: null,
    });
    const whole = {
      ...good,
      secret: 'llm',
      temperature: 0,
      max_tokens: 500,
      concurrency: 16,
      requests_per_minute: 60,
      price: { input_per_million: 0.5, output_per_million: 1.5 },
      limits: { max_total_tokens: 1000, max_cost: 0.5 },
    };
    const full = await post(whole);
    t.same(full.body.llm, whole);
    t.notMatch(full.text, 'sk-of-the-endpoint');
    t.same((await call('GET', `/v1/edit-requests/${full.body.id}`)).body, full.body);
  });

  t.test(
    'resume: new limits, then the old ones stay; on what has not stopped nothing else changes',
    async (t) => {
      const limits = { max_total_tokens: 1000 };
      const { body } = await post({ ...good, limits });
      const raised = await resume(body.id, { limits: { max_total_tokens: 2000 } });
      t.match(raised, { status: 200, body: { ...body, llm: { limits: { max_total_tokens: 2000 } } } });
      t.same((await resume(body.id)).body, raised.body);
      t.match((await resume(body.id, { limits: {} })).body.llm.limits, { max_total_tokens: null });
      const headers = { 'if-match': raised.headers.get('etag')! };
      t.match(await resume(body.id, {}, { headers }), { status: 412 });
    },
  );

  t.test('nobody else is given its tasks', async (t) => {
    const { body } = await post(good);
    for (const kind of ['person', 'program', 'llm']) {
      const json = { editor: { kind, name: 'me' }, edit_request_id: body.id };
      t.match(await call('POST', '/v1/edit-tasks/claim', { json }), conflict(/by a llm/), kind);
      t.same((await call('POST', '/v1/edit-tasks/claim', { json: { editor: json.editor } })).body.items, []);
    }
  });

  t.test('error', async (t) => {
    for (const [llm, pointer, detail] of [
      [undefined, '/llm', /is required with the editor "llm"/],
      [{ ...good, base_url: 'ftp://llm.example' }, '/llm/base_url', /must begin with https/],
      [{ ...good, base_url: 'not a url' }, '/llm/base_url', /cannot be parsed/],
      [{ ...good, base_url: 'http://10.0.0.1/v1' }, '/llm/base_url', /not a public address/],
      [{ ...good, base_url: 'https://a:b@llm.example/v1' }, '/llm/base_url', /user name or password/],
      [{ ...good, secret: 'nobody' }, '/llm/secret', /PUT \/v1\/secrets\/nobody/],
      [{ ...good, limits: { max_cost: 1 } }, '/llm/limits/max_cost', /needs \/llm\/price/],
    ] as const)
      t.match(await post(llm), {
        status: 422,
        body: { code: 'unprocessable', errors: [{ pointer, detail }] },
      });
    t.match(await post(good, { editor: 'person' }), {
      status: 422,
      body: { errors: [{ pointer: '/llm', detail: /for the editor "llm" only/ }] },
    });
    for (const [llm, pointer] of [
      [{ model: 'tiny' }, '/llm/base_url'],
      [{ ...good, model: '' }, '/llm/model'],
      [{ ...good, concurrency: 17 }, '/llm/concurrency'],
      [{ ...good, secret: 'No Name' }, '/llm/secret'],
      [{ ...good, api_key: 'sk' }, '/llm/api_key'],
      [{ ...good, price: { input_per_million: 1 } }, '/llm/price/output_per_million'],
      [{ ...good, limits: { max_tokens: 1 } }, '/llm/limits/max_tokens'],
    ] as const)
      t.match(await post(llm), { status: 400, body: { errors: [{ pointer }] } }, pointer);
    t.match(await resume('ereq_1'), { status: 404 });
    t.match(await resume(await newRequest(server, id)), conflict(/Only the work of an `llm`/));
    const { body } = await post(good);
    t.match(await resume(body.id, { limits: { max_cost: 1 } }), {
      status: 422,
      body: { errors: [{ pointer: '/limits/max_cost' }] },
    });
    t.match(await resume(body.id, { force: true }), {
      status: 400,
      body: { errors: [{ pointer: '/force' }] },
    });
    await call('POST', `/v1/edit-requests/${body.id}/cancel`);
    t.match(await resume(body.id), conflict(/is cancelled: ask anew/));
    const { items } = (await call('GET', `/v1/edit-requests?dataset_id=${id}&limit=500`)).body;
    t.ok(items.length < 10, 'what was refused has left no request behind');
  });

  t.test('security', async (t) => {
    const { body } = await post({ ...good, secret: 'llm' });
    const writer = await server.keyWith('read', 'pairs:write');
    const as = { key: writer };
    const json = { dataset_id: id, editor: 'llm', llm: { ...good, secret: 'llm' } };
    const refusal = { status: 403, body: { code: 'missing_scope', detail: /"admin"/ } };
    t.match(
      await call('POST', '/v1/edit-requests', { json, ...as }),
      refusal,
      'it could send the key anywhere',
    );
    t.match(await resume(body.id, { limits: {} }, as), refusal, 'it could spend what it likes');
    t.equal((await resume(body.id, {}, as)).status, 200);
    t.equal((await call('POST', '/v1/edit-requests', { json: { ...json, llm: good }, ...as })).status, 202);
    t.match(await resume(body.id, {}, { key: await server.keyWith('read', 'edits:write') }), { status: 403 });
    t.match(await resume(body.id, {}, { key: await server.otherProjectKey() }), { status: 404 });
    const without = await startTestServer(t, { keys: null });
    const { id: dataset } = await newDataset(without, 1);
    t.match(await without.call('POST', '/v1/edit-requests', { json: { ...json, dataset_id: dataset } }), {
      status: 422,
      body: { errors: [{ pointer: '/llm/secret', detail: /FINEGRAIN_SECRET_KEY/ }] },
    });
  });
});

t.test('edit tasks', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const progress = async (request: string) => (await call('GET', `/v1/edit-requests/${request}`)).body;

  t.test('claim, submit: the edit is stored as a posted one, and remembers its task', async (t) => {
    const { id, pairs } = await newDataset(server, 3);
    const request = await newRequest(server, id, { instructions: 'least change' });
    const before = Date.now();
    const { items, open } = await claim(server, 'ann', { edit_request_id: request, limit: 2 });
    t.equal(open, null, 'not counted while there may be more');
    t.match(items[0], {
      edit_request_id: request,
      pair: { id: pairs[0], dataset_id: id, external_id: 'p0', preference: 'a', metadata: { i: 0 } },
      side: 'b',
      instructions: 'least change',
    });
    t.match(names({ items }), ['p0', 'p1']);
    t.ok(Math.abs(Date.parse(items[0]!.lease_expires_at) - before - 600_000) < 60_000, 'ten minutes');
    t.ok(Buffer.from(items[0]!.lease_token, 'base64url').length >= 16);
    const [task] = items as [Claimed];
    t.match((await call('GET', `/v1/edit-tasks/${task.id}`)).body, {
      state: 'leased',
      editor: person('ann'),
      lease_expires_at: task.lease_expires_at,
      edit_id: null,
    });

    const answer = await submit(server, task, 'right 0', { comment: 'it was wrong' });
    t.match(answer, { status: 201, body: { status: 'accepted', alignment: { changed_original: [[0, 5]] } } });
    t.match((await call('GET', `/v1/edits/${answer.body.id}`)).body, {
      pair_id: pairs[0],
      side: 'b',
      edited_response: 'right 0',
      editor: person('ann'),
      comment: 'it was wrong',
      edit_task_id: task.id,
      alignment: answer.body.alignment,
    });
    t.match((await call('GET', `/v1/edit-tasks/${task.id}`)).body, {
      state: 'submitted',
      editor: person('ann'),
      lease_expires_at: null,
      edit_id: answer.body.id,
    });
    t.match(await progress(request), {
      state: 'open',
      progress: { open: 1, leased: 1, submitted: 1, total: 3 },
      editors: [{ ...person('ann'), submitted: 1, leased: 1, skipped: 0 }],
    });
    t.match((await call('GET', `/v1/edit-tasks?edit_request_id=${request}&state=leased`)).body.items, [
      { pair_id: pairs[1] },
    ]);

    await submit(server, items[1]!, 'right 1');
    const last = await claim(server, 'ann', { edit_request_id: request, limit: 2 });
    t.match(last, { items: [{ pair: { external_id: 'p2' } }], open: 0 });
    await submit(server, last.items[0]!, 'right 2');
    t.match(await progress(request), { state: 'finished', progress: { submitted: 3, total: 3 } });
    t.same(await claim(server, 'ann', { edit_request_id: request }), { items: [], open: 0 });
    const posted = { pair_id: pairs[0], edited_response: 'x', editor: person('poster') };
    const { body } = await call('POST', '/v1/edits', { json: { edits: [posted] } });
    t.equal((await call('GET', `/v1/edits/${body.items[0].id}`)).body.edit_task_id, null);
  });

  t.test('a second submit: the same one is answered again, another one is refused', async (t) => {
    const { id } = await newDataset(server, 1);
    const request = await newRequest(server, id);
    const [task] = (await claim(server, 'ann', { edit_request_id: request })).items as [Claimed];
    const [first, twin] = await Promise.all([submit(server, task, 'right'), submit(server, task, 'right')]);
    t.equal(first.status, 201);
    t.same(twin.body, first.body, 'also when both arrive at once');
    t.same((await submit(server, task, 'right')).body, first.body);
    const names = new RegExp(`brought the edit ${first.body.id}.*POST /v1/edits`);
    t.match(await submit(server, task, 'other'), conflict(names));
    t.match(await submit(server, task, 'right', { comment: 'new' }), conflict(names));
    t.match(await submit(server, { ...task, lease_token: 'stolen' }, 'right'), conflict(names));
    for (const what of ['heartbeat', 'release', 'skip'])
      t.match(await act(server, task, what), conflict(/brought the edit/), what);
    t.equal((await call('GET', `/v1/edits?dataset_id=${id}`)).body.items.length, 1);
  });

  t.test('no editor gets a pair twice', async (t) => {
    const { id, pairs } = await newDataset(server, 4);
    const request = await newRequest(server, id, { redundancy: 3 });
    const mine = { edit_request_id: request };
    const { items } = await claim(server, 'ann', { ...mine, limit: 10 });
    t.same(names({ items }), ['p0', 'p1', 'p2', 'p3'], 'one task of each pair in one claim');
    t.same(await claim(server, 'ann', mine), { items: [], open: 0 }, 'she holds all of them');
    const [submitted, skipped, released, held] = items as [Claimed, Claimed, Claimed, Claimed];
    await submit(server, submitted, 'right');
    t.match(await act(server, skipped, 'skip', { reason: 'unsure' }), {
      status: 200,
      body: { state: 'open', editor: null },
    });
    t.match(await act(server, released, 'release'), {
      status: 200,
      body: { state: 'open', editor: null, lease_expires_at: null },
    });
    t.same(names(await claim(server, 'ann', { ...mine, limit: 10 })), ['p2'], 'the one that she gave back');
    const again = { edit_request_id: await newRequest(server, id), limit: 10 };
    t.same(await claim(server, 'ann', again), { items: [], open: 0 }, 'by no other request either');
    t.match(await progress(request), {
      progress: { open: 9, leased: 2, submitted: 1, skipped: 1, total: 12 },
      editors: [{ ...person('ann'), submitted: 1, leased: 2, skipped: 1 }],
    });

    const other = await claim(server, 'bob', { ...mine, limit: 100 });
    t.same(names(other).sort(), ['p0', 'p1', 'p2', 'p3'], 'another editor gets what she skipped');
    await act(server, held, 'release');
    const edits = [{ pair_id: pairs[3], edited_response: 'x', editor: person('cleo') }];
    await call('POST', '/v1/edits', { json: { edits } });
    t.same(names(await claim(server, 'cleo', { ...mine, limit: 100 })).sort(), ['p0', 'p1', 'p2']);
    t.same(names(await claim(server, 'ann', { ...mine, limit: 100 })), ['p3']);
  });

  t.test('work that others hold is told from work that is done', async (t) => {
    const { id } = await newDataset(server, 2);
    const request = await newRequest(server, id);
    const mine = { edit_request_id: request };
    const { items } = await claim(server, 'ann', { ...mine, limit: 2 });
    t.same(await claim(server, 'bob', mine), { items: [], open: 2 });
    await submit(server, items[0]!, 'right');
    t.same(await claim(server, 'bob', mine), { items: [], open: 1 });
    await act(server, items[1]!, 'release');
    t.match(await claim(server, 'bob', mine), { items: [{ pair: { external_id: 'p1' } }] });
  });

  t.test('the oldest request comes first; a kind of editor gets requests for it only', async (t) => {
    for (const { id } of (await call('GET', '/v1/edit-requests')).body.items)
      await call('POST', `/v1/edit-requests/${id}/cancel`); // of the tests before
    const one = await newDataset(server, 2);
    const two = await newDataset(server, 2);
    const forPrograms = await newRequest(server, one.id, { editor: 'program' });
    const first = await newRequest(server, two.id);
    const second = await newRequest(server, one.id, { redundancy: 2 });
    const { items } = await claim(server, 'dora', { limit: 3 });
    t.same(
      items.map(({ edit_request_id }) => edit_request_id),
      [first, first, second],
    );
    for (const kind of ['program', 'llm']) {
      const claimed = await claim(server, kind, { editor: { kind, name: kind } });
      t.match(claimed.items, [{ edit_request_id: forPrograms }], kind);
    }
    const json = { editor: person('dora'), edit_request_id: forPrograms };
    t.match(await call('POST', '/v1/edit-tasks/claim', { json }), conflict(/by a program/));
  });

  t.test('a pair that several requests have is claimed once, and others make up for it', async (t) => {
    for (const { id } of (await call('GET', '/v1/edit-requests')).body.items)
      await call('POST', `/v1/edit-requests/${id}/cancel`); // of the tests before
    const one = await newDataset(server, 2);
    const requests = [await newRequest(server, one.id), await newRequest(server, one.id, { redundancy: 3 })];
    requests.push(await newRequest(server, (await newDataset(server, 3)).id));
    const { items, open } = await claim(server, 'eve', { limit: 4 });
    t.same(
      items.map(({ edit_request_id, pair }) => [requests.indexOf(edit_request_id), pair.external_id]),
      [
        [0, 'p0'],
        [0, 'p1'],
        [2, 'p0'],
        [2, 'p1'],
      ],
    );
    t.equal(open, null);
    t.match(await claim(server, 'eve', { limit: 4 }), { items: [{ pair: { external_id: 'p2' } }], open: 0 });
  });

  t.test('heartbeat renews a lease', async (t) => {
    const { id } = await newDataset(server, 1);
    const edit_request_id = await newRequest(server, id);
    const [task] = (await claim(server, 'ann', { edit_request_id, lease_seconds: 7200 })).items as [Claimed];
    await anHourPasses(server, task);
    const left = async (json: object) => {
      const { status, body } = await act(server, task, 'heartbeat', json);
      t.match({ status, body }, { status: 200, body: { id: task.id, state: 'leased' } });
      return Math.round((Date.parse(body.lease_expires_at) - Date.now()) / 100_000);
    };
    t.equal(await left({}), 72, 'as long as before');
    t.equal(await left({ lease_seconds: 600 }), 6);
    t.equal(await left({}), 6);
    await submit(server, task, 'right');
  });

  t.test('a lease that ran out', async (t) => {
    const { id, pairs } = await newDataset(server, 1);
    const request = await newRequest(server, id);
    const [late] = (await claim(server, 'ann', { edit_request_id: request })).items as [Claimed];
    await anHourPasses(server, late);
    t.match(await progress(request), { progress: { open: 1, leased: 0 }, editors: [] });
    t.match((await call('GET', `/v1/edit-tasks/${late.id}`)).body, { state: 'open', editor: null });
    t.match((await call('GET', `/v1/edit-tasks?edit_request_id=${request}&state=open`)).body.items, [
      { id: late.id },
    ]);
    for (const what of ['heartbeat', 'release', 'skip'])
      t.match(await act(server, late, what), conflict(/lease ran out at .*open to every editor/), what);
    const refusal = await submit(server, late, 'right');
    t.match(refusal, conflict(/lease ran out at .*text is not lost: POST \/v1\/edits/));
    t.match(refusal.body.detail, pairs[0]!);

    const [again] = (await claim(server, 'ann', { edit_request_id: request })).items as [Claimed];
    t.equal(again.id, late.id, 'the same editor may get it again');
    await anHourPasses(server, again);
    const [taken] = (await claim(server, 'bob', { edit_request_id: request })).items as [Claimed];
    t.equal(taken.id, late.id, 'and so may another');
    for (const what of ['heartbeat', 'release', 'skip'])
      t.match(await act(server, again, what), conflict(/does not hold this task/), what);
    t.match(await submit(server, again, 'right'), conflict(/does not hold.*POST \/v1\/edits/));
    t.equal((await submit(server, taken, 'right 0')).status, 201);
    t.equal((await call('GET', `/v1/edits?pair_id=${pairs[0]}`)).body.items.length, 1);
    const edits = [{ pair_id: pairs[0], edited_response: 'right', editor: person('ann') }];
    t.match(await call('POST', '/v1/edits', { json: { edits } }), { status: 201 });
  });

  t.test('an own lease that ran out bars the other tasks of its pair, not its own', async (t) => {
    const { id } = await newDataset(server, 1);
    const mine = { edit_request_id: await newRequest(server, id, { redundancy: 2 }) };
    const [first] = (await claim(server, 'ann', mine)).items as [Claimed];
    await anHourPasses(server, first);
    const { items } = await claim(server, 'ann', { ...mine, limit: 10 });
    t.match(items, [{ id: first.id }]);
  });

  t.test('the token of another claim', async (t) => {
    const { id } = await newDataset(server, 2);
    const request = await newRequest(server, id);
    const { items } = await claim(server, 'ann', { edit_request_id: request, limit: 2 });
    const [one, two] = items as [Claimed, Claimed];
    const mixed = { ...one, lease_token: two.lease_token };
    for (const what of ['heartbeat', 'release', 'skip'])
      t.match(await act(server, mixed, what), conflict(/belongs to another task/), what);
    t.match(await submit(server, mixed, 'right'), conflict(/belongs to another task/));
    await act(server, one, 'release');
    t.match(await submit(server, one, 'right'), conflict(/given back/), 'after a release');
    t.match(await progress(request), { progress: { open: 1, leased: 1 } });
  });

  t.test('a cancelled request', async (t) => {
    const { id } = await newDataset(server, 3);
    const request = await newRequest(server, id);
    const mine = { edit_request_id: request };
    const { items } = await claim(server, 'ann', { ...mine, limit: 2 });
    const { body: edit } = await submit(server, items[0]!, 'right');
    const cancelled = await call('POST', `/v1/edit-requests/${request}/cancel`);
    t.match(cancelled, {
      status: 200,
      body: {
        state: 'cancelled',
        progress: { open: 0, leased: 0, submitted: 1, cancelled: 2, total: 3 },
        editors: [{ submitted: 1, leased: 0 }],
      },
    });
    t.same((await call('POST', `/v1/edit-requests/${request}/cancel`)).body, cancelled.body, 'idempotent');
    for (const what of ['heartbeat', 'release', 'skip'])
      t.match(await act(server, items[1]!, what), conflict(/was cancelled/), what);
    t.match(await submit(server, items[1]!, 'right'), conflict(/was cancelled.*POST \/v1\/edits/));
    t.same(await claim(server, 'bob', mine), { items: [], open: 0 });
    t.match(await call('GET', `/v1/edits/${edit.id}`), { status: 200, body: { status: 'accepted' } });
    t.same((await submit(server, items[0]!, 'right')).body, edit, 'what was submitted is still answered');

    const finished = await newRequest(server, id, { filter: { external_ids: ['nobody'] } });
    t.match((await call('POST', `/v1/edit-requests/${finished}/cancel`)).body, {
      state: 'finished',
      cancelled_at: null,
    });
  });

  t.test(
    'after the deadline nothing is given out; who holds a task then may renew and submit it',
    async (t) => {
      const { id } = await newDataset(server, 2);
      const deadline = new Date(Date.now() + 3_600_000).toISOString();
      const mine = { edit_request_id: await newRequest(server, id, { deadline }) };
      t.match(await progress(mine.edit_request_id), { state: 'open', deadline });
      const [task] = (await claim(server, 'ann', mine)).items as [Claimed];
      const client = new pg.Client({ connectionString: server.database.superuserUrl });
      await client.connect();
      await client.query(
        "update finegrain.edit_requests set deadline = now() - interval '1 s' where deadline is not null",
      );
      await client.end();
      t.match(await progress(mine.edit_request_id), { state: 'expired', progress: { open: 1, leased: 1 } });
      t.same(await claim(server, 'bob', mine), { items: [], open: 0 });
      t.match(await act(server, task, 'heartbeat'), { status: 200 });
      t.match(await submit(server, task, 'right'), { status: 201 });
      t.match(await call('POST', `/v1/edit-requests/${mine.edit_request_id}/cancel`), {
        body: { state: 'cancelled', progress: { cancelled: 1, submitted: 1 } },
      });
      const past = { dataset_id: id, editor: 'person', deadline: '2020-01-01T00:00:00Z' };
      t.match(await call('POST', '/v1/edit-requests', { json: past }), {
        status: 422,
        body: { errors: [{ pointer: '/deadline', detail: /is over already/ }] },
      });
      const done = await newRequest(server, id, { deadline, filter: { external_ids: ['nobody'] } });
      t.match(await progress(done), { state: 'finished' });
    },
  );

  t.test('a dataset that is archived meanwhile: leases go on, nothing new is given out', async (t) => {
    const { id } = await newDataset(server, 2);
    const mine = { edit_request_id: await newRequest(server, id) };
    const [task] = (await claim(server, 'ann', mine)).items as [Claimed];
    await call('PATCH', `/v1/datasets/${id}`, { json: { archived: true } });
    t.same(await claim(server, 'bob', mine), { items: [], open: 0 });
    t.match(await submit(server, task, 'right'), { status: 201 });
    await call('PATCH', `/v1/datasets/${id}`, { json: { archived: false } });
    t.same(names(await claim(server, 'bob', mine)), ['p1']);
  });

  t.test('a pair that is deleted meanwhile takes its tasks along', async (t) => {
    const { id, pairs } = await newDataset(server, 2);
    const request = await newRequest(server, id);
    const { items } = await claim(server, 'ann', { edit_request_id: request, limit: 2 });
    await submit(server, items[1]!, 'right');
    for (const pair of pairs) t.match(await call('DELETE', `/v1/pairs/${pair}`), { status: 204 });
    for (const task of items)
      for (const what of ['heartbeat', 'release', 'skip'])
        t.match(await act(server, task, what), { status: 404, body: { code: 'not_found' } }, what);
    t.match(await submit(server, items[0]!, 'right'), { status: 404 });
    t.match(await progress(request), { state: 'finished', pairs: 2, progress: { total: 0 } });
  });

  t.test('a preference that moves meanwhile', async (t) => {
    const { id, pairs } = await newDataset(server, 2);
    const request = await newRequest(server, id);
    const mine = { edit_request_id: request };
    const [task] = (await claim(server, 'ann', mine)).items as [Claimed];
    for (const pair of pairs) await call('PATCH', `/v1/pairs/${pair}`, { json: { preference: 'b' } });
    const { body } = await submit(server, task, 'right');
    t.equal(body.status, 'stale', 'an edit of what is now the better response');
    await call('PATCH', `/v1/pairs/${pairs[0]}`, { json: { preference: 'a' } });
    t.equal((await call('GET', `/v1/edits/${body.id}`)).body.status, 'accepted');

    const [other] = (await claim(server, 'ann', mine)).items as [Claimed];
    t.match(other, { side: 'a', pair: { id: pairs[1], preference: 'b' } }, 'the side follows the preference');
    await call('PATCH', `/v1/pairs/${pairs[1]}`, { json: { preference: null } });
    t.match(await submit(server, other, 'wrong 1'), { status: 201, body: { status: 'accepted' } });

    const later = { edit_request_id: await newRequest(server, id) };
    await call('PATCH', `/v1/pairs/${pairs[0]}`, { json: { preference: null } });
    t.same(await claim(server, 'bob', later), { items: [], open: 0 }, 'nobody knows which side is the worse');
    await call('PATCH', `/v1/pairs/${pairs[0]}`, { json: { preference: 'a' } });
    t.same(names(await claim(server, 'bob', later)), ['p0']);
  });

  t.test('error', async (t) => {
    const post = (path: string, json: object) => call('POST', `/v1/edit-tasks/${path}`, { json });
    const editor = person('ann');
    for (const [json, pointer] of [
      [{}, '/editor'],
      [{ editor: { kind: 'robot', name: 'r' } }, '/editor/kind'],
      [{ editor: { kind: 'person', name: '' } }, '/editor/name'],
      [{ editor, lease_seconds: 4 }, '/lease_seconds'],
      [{ editor, lease_seconds: 86_401 }, '/lease_seconds'],
      [{ editor, limit: 101 }, '/limit'],
      [{ editor, request: 'x' }, '/request'],
    ] as const)
      t.match(await post('claim', json), { status: 400, body: { errors: [{ pointer }] } }, pointer);
    t.match(await post('claim', { editor, edit_request_id: 'ereq_1' }), {
      status: 404,
      body: { errors: [{ pointer: '/edit_request_id' }] },
    });
    t.match(await post('claim', { editor: person('x'.repeat(9_000_000)) }), { status: 413 });
    const lease_token = 'x';
    const unknown = 'etask_00000000000070008000000000000000';
    for (const task of ['etask_1', unknown]) {
      t.match(await call('GET', `/v1/edit-tasks/${task}`), { status: 404 });
      for (const what of ['heartbeat', 'release', 'skip'])
        t.match(await post(`${task}/${what}`, { lease_token }), { status: 404 }, what);
      t.match(await post(`${task}/submit`, { lease_token, edited_response: 'x' }), { status: 404 });
    }
    for (const what of ['heartbeat', 'release', 'skip', 'submit'])
      t.match(await post(`${unknown}/${what}`, {}), {
        status: 400,
        body: { errors: [{ pointer: '/lease_token' }] },
      });
    t.match(await post(`${unknown}/submit`, { lease_token, edited_response: 'a\ud800' }), {
      status: 422,
      body: { code: 'ill_formed_text' },
    });
    t.match(await post(`${unknown}/submit`, { lease_token, edited_response: 'x'.repeat(9_000_000) }), {
      status: 413,
    });
  });

  t.test('security', (t) => security(t, server));
});

async function security(t: Test, server: TestServer): Promise<void> {
  const { call } = server;
  const { id } = await newDataset(server, 2);
  const request = await newRequest(server, id);
  const key = await server.keyWith('read', 'edits:write');
  const json = { editor: person('outside'), edit_request_id: request };
  const { status, body } = await call('POST', '/v1/edit-tasks/claim', { key, json });
  t.equal(status, 200, 'read and edits:write are enough to work');
  const [task] = body.items as [Claimed];
  const stranger = await server.otherProjectKey();
  t.match(await call('POST', '/v1/edit-tasks/claim', { key: stranger, json }), { status: 404 });
  t.same(
    (await call('POST', '/v1/edit-tasks/claim', { key: stranger, json: { editor: person('outside') } })).body,
    { items: [], open: 0 },
  );
  t.same((await call('GET', '/v1/edit-tasks', { key: stranger })).body.items, []);
  t.match(await call('GET', `/v1/edit-tasks/${task.id}`, { key: stranger }), { status: 404 });
  const lease = { lease_token: task.lease_token };
  for (const [what, json] of [
    ['heartbeat', lease],
    ['release', lease],
    ['skip', lease],
    ['submit', { ...lease, edited_response: 'x' }],
  ] as const) {
    const path = `/v1/edit-tasks/${task.id}/${what}`;
    t.match(await call('POST', path, { key: stranger, json }), { status: 404 }, `${what} by a stranger`);
  }
  t.match((await call('GET', `/v1/edit-tasks/${task.id}`)).body, { state: 'leased' }, 'nobody changed it');
}
