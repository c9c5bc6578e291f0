// ETag, If-Match and If-None-Match (RFC 9110, 8.8.3 and 13) on every resource that can change.
import pg from 'pg';
import t from 'tap';
import { shippedSampleFolder } from '../../src/services/sample-model.ts';
import { registerTinyModel } from '../support/models.ts';
import { queueSft } from '../support/runner.ts';
import { type RequestOptions, startTestServer, type TestServer } from '../support/server.ts';

interface Changeable {
  path: string;
  /** changes or deletes it */
  change: { method: string; path: string; json?: unknown };
  /** false where the answer of a change is not the resource, or the resource is gone */
  answersResource: boolean;
}

/** Each kind of resource, made anew. */
function kinds(server: TestServer): Record<string, () => Promise<Changeable>> {
  const { call } = server;
  const created = async (path: string, json: unknown) => (await call('POST', path, { json })).body;
  const pair = async () => {
    const dataset_id = (await created('/v1/datasets', { name: 'd' })).id;
    const pairs = [{ prompt: 'p', response_a: 'a', response_b: 'b', preference: 'a' }];
    const { items } = await created(`/v1/datasets/${dataset_id}/pairs`, { pairs });
    return { dataset_id, path: `/v1/pairs/${items[0].id}` };
  };
  return {
    dataset: async () => {
      const path = `/v1/datasets/${(await created('/v1/datasets', { name: 'd' })).id}`;
      return { path, answersResource: true, change: { method: 'PATCH', path, json: { name: 'changed' } } };
    },
    pair: async () => {
      const { path } = await pair();
      return { path, answersResource: true, change: { method: 'PATCH', path, json: { preference: 'b' } } };
    },
    'pair, deleted': async () => {
      const { path } = await pair();
      return { path, answersResource: false, change: { method: 'DELETE', path } };
    },
    alias: async () => {
      const path = '/v1/aliases/moving';
      await call('PUT', path, { json: { model_id: await registerTinyModel(server) } });
      const json = { model_id: await registerTinyModel(server) };
      return { path, answersResource: true, change: { method: 'PUT', path, json } };
    },
    'alias, deleted': async () => {
      const path = '/v1/aliases/leaving';
      await call('PUT', path, { json: { model_id: await registerTinyModel(server) } });
      return { path, answersResource: false, change: { method: 'DELETE', path } };
    },
    'the default alias, set': async () => {
      const path = '/v1/aliases/token-reward';
      const json = { model_id: await registerTinyModel(server) };
      return { path, answersResource: true, change: { method: 'PUT', path, json } };
    },
    'edit request': async () => {
      const { dataset_id } = await pair();
      const { id } = await created('/v1/edit-requests', { dataset_id, editor: 'person' });
      const path = `/v1/edit-requests/${id}`;
      return { path, answersResource: true, change: { method: 'POST', path: `${path}/cancel` } };
    },
    'score job': async () => {
      const artifact = await call('POST', '/v1/artifacts', {
        body: '{"prompt": "p", "response": "r"}',
        headers: { 'content-type': 'application/x-ndjson' },
      });
      const input = { artifact: artifact.body.digest };
      const model = await registerTinyModel(server);
      const path = `/v1/score-jobs/${(await created('/v1/score-jobs', { model, input })).id}`;
      return { path, answersResource: true, change: { method: 'POST', path: `${path}/cancel` } };
    },
    run: async () => {
      const path = `/v1/runs/${(await queueSft(server, [{ prompt: 'p', response: 'r' }])).id}`;
      return { path, answersResource: true, change: { method: 'POST', path: `${path}/cancel` } };
    },
    key: async () => {
      const path = `/v1/keys/${(await created('/v1/keys', { name: 'k', scopes: ['read'] })).id}`;
      return { path, answersResource: true, change: { method: 'DELETE', path } };
    },
    'model, deleted': async () => {
      const path = `/v1/models/${await registerTinyModel(server)}`;
      return { path, answersResource: false, change: { method: 'DELETE', path } };
    },
  };
}

const failed = { status: 412, body: { code: 'precondition_failed' } };

