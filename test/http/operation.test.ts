// What operators and balancers ask: /metrics, /readyz, and a service that is about to stop.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import t from 'tap';
import { operatingFigures } from '../../src/services/operating-figures.ts';
import { shippedSampleFolder } from '../../src/services/sample-model.ts';
import { createTestDatabase } from '../support/database.ts';
import { type Family, readExposition } from '../support/exposition.ts';
import { claimAs, queueRow } from '../support/queue.ts';
import { exchange } from '../support/raw-http.ts';
import { startTestServer, type TestServer } from '../support/server.ts';

async function scrape({ call }: TestServer): Promise<Map<string, Family>> {
  const answer = await call('GET', '/metrics', { key: null });
  if (answer.status !== 200) throw new Error(`/metrics answered ${answer.status}`);
  return readExposition(answer.text);
}

/** The value of the one sample with these labels; undefined when there is none. */
function readValue(
  families: Map<string, Family>,
  name: string,
  labels: Record<string, string> = {},
): number | undefined {
  const family = [...families].find(([family]) => name === family || name.startsWith(`${family}_`))?.[1];
  return family?.samples.find(
    (sample) =>
      sample.name === name && Object.entries(labels).every(([key, value]) => sample.labels[key] === value),
  )?.value;
}

async function administer({ database }: TestServer, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: database.superuserUrl });
  await client.connect();
  await client.query(statement).finally(() => client.end());
}

