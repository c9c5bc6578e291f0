// One server behind a transaction pooler, as separate processes: `finegrain migrate`, worker and runner go past the pooler,
// the API through it. The pooler has one server connection, so whatever needs two at a time would stop here for good.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { installFinegrain, readyAddress } from '../support/installation.ts';
import { pgbouncerProgram } from '../support/pgbouncer.ts';
import { fakePython, queueSft, untilEnded } from '../support/runner.ts';
import type { TestServer } from '../support/server.ts';

const key = 'the-bootstrap-key-of-this-test';
t.setTimeout(180_000);

t.test(
  'an installation behind pgbouncer',
  { skip: pgbouncerProgram() === null && 'no pgbouncer' },
  async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'finegrain-test-'));
    t.teardown(() => rm(folder, { recursive: true, force: true }));
    const installation = await installFinegrain(folder, { poolSize: 1 });
    t.teardown(() => installation.stop());
    const pooled = installation.pooledUrl('finegrain_api');
    const api = installation.run('main-api.js', [], {
      DATABASE_URL: pooled,
      FINEGRAIN_API_KEY: key,
      HOST: '127.0.0.1',
      PORT: '0',
    });
    const url = await readyAddress(api);
    const call: TestServer['call'] = async (method, path, { json, body, headers = {} } = {}) => {
      const response = await fetch(url + path, {
        method,
        headers: {
          authorization: `Bearer ${key}`,
          ...(json === undefined ? {} : { 'content-type': 'application/json' }),
          ...headers,
        },
        ...(json === undefined ? (body === undefined ? {} : { body }) : { body: JSON.stringify(json) }),
      } as RequestInit);
      const text = await response.text();
      const isJson = /\bjson$/.test(response.headers.get('content-type')?.split(';')[0] ?? '');
      const parsed = isJson ? JSON.parse(text) : undefined;
      return { status: response.status, headers: response.headers, text, body: parsed };
    };

    t.test('the loop of the data, many at a time over one server connection', async (t) => {
      const dataset = (await call('POST', '/v1/datasets', { json: { name: 'pooled' } })).body.id;
      const rows = Array.from({ length: 2000 }, (_, i) => ({
        external_id: `p${i}`,
        prompt: `prompt ${i}`,
        response_a: `right ${i}`,
        response_b: `wrong ${i}`,
        preference: 'a',
      }));
      const half = (from: number) =>
        call('POST', `/v1/datasets/${dataset}/pairs/import`, {
          body: rows
            .slice(from, from + 1000)
            .map((row) => JSON.stringify(row))
            .join('\n'),
          headers: { 'content-type': 'application/x-ndjson' },
        });
      for (const { body } of await Promise.all([half(0), half(1000), half(0)]))
        t.match(body, { received: 1000, rejected: 0 });
      const exports = await Promise.all(
        Array.from({ length: 8 }, () => call('GET', `/v1/datasets/${dataset}/pairs/export`)),
      );
      for (const { text } of exports) t.equal(text.trim().split('\n').length, 2000);

      const request = { dataset_id: dataset, editor: 'program', redundancy: 1 };
      t.match(await call('POST', '/v1/edit-requests', { json: request }), { status: 202 });
      const claims = await Promise.all(
        Array.from({ length: 8 }, (_, i) =>
          call('POST', '/v1/edit-tasks/claim', {
            json: { editor: { kind: 'program', name: `editor ${i}` }, limit: 5 },
          }),
        ),
      );
      const tasks = claims.flatMap(({ body }) => body.items as { id: string; lease_token: string }[]);
      t.equal(new Set(tasks.map(({ id }) => id)).size, 40);
      const submits = await Promise.all(
        tasks.map(({ id, lease_token }) =>
          call('POST', `/v1/edit-tasks/${id}/submit`, { json: { lease_token, edited_response: 'right' } }),
        ),
      );
      t.ok(submits.every(({ status }) => status === 201));
      const snapshot = await call('POST', '/v1/snapshots', {
        json: { dataset_ids: [dataset], split: { train: 1, validation: 0, test: 0, seed: 0 } },
      });
      t.match(snapshot, { status: 201, body: { counts: { pairs: 2000 } } });
    });

    t.test('a run to its end: worker and runner past the pooler', async (t) => {
      const worker = installation.run('main-worker.js', [], {
        DATABASE_URL: pooled,
        DATABASE_DIRECT_URL: installation.directUrl('finegrain_system'),
      });
      const runner = installation.run('main-runner.js', [], {
        DATABASE_URL: pooled,
        DATABASE_DIRECT_URL: installation.directUrl('finegrain_runner'),
        FINEGRAIN_PYTHON: await fakePython(folder),
        FINEGRAIN_POLL_SECONDS: '1',
      });
      const run = await queueSft({ call }, [{ prompt: 'succeed', response: '' }]);
      t.match(await untilEnded({ call }, run.id, 120), {
        state: 'succeeded',
        attempts: [{ outcome: 'succeeded' }],
      });
      for (const program of [worker, runner, api]) {
        program.process.kill('SIGTERM');
        t.equal(await program.ended, 0);
        t.notMatch(program.stderr(), /"level":(50|60)/, 'nothing went wrong on the way');
      }
    });
  },
);
