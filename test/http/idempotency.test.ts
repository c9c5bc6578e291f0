// A request that is sent again under its Idempotency-Key has no second effect and gets the first answer.
import { createHash, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import t, { type Test } from 'tap';
import { saveRunCheckpoint } from '../../src/db/run-execution.ts';
import { parseId } from '../../src/domain/ids.ts';
import { createDataset } from '../../src/services/datasets.ts';
import { evaluationSlice } from '../../src/services/evaluation-work.ts';
import { forgetAnswers, once } from '../../src/services/idempotency.ts';
import { defaultProjectId } from '../../src/services/keys.ts';
import { startApiProcess } from '../support/api-process.ts';
import { holdCommits } from '../support/held-commit.ts';
import { registerTinyModel, tinyModelFolder } from '../support/models.ts';
import { claimAs } from '../support/queue.ts';
import { queueSft } from '../support/runner.ts';
import { type Answer, type RequestOptions, startTestServer, type TestServer } from '../support/server.ts';

t.setTimeout(280_000);

const keyed = (key: string, options: RequestOptions = {}): RequestOptions => ({
  ...options,
  headers: { ...options.headers, 'idempotency-key': key },
});

/** What a client gets, but for the headers that every answer has of its own. */
function seen({ status, text, headers }: Answer) {
  const own = [
    'date',
    'connection',
    'keep-alive',
    'idempotency-replayed',
    'x-request-id',
    'traceresponse',
    'ratelimit',
    'ratelimit-policy',
    'transfer-encoding',
  ];
  return { status, text, headers: [...headers].filter(([name]) => !own.includes(name)) };
}

const isReplay = ({ headers }: Answer): boolean => headers.get('idempotency-replayed') === 'true';

/** Keeps every insert into the default project waiting, until it is called. */
async function holdProject(t: Test, server: TestServer): Promise<() => Promise<void>> {
  const client = new pg.Client({ connectionString: server.database.superuserUrl });
  await client.connect();
  t.teardown(() => client.end());
  await client.query('begin');
  await client.query('select from finegrain.projects where id = $1 for update', [defaultProjectId]);
  return async () => {
    await client.query('rollback');
  };
}

async function asSuperuser<Row extends pg.QueryResultRow>(
  server: TestServer,
  sql: string,
  values: unknown[] = [],
): Promise<Row[]> {
  const client = new pg.Client({ connectionString: server.database.superuserUrl });
  await client.connect();
  return (await client.query<Row>(sql, values).finally(() => client.end())).rows;
}

const stored = (server: TestServer, key: string) =>
  asSuperuser(server, 'select status from finegrain.idempotency_keys where key = $1', [key]);

/** The pid of the transaction that waits for holdProject. */
async function waitingTransaction(server: TestServer): Promise<number> {
  for (;;) {
    const [row] = await asSuperuser<{ pid: number }>(
      server,
      "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
    );
    if (row) return row.pid;
    await sleep(20);
  }
}

const childEnvironment = (server: TestServer, databaseUrl: string) => ({
  DATABASE_URL: databaseUrl,
  FINEGRAIN_API_KEY: server.bootstrapKey,
  FINEGRAIN_DATA_DIR: join(server.dataDir, 'child'),
  FINEGRAIN_ARTIFACTS: join(server.dataDir, 'artifacts'),
});

async function namesOfDatasets(server: TestServer, key?: string): Promise<string[]> {
  const { body } = await server.call('GET', '/v1/datasets?limit=500', key === undefined ? {} : { key });
  return body.items.map(({ name }: { name: string }) => name);
}

t.test('under one key', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const create = (key: string, name: string, options: RequestOptions = {}) =>
    call('POST', '/v1/datasets', keyed(key, { json: { name }, ...options }));

  // a second process on the same database
  const second = await startApiProcess(t, childEnvironment(server, server.database.urlOf('finegrain_api')));
  const createThere = async (key: string, name: string): Promise<Answer> => {
    const response = await fetch(`${second.url}/v1/datasets`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${server.bootstrapKey}`,
        'content-type': 'application/json',
        'idempotency-key': key,
      },
      body: JSON.stringify({ name }),
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, text, body: JSON.parse(text) };
  };

  t.test('100 equal requests at once, to two processes, have one effect and equal answers', async (t) => {
    const release = await holdProject(t, server);
    const requests = Array.from({ length: 100 }, (_, n) =>
      (n % 2 === 0 ? create : createThere)('hundred', 'once'),
    );
    await waitingTransaction(server);
    const started = Date.now();
    for (let others = 0; others < 20; others++)
      t.equal((await call('GET', '/v1/datasets')).status, 200, 'nobody else waits');
    t.comment(`20 other requests took ${Date.now() - started} ms while 99 waited`);
    await release();
    const answers = await Promise.all(requests);
    t.equal(answers.filter((answer) => !isReplay(answer)).length, 1, 'one did it');
    t.equal(answers[0]!.status, 201);
    for (const answer of answers) t.same(seen(answer), seen(answers[0]!));
    t.same(await namesOfDatasets(server), ['once']);
  });

  t.test('the key belongs to the whole request', async (t) => {
    const first = await create('whole', 'whole');
    t.match(first, { status: 201 });
    const other = { status: 422, body: { code: 'idempotency_key_reused' } };
    t.match(await create('whole', 'another body'), other);
    const path = `/v1/datasets/${first.body.id}`;
    t.match(await call('PATCH', path, keyed('whole', { json: { name: 'whole' } })), other, 'another route');
    t.match(
      await call('POST', '/v1/datasets?x=1', keyed('whole', { json: { name: 'whole' } })),
      other,
      'a query',
    );
    const body = '{ "description" : null, "name":"wh\\u006fle" }';
    const spelled = await create('spelled', 'whole', { json: { name: 'whole', description: null } });
    const again = await call(
      'POST',
      '/v1/datasets',
      keyed('spelled', { body, headers: { 'content-type': 'application/json' } }),
    );
    t.ok(isReplay(again), 'the same JSON in another spelling is the same request');
    t.same(seen(again), seen(spelled));
  });

  t.test('the key is the project’s: independent in another, shared by the keys of one', async (t) => {
    const stranger = await server.otherProjectKey();
    const [mine, theirs] = [await create('same', 'mine'), await create('same', 'theirs', { key: stranger })];
    t.match(theirs, { status: 201, body: { name: 'theirs' } });
    t.notOk(isReplay(theirs));
    t.same(await namesOfDatasets(server, stranger), ['theirs']);
    const writer = await server.keyWith('pairs:write');
    t.same(seen(await create('same', 'mine', { key: writer })), seen(mine), 'another key of the project');
    const reader = await server.keyWith('read');
    t.match(
      await create('same', 'mine', { key: reader }),
      { status: 403, body: { code: 'missing_scope' } },
      'a key that may not do it is not told how it went',
    );
  });

  t.test('errors store nothing: what failed can be done under the same key', async (t) => {
    const { body: dataset } = await call('POST', '/v1/datasets', { json: { name: 'empty at first' } });
    const split = { train: 1, validation: 0, test: 0, seed: 0 };
    const snapshot = () =>
      call('POST', '/v1/snapshots', keyed('failing', { json: { dataset_ids: [dataset.id], split } }));
    for (const _ of [1, 2]) t.match(await snapshot(), { status: 422, body: { code: 'unprocessable' } });
    t.same(await stored(server, 'failing'), []);
    const pairs = [{ prompt: 'p', response_a: 'a', response_b: 'b', preference: 'a' }];
    await call('POST', `/v1/datasets/${dataset.id}/pairs`, { json: { pairs } });
    const done = await snapshot();
    t.match(done, { status: 201 });
    t.same(seen(await snapshot()), seen(done));
  });

  t.test('a broken transaction is a 503 that stores nothing', async (t) => {
    const release = await holdProject(t, server);
    const request = create('broken', 'broken');
    await asSuperuser(server, 'select pg_terminate_backend($1)', [await waitingTransaction(server)]);
    t.match(await request, { status: 503, body: { code: 'unavailable' } });
    await release();
    t.notOk((await namesOfDatasets(server)).includes('broken'));
    t.same(await stored(server, 'broken'), []);
    t.match(await create('broken', 'broken'), { status: 201 });
  });

  t.test('work may be long; others wait for it for 10 s', async (t) => {
    const caller = {
      projectId: defaultProjectId,
      keyId: null,
      scopes: ['admin'],
      requestId: 'test',
      address: '127.0.0.1',
    };
    const requestSha256 = createHash('sha256').update('another request').digest();
    const long = once(server.services, caller, { key: 'long', requestSha256 }, async (services) => {
      await createDataset(services, caller, { name: 'long' });
      await sleep(17_000); // more than idle_in_transaction_session_timeout
      await createDataset(services, caller, { name: 'long, part two' });
      return { status: 201, headers: {}, body: null };
    });
    await sleep(200);
    const started = Date.now();
    const waiting = [create('long', 'waits'), createThere('long', 'waits')].map(async (request) => {
      const waited = await request;
      t.match(waited, { status: 409, body: { code: 'idempotency_key_in_use' } });
      t.equal(waited.headers.get('retry-after'), '10');
      const seconds = (Date.now() - started) / 1000;
      t.ok(seconds > 9 && seconds < 13, `waited ${seconds} s`);
    });
    await Promise.all(waiting);
    t.match(await long, { replayed: false });
    t.same(
      (await namesOfDatasets(server)).filter((name) => /^(long|waits)/.test(name)),
      ['long', 'long, part two'],
    );
    t.match(await create('long', 'waits'), { status: 422 });
  });

  t.test('answers are forgotten after a day, not before', async (t) => {
    const age = (key: string, hours: number) =>
      asSuperuser(
        server,
        'update finegrain.idempotency_keys set created_at = now() - make_interval(hours => $2) where key = $1',
        [key, hours],
      );
    await create('old', 'old');
    await create('young', 'young');
    await age('old', 25);
    await age('young', 23);
    t.equal(await forgetAnswers(server.database.open('finegrain_system')), 1);
    t.same(await stored(server, 'old'), []);
    t.ok(isReplay(await create('young', 'young')));
  });

  t.test('a header that is no key', async (t) => {
    for (const key of ['', 'two words', 'x'.repeat(256), 'caf\xe9', 'tab\there']) {
      t.match(
        await create(key, 'never'),
        {
          status: 400,
          body: { code: 'invalid_request', errors: [{ pointer: '/idempotency-key', in: 'headers' }] },
        },
        JSON.stringify(key),
      );
    }
    t.match(await create('one, two', 'never'), { status: 400 }, 'sent twice');
    t.notOk((await namesOfDatasets(server)).includes('never'));
    for (const key of ['!', '~'.repeat(255), '"quoted"'])
      t.match(await create(key, 'fine'), { status: 201 }, key);
  });
});

t.test('a process killed', async (t) => {
  const server = await startTestServer(t);
  const databaseUrl = server.database.urlOf('finegrain_api');
  /** Through a fresh connection; null: it ended without an answer. */
  const create = (
    url: string,
    name: string,
  ): Promise<{ status: number; replayed: boolean; body: string } | null> =>
    new Promise((resolve) => {
      const sent = httpRequest(`${url}/v1/datasets`, {
        method: 'POST',
        agent: false,
        headers: {
          authorization: `Bearer ${server.bootstrapKey}`,
          'content-type': 'application/json',
          'idempotency-key': name,
        },
      });
      sent.on('error', () => resolve(null));
      sent.on('response', async (response) => {
        let body = '';
        for await (const chunk of response.setEncoding('utf8')) body += chunk;
        resolve({ status: response.statusCode!, replayed: 'idempotency-replayed' in response.headers, body });
      });
      sent.end(JSON.stringify({ name }));
    });
  const named = (name: string) =>
    asSuperuser<{ id: string }>(server, 'select id from finegrain.datasets where name = $1', [name]);

  for (const what of ['answer', 'commit'] as const) {
    const name = what === 'answer' ? 'between the effect and its answer' : 'before its commit';
    t.test(name, async (t) => {
      const way = await holdCommits(t, databaseUrl);
      const api = await startApiProcess(t, childEnvironment(server, way.url));
      const held = way.hold(what);
      const lost = create(api.url, what);
      await held;
      const before = await named(what);
      t.equal(
        before.length,
        what === 'answer' ? 1 : 0,
        what === 'answer' ? 'the effect is there' : 'nothing is there',
      );
      t.equal((await stored(server, what)).length, before.length, 'and its answer with it');
      await api.kill();
      t.equal(await lost, null, 'the client was told nothing');

      const next = await startApiProcess(t, childEnvironment(server, databaseUrl));
      const repeated = await create(next.url, what);
      t.match(repeated, { status: 201, replayed: what === 'answer' });
      const after = await named(what);
      t.equal(after.length, 1, 'one effect in all');
      t.equal(JSON.parse(repeated!.body).id, `ds_${after[0]!.id.replaceAll('-', '')}`);
      if (what === 'answer') t.same(after, before);
      t.same(await create(next.url, what), { ...repeated, replayed: true });
    });
  }
});

interface Call {
  method: string;
  path: string;
  json?: unknown;
}

/** A request to every operation that takes the header, each on something of its own. */
function acceptedCalls(server: TestServer): Record<string, () => Promise<Call>> {
  const post = async (path: string, json?: unknown) => {
    const answer = await server.call('POST', path, json === undefined ? {} : { json });
    if (answer.status >= 300) throw new Error(answer.text);
    return answer.body;
  };
  const dataset = async () => (await post('/v1/datasets', { name: 'd' })).id;
  const newPair = () => ({ prompt: randomUUID(), response_a: 'good', response_b: 'bad', preference: 'a' });
  const pair = async (datasetId?: string) =>
    (await post(`/v1/datasets/${datasetId ?? (await dataset())}/pairs`, { pairs: [newPair()] })).items[0].id;
  const editRequest = async () => {
    const dataset_id = await dataset();
    await pair(dataset_id);
    return (await post('/v1/edit-requests', { dataset_id, editor: 'person' })).id;
  };
  /** The last request to a run that has seen the others. */
  const onRun = async (before: string[], last: string): Promise<Call> => {
    const path = `/v1/runs/${(await run()).id}`;
    for (const request of before) await post(`${path}/${request}`);
    return { method: 'POST', path: `${path}/${last}` };
  };
  const onTask = async (verb: string, extra: object = {}): Promise<Call> => {
    const edit_request_id = await editRequest();
    const editor = { kind: 'person', name: 'one' };
    const [{ id, lease_token }] = (await post('/v1/edit-tasks/claim', { editor, edit_request_id })).items;
    return { method: 'POST', path: `/v1/edit-tasks/${id}/${verb}`, json: { lease_token, ...extra } };
  };
  const annotations = [{ instruction: 'p', output_1: 'r', output_2: 's', preference: 2 }];
  const compared = (kind: string) => {
    const responses = [{ id: 'one', prompt: 'p', response: 'r' }];
    return { candidates: [{ responses }], baseline: { responses }, judge: { kind } };
  };
  const onJudgement = async (verb: string, extra: object = {}): Promise<Call> => {
    const { id: evaluation_id } = await post('/v1/evaluations', compared('person'));
    await evaluationSlice(
      { ...server.services, db: server.database.open('finegrain_system') }, // no worker runs here to make its items
      { projectId: defaultProjectId, evaluationId: parseId('evaluation', evaluation_id)! },
      new AbortController().signal,
    );
    const [{ id, lease_token }] = (await post('/v1/judgement-tasks/claim', { judge: 'ann', evaluation_id }))
      .items;
    return { method: 'POST', path: `/v1/judgement-tasks/${id}/${verb}`, json: { lease_token, ...extra } };
  };
  const run = () => queueSft(server, [{ prompt: 'p', response: 'r' }]);
  const alias = async (name: string) => {
    const model_id = await registerTinyModel(server);
    return { path: `/v1/aliases/${name}`, json: { model_id } };
  };
  const announced = () => ({
    digest: `sha256:${createHash('sha256').update(randomUUID()).digest('hex')}`,
    bytes: 1,
  });
  const upload = async (body: string | Uint8Array): Promise<string> => {
    const headers = { 'content-type': 'application/octet-stream' };
    return (await server.call('POST', '/v1/artifacts', { body, headers })).body.digest;
  };
  const scoreJob = async () => ({
    model: await registerTinyModel(server),
    input: { artifact: await upload('{"prompt": "p", "response": "r"}') },
  });
  const webhook = async () =>
    (await post('/v1/webhooks', { url: 'https://example.com/hook', events: ['run.failed'] })).id;
  return {
    deleteWebhook: async () => ({ method: 'DELETE', path: `/v1/webhooks/${await webhook()}` }),
    testWebhook: async () => ({ method: 'POST', path: `/v1/webhooks/${await webhook()}/test` }),
    async redeliverWebhook() {
      const id = await webhook();
      const delivery = await post(`/v1/webhooks/${id}/test`);
      const system = server.database.open('finegrain_system'); // no worker runs here to end it
      await system.transaction(null, (tx) =>
        tx.query(
          "update finegrain.webhook_deliveries set state = 'failed', due_at = null, finished_at = now()",
        ),
      );
      return { method: 'POST', path: `/v1/webhooks/${id}/deliveries/${delivery.id}/redeliver` };
    },
    async deleteSecret() {
      await server.call('PUT', '/v1/secrets/llm', { json: { value: 'x' } });
      return { method: 'DELETE', path: '/v1/secrets/llm' };
    },
    async registerModel() {
      const names = ['config.json', 'finegrain.json', 'golden.json', 'reward.onnx', 'tokenizer.json'];
      const files = names.map(async (path) => ({
        path,
        digest: await upload(await readFile(new URL(path, tinyModelFolder))),
      }));
      const json = { name: 'mine', role: 'token_reward', files: await Promise.all(files) };
      return { method: 'POST', path: '/v1/models', json };
    },
    createScoreJob: async () => ({ method: 'POST', path: '/v1/score-jobs', json: await scoreJob() }),
    cancelScoreJob: async () => ({
      method: 'POST',
      path: `/v1/score-jobs/${(await post('/v1/score-jobs', await scoreJob())).id}/cancel`,
    }),
    createArtifactUpload: async () => ({ method: 'POST', path: '/v1/artifact-uploads', json: announced() }),
    abortArtifactUpload: async () => ({
      method: 'DELETE',
      path: `/v1/artifact-uploads/${(await post('/v1/artifact-uploads', announced())).id}`,
    }),
    createDataset: async () => ({ method: 'POST', path: '/v1/datasets', json: { name: 'd' } }),
    updateDataset: async () => ({
      method: 'PATCH',
      path: `/v1/datasets/${await dataset()}`,
      json: { name: 'renamed' },
    }),
    createPairs: async () => ({
      method: 'POST',
      path: `/v1/datasets/${await dataset()}/pairs`,
      json: { pairs: [newPair()] },
    }),
    setPreference: async () => ({
      method: 'PATCH',
      path: `/v1/pairs/${await pair()}`,
      json: { preference: 'b' },
    }),
    deletePair: async () => ({ method: 'DELETE', path: `/v1/pairs/${await pair()}` }),
    createEdits: async () => ({
      method: 'POST',
      path: '/v1/edits',
      json: {
        edits: [
          { pair_id: await pair(), edited_response: 'better', editor: { kind: 'person', name: 'one' } },
        ],
      },
    }),
    decideEdit: async () => {
      const edit = {
        pair_id: await pair(),
        edited_response: 'better',
        editor: { kind: 'person', name: 'one' },
      };
      const [{ id }] = (await post('/v1/edits', { edits: [edit] })).items;
      return {
        method: 'POST',
        path: `/v1/edits/${id}/decision`,
        json: { decision: 'reject', reviewer: 'two' },
      };
    },
    voteOnPair: async () => ({
      method: 'POST',
      path: `/v1/pairs/${await pair()}/votes`,
      json: { voter: 'one', vote: 'b' },
    }),
    createEditRequest: async () => {
      const dataset_id = await dataset();
      await pair(dataset_id);
      return { method: 'POST', path: '/v1/edit-requests', json: { dataset_id, editor: 'person' } };
    },
    cancelEditRequest: async () => ({
      method: 'POST',
      path: `/v1/edit-requests/${await editRequest()}/cancel`,
    }),
    resumeEditRequest: async () => {
      const dataset_id = await dataset();
      await pair(dataset_id);
      const llm = { base_url: 'http://127.0.0.1:8099/v1', model: 'm' };
      const { id } = await post('/v1/edit-requests', { dataset_id, editor: 'llm', llm });
      return { method: 'POST', path: `/v1/edit-requests/${id}/resume`, json: {} };
    },
    createEvaluation: async () => ({ method: 'POST', path: '/v1/evaluations', json: compared('external') }),
    cancelEvaluation: async () => ({
      method: 'POST',
      path: `/v1/evaluations/${(await post('/v1/evaluations', compared('external'))).id}/cancel`,
    }),
    resumeEvaluation: async () => {
      const judge = { kind: 'llm', base_url: 'http://127.0.0.1:8099/v1', model: 'm' };
      const { id } = await post('/v1/evaluations', { ...compared('external'), judge });
      return { method: 'POST', path: `/v1/evaluations/${id}/resume`, json: {} };
    },
    importEvaluation: async () => ({ method: 'POST', path: '/v1/evaluations/import', json: { annotations } }),
    async addJudgements() {
      const { id } = await post('/v1/evaluations/import', { annotations });
      const { items } = (await server.call('GET', `/v1/evaluations/${id}/items`)).body;
      const judgement = { item_id: items[0].item_id, outcome: 1, judge: { kind: 'person', name: 'ann' } };
      return { method: 'POST', path: `/v1/evaluations/${id}/judgements`, json: { judgements: [judgement] } };
    },
    submitJudgement: () => onJudgement('submit', { verdict: 'tie' }),
    heartbeatJudgement: () => onJudgement('heartbeat'),
    releaseJudgement: () => onJudgement('release'),
    skipJudgement: () => onJudgement('skip'),
    heartbeatEditTask: () => onTask('heartbeat'),
    submitEditTask: () => onTask('submit', { edited_response: 'better' }),
    releaseEditTask: () => onTask('release'),
    skipEditTask: () => onTask('skip'),
    createSnapshot: async () => {
      const id = await dataset();
      await pair(id);
      const split = { train: 1, validation: 0, test: 0, seed: 0 };
      return { method: 'POST', path: '/v1/snapshots', json: { dataset_ids: [id], split } };
    },
    createRun: async () => {
      const { kind, spec } = await run();
      return { method: 'POST', path: '/v1/runs', json: { kind, spec } };
    },
    cancelRun: () => onRun([], 'cancel'),
    pauseRun: () => onRun([], 'pause'),
    resumeRun: () => onRun(['pause'], 'resume'),
    async promoteRunCheckpoint() {
      // no other run of this test asks for cuda
      const { id } = await queueSft(server, [{ prompt: 'p', response: 'r' }], { hardware: 'cuda' });
      const file = await server.call('POST', '/v1/artifacts', {
        body: 'a checkpoint',
        headers: { 'content-type': 'text/plain' },
      });
      const { digest, bytes } = file.body;
      await server.database.open('finegrain_runner').transaction(null, async (tx) => {
        const held = (await claimAs(tx, 'one', { hardware: ['cuda'] }))!;
        await saveRunCheckpoint(tx, held, 5, [{ path: 'checkpoints/5/manifest.json', digest, bytes }]);
      });
      return { method: 'POST', path: `/v1/runs/${id}/checkpoints/5/promote`, json: {} };
    },
    retryRun: () => onRun(['cancel'], 'retry'),
    updateRun: async () => ({ method: 'PATCH', path: `/v1/runs/${(await run()).id}`, json: { priority: 1 } }),
    deleteModel: async () => ({ method: 'DELETE', path: `/v1/models/${await registerTinyModel(server)}` }),
    setAlias: async () => ({ method: 'PUT', ...(await alias('set')) }),
    deleteAlias: async () => {
      const { path, json } = await alias('delete');
      await server.call('PUT', path, { json });
      return { method: 'DELETE', path };
    },
    revokeKey: async () => ({
      method: 'DELETE',
      path: `/v1/keys/${(await post('/v1/keys', { name: 'k', scopes: ['read'] })).id}`,
    }),
  };
}

interface Operation {
  operationId: string;
  description: string;
  parameters?: { in: string; name: string }[];
}

t.test('every route under /v1 that writes', async (t) => {
  const server = await startTestServer(t);
  const { paths } = (await server.call('GET', '/openapi.json')).body;
  const calls = acceptedCalls(server);
  for (const [template, methods] of Object.entries<Record<string, Operation>>(paths)) {
    if (!template.startsWith('/v1/')) continue;
    for (const [method, { operationId, description, parameters = [] }] of Object.entries(methods)) {
      if (method === 'get') continue;
      const documented = parameters.some((one) => one.in === 'header' && one.name === 'Idempotency-Key');
      if (documented) {
        t.test(`${operationId} takes the header: a repeat gets the first answer`, async (t) => {
          const call = calls[operationId];
          if (!call) return t.fail('give acceptedCalls a request to it');
          const { method, path, json } = await call();
          const options = keyed(randomUUID(), json === undefined ? {} : { json });
          const first = await server.call(method, path, options);
          t.ok(first.status < 300, `${first.status} ${first.text}`);
          t.notOk(isReplay(first));
          const second = await server.call(method, path, options);
          t.ok(isReplay(second));
          t.same(seen(second), seen(first));
        });
      } else {
        t.test(`${operationId} refuses the header and says why`, async (t) => {
          const path = template.replaceAll(/\{\w+\}/g, 'x');
          const answer = await server.call(method.toUpperCase(), path, keyed('key', { json: {} }));
          const errors = [
            { pointer: '/idempotency-key', detail: /^is refused by this route: /, in: 'headers' },
          ];
          t.match(answer, { status: 400, body: { code: 'invalid_request', errors } });
          t.match(description, /Refuses an `Idempotency-Key`: /);
        });
      }
    }
  }
});