t.test('/metrics', async (t) => {
  const server = await startTestServer(t, { sampleFolder: shippedSampleFolder });
  const { url, call, bootstrapKey } = server;

  t.test('requests by route pattern, never by path', async (t) => {
    await call('GET', '/v1/datasets/ds_1');
    await call('GET', '/v1/datasets/ds_2');
    await call('GET', '/v1/nothing-of-the-sort');
    await call('PUT', '/v1/datasets');
    await exchange(url, 'nonsense\r\n\r\n');
    await sleep(50);
    const answer = await call('GET', '/metrics', { key: null });
    t.equal(answer.headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8');
    const families = readExposition(answer.text);
    const count = (method: string, route: string, status: string) =>
      readValue(families, 'finegrain_http_request_duration_seconds_count', { method, route, status });
    t.equal(count('GET', '/v1/datasets/:dataset_id', '4xx'), 2);
    t.equal(count('GET', 'none', '4xx'), 1);
    t.equal(count('PUT', 'none', '4xx'), 1);
    t.equal(readValue(families, 'finegrain_http_broken_requests_total', { status: '400' }), 1);
    t.equal(readValue(families, 'finegrain_http_requests_in_flight'), 1, 'the scrape itself');
    t.notMatch(answer.text, /ds_1|nothing-of-the-sort/);
    t.ok(readValue(families, 'process_resident_memory_bytes')! > 1e7);
    t.ok(families.has('nodejs_eventloop_lag_p99_seconds'));
    t.equal(readValue(families, 'finegrain_database_connections', { state: 'waiting' }), 0);
  });

  t.test('queues of runs and jobs, over all projects, as counts only', async (t) => {
    const empty = await scrape(server);
    t.equal(
      readValue(empty, 'finegrain_runs', { kind: 'ppo', hardware: 'cuda', state: 'queued' }),
      0,
      'an empty queue has a depth',
    );
    t.same(empty.get('finegrain_runners')?.samples, []);
    const project = '00000000-0000-7000-8000-000000000000';
    const id = (number: number) => `00000000-0000-7000-8000-00000000000${number}`;
    const api = server.database.open('finegrain_api');
    for (const [number, settings] of Object.entries({
      1: { hardware: 'cuda' },
      2: { hardware: 'cuda' },
      3: {},
      4: { hardware: 'cuda', after: [id(1)] },
    }))
      await api.transaction(project, (tx) =>
        queueRow(tx, project, id(Number(number)), { kind: 'ppo', ...settings }),
      );
    const runner = server.database.open('finegrain_runner');
    for (const name of ['busy', 'idle']) await runner.transaction(null, (tx) => claimAs(tx, name));
    await administer(
      server,
      `update finegrain.runs set created_at = now() - interval '600 s' where id in ('${id(1)}', '${id(4)}')`,
    );
    await administer(
      server,
      `select graphile_worker.add_job('deliver', run_at => now() - interval '30 s'), graphile_worker.add_job('deliver', run_at => now() + interval '1 h'), graphile_worker.add_job('reap')`,
    );
    await sleep(1100); // what was read before may be told for a second
    const families = await scrape(server);
    const labels = { kind: 'ppo', hardware: 'cuda' };
    t.equal(readValue(families, 'finegrain_runs', { ...labels, state: 'queued' }), 2);
    t.equal(readValue(families, 'finegrain_runs', { ...labels, state: 'waiting' }), 1);
    t.equal(readValue(families, 'finegrain_runs', { kind: 'ppo', hardware: 'cpu', state: 'starting' }), 1);
    const age = readValue(families, 'finegrain_run_queue_oldest_seconds', labels)!;
    t.ok(age >= 600 && age < 660, `${age}`);
    for (const state of ['busy', 'idle'])
      t.equal(readValue(families, 'finegrain_runners', { hardware: 'cpu', state }), 1);
    t.equal(readValue(families, 'finegrain_jobs', { task: 'deliver', state: 'waiting' }), 1);
    t.equal(readValue(families, 'finegrain_jobs', { task: 'deliver', state: 'scheduled' }), 1);
    t.equal(readValue(families, 'finegrain_jobs', { task: 'reap', state: 'waiting' }), 1);
    const due = readValue(families, 'finegrain_job_queue_oldest_seconds', { task: 'deliver' })!;
    t.ok(due >= 30 && due < 90, `${due}`);
  });

  t.test('scoring', async (t) => {
    const before = await scrape(server);
    t.equal(readValue(before, 'finegrain_scoring_tokens_total'), 0);
    const scored = await call('POST', '/v1/score', {
      json: { prompt: 'Write to Anna.', responses: ['Dear Anna.', ''] },
    });
    const [result] = scored.body.results;
    const after = await scrape(server);
    t.equal(
      readValue(after, 'finegrain_scoring_tokens_total'),
      result.prompt_token_count + result.rewards.length,
    );
    t.equal(readValue(after, 'finegrain_scoring_loaded_models'), 1);
    t.equal(readValue(after, 'finegrain_scoring_queued_tokens'), 0);
    t.equal(readValue(after, 'finegrain_scoring_refusals_total'), 0);
  });

  t.test('is cheap: one look at the database a second', async (t) => {
    const { db } = server.services;
    let looks = 0;
    const read = operatingFigures({
      ...db,
      transaction(projectId, work) {
        looks++;
        return db.transaction(projectId, work);
      },
    });
    await Promise.all(Array.from({ length: 50 }, read));
    await read();
    t.equal(looks, 1);
    await sleep(1100);
    t.match((await read())?.runs.length, 3);
    t.equal(looks, 2);
    const startedAt = performance.now();
    for (let n = 0; n < 20; n++) await scrape(server);
    t.comment(`a scrape takes ${((performance.now() - startedAt) / 20).toFixed(1)} ms`);
  });

  t.test('asks for its own key only where the operator has set one', async (t) => {
    const metricsKey = 'a-key-for-prometheus';
    const guarded = await startTestServer(t, { metricsKey });
    for (const key of [null, 'wrong', guarded.bootstrapKey]) {
      const answer = await guarded.call('GET', '/metrics', { key });
      t.match(answer, { status: 401, body: { code: 'unauthenticated' } });
      t.equal(answer.headers.get('www-authenticate'), 'Bearer realm="finegrain metrics"');
    }
    t.match(await guarded.call('GET', '/metrics', { key: metricsKey }), { status: 200 });
  });

  t.test('tells that the database is down, in time, and goes on', async (t) => {
    await administer(server, 'revoke execute on function finegrain.operating_figures from finegrain_api');
    await sleep(1100);
    const down = await scrape(server);
    t.equal(readValue(down, 'finegrain_database_up'), 0);
    for (const name of ['finegrain_runs', 'finegrain_runners', 'finegrain_jobs'])
      t.same(down.get(name)?.samples, [], `${name} is not known, which is not 0`);
    t.ok(readValue(down, 'process_resident_memory_bytes'));
    await administer(server, 'grant execute on function finegrain.operating_figures to finegrain_api');
    const held = new pg.Client({ connectionString: server.database.superuserUrl });
    await held.connect();
    await held.query('begin; lock table finegrain.runs in access exclusive mode');
    await sleep(1100);
    const startedAt = performance.now();
    t.equal(readValue(await scrape(server), 'finegrain_database_up'), 0);
    t.ok(performance.now() - startedAt < 3000, 'a database that hangs is not waited for');
    await held.query('commit');
    await held.end();
    await sleep(1100);
    t.equal(readValue(await scrape(server), 'finegrain_database_up'), 1);
    t.match(await call('GET', '/v1/datasets', { key: bootstrapKey }), { status: 200 });
  });
});

t.test('/readyz', async (t) => {
  const server = await startTestServer(t, { sampleFolder: shippedSampleFolder });
  const { call, dataDir } = server;
  const ready = () => call('GET', '/readyz', { key: null });
  const ok = { ok: true };

  t.test('the default model: to be loaded, loaded, absent', async (t) => {
    t.match(await ready(), {
      status: 200,
      body: {
        ready: true,
        draining: false,
        checks: { database: ok, migrations: ok, artifacts: ok, model: { ok: true, detail: /first/ } },
      },
    });
    await call('POST', '/v1/score', { json: { prompt: 'Hi', responses: ['Hello'] } });
    t.match((await ready()).body.checks.model, { ok: true, detail: 'loaded' });
    const without = await startTestServer(t);
    t.match(await without.call('GET', '/readyz'), {
      status: 200,
      body: { ready: true, checks: { model: { ok: true, detail: /no sample model/ } } },
    });
  });

  t.test('a migration that is missing, or edited', async (t) => {
    await administer(server, "delete from finegrain_migrations.applied where name like '0008%'");
    t.match(await ready(), {
      status: 503,
      body: {
        ready: false,
        checks: { database: ok, migrations: { ok: false, detail: /finegrain migrate/ } },
      },
    });
    await administer(
      server,
      "insert into finegrain_migrations.applied (version, name, sha256) values (8, '0008_operating_figures.sql', 'other')",
    );
    t.match(await ready(), {
      status: 503,
      body: { checks: { migrations: { ok: false, detail: /edited/ } } },
    });
  });

  t.test('artifacts that cannot be stored', async (t) => {
    await rm(join(dataDir, 'artifacts'), { recursive: true });
    await writeFile(join(dataDir, 'artifacts'), 'a file where a folder should be');
    t.match(await ready(), {
      status: 503,
      body: { checks: { artifacts: { ok: false, detail: /artifacts/ } } },
    });
    await rm(join(dataDir, 'artifacts'));
  });

  t.test('a database that hangs, one that is gone: 503 in time', async (t) => {
    const held = new pg.Client({ connectionString: server.database.superuserUrl });
    await held.connect();
    await held.query('begin; lock table finegrain_migrations.applied in access exclusive mode');
    const startedAt = performance.now();
    t.match(await ready(), {
      status: 503,
      body: {
        checks: { database: { ok: false, detail: 'did not answer within 3 s' }, migrations: { ok: false } },
      },
    });
    t.ok(performance.now() - startedAt < 4000);
    await held.query('commit');
    await held.end();
    const url = new URL(server.database.superuserUrl);
    const name = url.pathname.slice(1);
    url.pathname = '/postgres';
    const elsewhere = new pg.Client({ connectionString: url.href });
    await elsewhere.connect();
    await elsewhere.query(`alter database ${name} allow_connections false`);
    await elsewhere.query(`select pg_terminate_backend(pid) from pg_stat_activity where datname = '${name}'`);
    await elsewhere.end();
    t.match(await ready(), { status: 503, body: { ready: false, checks: { database: { ok: false } } } });
    t.match(await call('GET', '/healthz'), { status: 200 });
  });
});

t.test('SIGTERM: not ready at once, served for a while, then gone with 0', async (t) => {
  const database = await createTestDatabase(t);
  const child = spawn(process.execPath, ['dist/src/main-api.js'], {
    env: {
      PATH: process.env.PATH,
      HOST: '127.0.0.1',
      PORT: '0',
      LOG_LEVEL: 'error',
      DATABASE_URL: database.urlOf('finegrain_api'),
      FINEGRAIN_DATA_DIR: t.testdir(),
      FINEGRAIN_API_KEY: 'fg_a-bootstrap-key-for-drains',
      FINEGRAIN_DRAIN_SECONDS: '2',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  let said = '';
  child.stdout.on('data', (chunk) => {
    said += chunk;
  });
  while (!/ready at/.test(said)) await once(child.stdout, 'data');
  const url = /ready at (http:\S+)/.exec(said)![1]!;
  t.equal((await fetch(`${url}/readyz`)).status, 200);
  const silent = connect(Number(new URL(url).port), '127.0.0.1'); // opened for later, as browsers do
  await once(silent, 'connect');
  child.kill('SIGTERM');
  await sleep(300);
  const draining = await fetch(`${url}/readyz`);
  t.equal(draining.status, 503);
  t.match(await draining.json(), { ready: false, draining: true, checks: { database: { ok: true } } });
  const served = await fetch(`${url}/v1/datasets`, {
    headers: { authorization: 'Bearer fg_a-bootstrap-key-for-drains' },
  });
  t.equal(served.status, 200, 'new connections are still served');
  t.equal(served.headers.get('connection'), 'close', 'but not kept');
  const [code] = await Promise.race([
    once(child, 'exit'),
    sleep(20_000, ['still there'], { ref: false }), // a connection may be silent for longer
  ]);
  t.equal(code, 0);
  await t.rejects(fetch(`${url}/healthz`));
});