t.test('conditional requests', { timeout: 60_000 }, async (t) => {
  const server = await startTestServer(t, { sampleFolder: shippedSampleFolder });
  const { call } = server;
  const etagOf = async (path: string): Promise<string> => (await call('GET', path)).headers.get('etag') ?? '';
  const perform = ({ method, path, json }: Changeable['change'], headers: RequestOptions['headers'] = {}) =>
    call(method, path, { ...(json === undefined ? {} : { json }), headers });

  for (const [kind, make] of Object.entries(kinds(server))) {
    t.test(kind, async (t) => {
      const { path, change, answersResource } = await make();
      const before = await call('GET', path);
      const etag = before.headers.get('etag')!;
      t.match(etag, /^"[^"]+"$/, 'a strong ETag');
      t.equal(await etagOf(path), etag, 'the same as long as nothing changes');

      const unchanged = await call('GET', path, { headers: { 'if-none-match': `"x", W/${etag}` } });
      t.match(unchanged, { status: 304, text: '' });
      t.equal(unchanged.headers.get('etag'), etag);
      t.match(await call('GET', path, { headers: { 'if-none-match': '*' } }), { status: 304 });
      t.match(await call('GET', path, { headers: { 'if-none-match': '"x"' } }), { status: 200 });
      const head = await call('HEAD', path);
      t.equal(head.headers.get('etag'), etag, 'HEAD tells it');

      for (const other of ['"x"', `W/${etag}`, '"x", "y"', 'x', `w/${etag}`])
        t.match(await perform(change, { 'if-match': other }), failed, other);
      t.same((await call('GET', path)).body, before.body, 'nothing has changed');

      const done = await perform(change, { 'if-match': `"x", ${etag}` });
      t.ok(done.status === 200 || done.status === 204, `${done.status} ${done.text}`);
      if (answersResource) {
        t.not(done.headers.get('etag'), etag, 'the answer has the new ETag');
        const after = await call('GET', path);
        t.equal(done.headers.get('etag'), after.headers.get('etag'));
        t.same(done.body, after.body);
        t.match(await perform(change, { 'if-match': etag }), failed, 'the old ETag is good no longer');
      }
    });
  }

  t.test('of concurrent changes under one ETag exactly one is made', async (t) => {
    const { dataset, pair, alias } = kinds(server);
    for (const make of [dataset!, pair!, alias!]) {
      for (let round = 0; round < 5; round++) {
        const { path, change } = await make();
        const etag = await etagOf(path);
        const answers = await Promise.all([1, 2, 3, 4].map(() => perform(change, { 'if-match': etag })));
        t.same(answers.map(({ status }) => status).sort(), [200, 412, 412, 412], path);
      }
    }
  });

  t.test('without If-Match, or with *, a change is made whatever the state', async (t) => {
    const { path, change } = await kinds(server).dataset!();
    t.match(await perform(change), { status: 200 });
    t.match(await perform(change, { 'if-match': '*' }), { status: 200 });
    t.match(await call('PATCH', '/v1/datasets/ds_1', { json: { name: 'x' }, headers: { 'if-match': '*' } }), {
      status: 404,
    });
    t.match(await call('DELETE', '/v1/pairs/pair_1', { headers: { 'if-match': '"x"' } }), { status: 404 });
    t.equal((await call('GET', path)).body.name, 'changed');
  });

  t.test('an alias: If-None-Match * creates only, If-Match moves only', async (t) => {
    const json = { model_id: await registerTinyModel(server) };
    const put = (name: string, headers: RequestOptions['headers']) =>
      call('PUT', `/v1/aliases/${name}`, { json, headers });
    t.match(await put('new', { 'if-match': '*' }), failed, 'there is none to move');
    t.match(await call('GET', '/v1/aliases/new'), { status: 404 });
    for (let round = 0; round < 5; round++) {
      const answers = await Promise.all(
        [1, 2, 3, 4].map(() => put(`new-${round}`, { 'if-none-match': '*' })),
      );
      t.same(answers.map(({ status }) => status).sort(), [200, 412, 412, 412]);
    }
    t.match(await put('new-0', { 'if-match': '*' }), { status: 200 });
  });

  t.test('an edit request is not cancelled over work that was not seen', async (t) => {
    const { path, change } = await kinds(server)['edit request']!();
    const etag = await etagOf(path);
    const json = { editor: { kind: 'person', name: 'one' }, edit_request_id: path.split('/').at(-1) };
    t.equal((await call('POST', '/v1/edit-tasks/claim', { json })).body.items.length, 1);
    t.match(await perform(change, { 'if-match': etag }), failed);
    t.match(await perform(change, { 'if-match': await etagOf(path) }), { status: 200 });
  });

  t.test('nor over a claim that commits while it is being cancelled', async (t) => {
    const { path, change } = await kinds(server)['edit request']!();
    const etag = await etagOf(path);
    const uuid = path.split('ereq_')[1];
    const claim = new pg.Client({ connectionString: server.database.superuserUrl });
    await claim.connect();
    t.teardown(() => claim.end());
    await claim.query('begin');
    await claim.query(
      `update finegrain.edit_tasks set state = 'leased', editor_kind = 'person', editor_name = 'one',
         lease_sha256 = sha256(''), lease_seconds = 60, lease_expires_at = now() + interval '60 s'
       where edit_request_id = $1`,
      [uuid],
    );
    const cancelled = perform(change, { 'if-match': etag });
    for (let waits = 0; waits === 0; ) {
      const { rows } = await claim.query(
        "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
      );
      waits = rows.length;
    }
    await claim.query('commit');
    t.match(await cancelled, failed);
    t.match((await call('GET', path)).body, { state: 'open', progress: { leased: 1 } });
  });

  t.test('the document says which routes take which header', async (t) => {
    interface Operation {
      parameters?: { in: string; name: string }[];
      responses: Record<string, { headers?: Record<string, unknown> }>;
    }
    const { paths } = (await call('GET', '/openapi.json')).body as {
      paths: Record<string, Record<string, Operation>>;
    };
    const takes = ({ parameters = [] }: Operation, header: string) =>
      parameters.some((one) => one.in === 'header' && one.name === header);
    for (const [path, methods] of Object.entries(paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        const name = `${method} ${path}`;
        t.equal('412' in operation.responses, takes(operation, 'If-Match'), name);
        t.equal('304' in operation.responses, method === 'get' && takes(operation, 'If-None-Match'), name);
        const tagged = operation.responses[200]?.headers?.ETag !== undefined;
        if ('304' in operation.responses) t.ok(tagged, name);
        // a secret shows no state that a caller could have read; a webhook cannot be changed, only deleted; a part of an
        // upload is replaced by the same bytes or by nothing that was announced
        const stateless = /^\/v1\/(secrets|webhooks|artifact-uploads)\//.test(path);
        const changes = /^(patch|put|delete)$/.test(method);
        if (changes && !stateless) t.ok(takes(operation, 'If-Match'), name);
      }
    }
  });
});
