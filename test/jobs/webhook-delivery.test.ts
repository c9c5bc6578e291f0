// From what happens in a project to what its receiver gets: real triggers, the real worker, a real HTTP receiver.
import { randomBytes, webcrypto } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import type { Transaction } from '../../src/db/pool.ts';
import { finishRun, type RunEnding } from '../../src/db/run-execution.ts';
import { maxTries, webhookEvents } from '../../src/domain/webhooks.ts';
import { openOutgoingClient } from '../../src/outgoing/client.ts';
import { defaultProjectId as project } from '../../src/services/keys.ts';
import { secretKeys } from '../../src/services/sealing.ts';
import { attemptDelivery } from '../../src/services/webhook-delivery.ts';
import type { Delivery } from '../../src/services/webhooks.ts';
import { claimAs, queueRow } from '../support/queue.ts';
import { type Received, startReceiver } from '../support/receiver.ts';
import { startTestServer, type TestServer } from '../support/server.ts';
import { startWorker } from '../support/worker.ts';

t.setTimeout(240_000);
const digest = `sha256:${'0'.repeat(64)}`;
const everything = Object.keys(webhookEvents);

async function setUp(t: Test, workerEnv: NodeJS.ProcessEnv = {}) {
  const key = randomBytes(32);
  const server = await startTestServer(t, { keys: secretKeys(key, []) });
  const receiver = await startReceiver(t);
  const env = {
    FINEGRAIN_SECRET_KEY: key.toString('base64'),
    FINEGRAIN_OUTGOING_ALLOW: '127.0.0.1',
    LOG_LEVEL: 'trace',
    ...workerEnv,
  };
  const { call, database } = server;
  const system = database.open('finegrain_system');
  const sql = <Row extends object>(text: string, values: unknown[] = []) =>
    system.transaction(null, (tx) => tx.query<Row & Record<string, unknown>>(text, values));
  const hook = async (path: string, json: object = {}, options = {}) =>
    (
      await call('POST', '/v1/webhooks', {
        json: { url: receiver.url(path), events: everything, ...json },
        ...options,
      })
    ).body;
  const ping = async (webhook: { id: string }): Promise<Delivery> =>
    (await call('POST', `/v1/webhooks/${webhook.id}/test`)).body;
  const deliveries = async (webhook: { id: string }): Promise<Delivery[]> =>
    (await call('GET', `/v1/webhooks/${webhook.id}/deliveries`)).body.items;
  /** Waits until the newest delivery is as wanted. */
  const until = async (
    webhook: { id: string },
    wanted: (delivery: Delivery) => boolean,
  ): Promise<Delivery> => {
    for (let waited = 0; ; waited += 50) {
      const [newest] = await deliveries(webhook);
      if (newest && wanted(newest)) return newest;
      if (waited > 30_000) throw new Error(`After 30 s the delivery is still ${JSON.stringify(newest)}`);
      await sleep(50);
    }
  };
  const uuidOf = (id: string) => id.replace(/^[a-z]+_/, '');
  /** As if the time until the next attempt had passed. */
  const comeDue = (delivery: Delivery) =>
    sql('update finegrain.webhook_deliveries set due_at = clock_timestamp() where id = $1', [
      uuidOf(delivery.id),
    ]);
  const jobs = () =>
    sql<{ key: string; run_at: Date; locked_at: Date | null }>(
      "select key, run_at, locked_at from graphile_worker.jobs where task_identifier = 'deliver-webhook'",
    );
  const startOne = (t: Test) => startWorker(t, database, env);
  return {
    server,
    call,
    receiver,
    system,
    sql,
    hook,
    ping,
    deliveries,
    until,
    comeDue,
    uuidOf,
    jobs,
    startOne,
  };
}

let lastRun = 0;
async function runOf({ database }: TestServer, of = project): Promise<string> {
  const id = `00000000-0000-7000-8000-${String(++lastRun).padStart(12, '0')}`;
  await database.open('finegrain_api').transaction(of, (tx) => queueRow(tx, of, id, { maxAttempts: 1 }));
  return id;
}

const claim = (tx: Transaction) => claimAs(tx);
const ending = (outcome: RunEnding['outcome'], model: object | null = null): RunEnding => ({
  outcome,
  result: outcome === 'succeeded' ? {} : null,
  failure: outcome === 'failed' ? { reason: 'error', detail: 'text of a pair' } : null,
  runArtifacts: [],
  newArtifacts: [],
  model: model as never,
  alias: null,
  events: [],
});

/** Computed as the specification says, by another implementation than the service's. */
async function hasGoodSignature({ headers, text }: Received, secret: string): Promise<boolean> {
  const key = await webcrypto.subtle.importKey(
    'raw',
    Buffer.from(secret.replace('whsec_', ''), 'base64'),
    { name: 'HMAC', hash: 'SHA-256' },
    false,
    ['verify'],
  );
  const [version, signature] = String(headers['webhook-signature']).split(',');
  const content = new TextEncoder().encode(
    `${headers['webhook-id']}.${headers['webhook-timestamp']}.${text}`,
  );
  return version === 'v1' && webcrypto.subtle.verify('HMAC', key, Buffer.from(signature!, 'base64'), content);
}

t.test('what happens is told, in the transaction that makes it true', async (t) => {
  const { server, call, sql, hook, deliveries, jobs, uuidOf } = await setUp(t);
  const runner = server.database.open('finegrain_runner');
  const webhook = await hook('/unused');
  const told = async () => (await deliveries(webhook)).map(({ type, data }) => ({ type, data }));
  const clear = () => sql('delete from finegrain.webhook_deliveries');
  const publicId = (prefix: string, uuid: string) => `${prefix}_${uuid.replaceAll('-', '')}`;

  t.test('runs and models', async (t) => {
    const modelId = '00000000-0000-7000-8000-0000000000aa';
    const model = {
      id: modelId,
      name: 'm',
      role: 'policy',
      digest,
      tokenizer_digest: digest,
      files: [],
      metrics: {},
    };
    const endings = [
      { outcome: 'succeeded', model },
      { outcome: 'failed', model: null },
    ] as const;
    for (const { outcome, model } of endings) {
      const id = await runOf(server);
      const held = (await runner.transaction(null, claim))!;
      t.same(await told(), [], 'a run that begins is not told');
      await runner.transaction(null, (tx) => finishRun(tx, held, ending(outcome, model)));
      const data = {
        run_id: publicId('run', id),
        kind: 'sft',
        state: outcome,
        model_id: model && publicId('model', modelId),
      };
      t.same(await told(), [
        { type: `run.${outcome}`, data },
        ...(model
          ? [
              {
                type: 'model.registered',
                data: { model_id: data.model_id, role: 'policy', run_id: data.run_id },
              },
            ]
          : []),
      ]);
      await clear();
    }
    const id = publicId('run', await runOf(server));
    await call('POST', `/v1/runs/${id}/cancel`);
    const cancelled = { run_id: id, kind: 'sft', state: 'cancelled', model_id: null };
    t.same(await told(), [{ type: 'run.cancelled', data: cancelled }]);
    await clear();
  });

  t.test('a transaction that is rolled back tells nothing', async (t) => {
    await runOf(server);
    const held = (await runner.transaction(null, claim))!;
    const before = (await jobs()).length;
    await t.rejects(
      runner.transaction(null, async (tx) => {
        t.ok(await finishRun(tx, held, ending('failed')));
        throw new Error('the connection broke');
      }),
    );
    t.same(await told(), []);
    t.equal((await jobs()).length, before);
    await runner.transaction(null, (tx) => finishRun(tx, held, ending('cancelled')));
    t.match(await told(), [{ type: 'run.cancelled' }]);
    await clear();
  });

  t.test('only to webhooks of the project that ask for it and are not disabled', async (t) => {
    const picky = await hook('/unused', { events: ['run.succeeded'] });
    const disabled = await hook('/unused');
    await sql(
      "update finegrain.webhooks set disabled_at = now(), disabled_reason = 'x' where description is null and id = $1",
      [disabled.id.slice(3)],
    );
    const key = await server.otherProjectKey();
    const strange = await hook('/unused', {}, { key });
    await runOf(server);
    const held = (await runner.transaction(null, claim))!;
    await runner.transaction(null, (tx) => finishRun(tx, held, ending('failed')));
    t.equal((await told()).length, 1);
    t.same([...(await deliveries(picky)), ...(await deliveries(disabled))], []);
    t.same((await call('GET', `/v1/webhooks/${strange.id}/deliveries`, { key })).body.items, []);
    for (const { id } of [picky, disabled]) await call('DELETE', `/v1/webhooks/${id}`);
    await clear();
  });

  t.test('a webhook that is deleted in the same moment does not fail the run', async (t) => {
    const doomed = await hook('/unused');
    await runOf(server);
    const held = (await runner.transaction(null, claim))!;
    const api = server.database.open('finegrain_api');
    let finished: Promise<boolean> | undefined;
    await api.transaction(project, async (tx) => {
      await tx.query('delete from finegrain.webhooks where id = $1', [doomed.id.slice(3)]);
      finished = runner.transaction(null, (tx) => finishRun(tx, held, ending('succeeded')));
      await sleep(300); // it waits for this transaction
    });
    t.equal(await finished, true);
    t.match(await told(), [{ type: 'run.succeeded' }]);
    await clear();
  });

  t.test(
    'an edit request: once, when its last task is done, however many end at the same time',
    async (t) => {
      const work = async (pairs: number, redundancy = 1) => {
        const dataset = (await call('POST', '/v1/datasets', { json: { name: 'd' } })).body.id;
        const rows = Array.from({ length: pairs }, (_, n) => ({
          prompt: `p${n}`,
          response_a: 'good',
          response_b: 'bad',
          preference: 'a',
        }));
        const added = await call('POST', `/v1/datasets/${dataset}/pairs`, { json: { pairs: rows } });
        const request = await call('POST', '/v1/edit-requests', {
          json: { dataset_id: dataset, editor: 'person', redundancy },
        });
        return {
          dataset,
          request: request.body.id,
          pairs: added.body.items.map(({ id }: { id: string }) => id),
        };
      };
      const claimAll = async (request: string, name: string) =>
        (
          await call('POST', '/v1/edit-tasks/claim', {
            json: { editor: { kind: 'person', name }, edit_request_id: request, limit: 20 },
          })
        ).body.items as { id: string; lease_token: string; pair: { id: string } }[];
      const submit = ({ id, lease_token }: { id: string; lease_token: string }) =>
        call('POST', `/v1/edit-tasks/${id}/submit`, { json: { lease_token, edited_response: 'better' } });

      const { dataset, request } = await work(20);
      const tasks = await claimAll(request, 'ann');
      await submit(tasks.pop()!);
      t.same(await told(), []);
      await Promise.all(tasks.map(submit));
      const data = { edit_request_id: request, dataset_id: dataset, state: 'finished' };
      t.same(await told(), [{ type: 'edit_request.completed', data }]);
      await clear();

      const race = await work(2);
      const [one, other] = await claimAll(race.request, 'ann');
      const api = server.database.open('finegrain_api');
      // a commit that has looked, and is not over, while the other looks
      const end = (task: { id: string }, then = async () => {}) =>
        api.transaction(project, async (tx) => {
          await tx.query("update finegrain.edit_tasks set state = 'submitted' where id = $1", [
            uuidOf(task.id),
          ]);
          await tx.query('set constraints all immediate');
          await then();
        });
      let second: Promise<void> | undefined;
      await end(one!, async () => {
        second = end(other!);
        await sleep(300);
      });
      await second;
      t.match(
        await told(),
        [{ data: { edit_request_id: race.request } }],
        'of two commits the second one sees the first',
      );
      await clear();

      const deleted = await work(2, 2);
      const [kept, removed] = deleted.pairs;
      for (const name of ['bob', 'eve'])
        for (const task of await claimAll(deleted.request, name))
          if (task.pair.id === kept) await submit(task);
      t.same(await told(), []);
      await call('DELETE', `/v1/pairs/${removed}`);
      t.match(await told(), [{ type: 'edit_request.completed', data: { edit_request_id: deleted.request } }]);
      t.equal((await told()).length, 1, 'a pair with two open tasks was deleted');
      await clear();

      const cancelled = await work(2);
      const [task] = await claimAll(cancelled.request, 'ann');
      await call('POST', `/v1/edit-requests/${cancelled.request}/cancel`);
      await submit(task!);
      t.same(await told(), [], 'a cancelled request is not completed');
    },
  );
});

t.test('delivery', async (t) => {
  const {
    server,
    call,
    receiver,
    system,
    sql,
    hook,
    ping,
    deliveries,
    until,
    comeDue,
    uuidOf,
    jobs,
    startOne,
  } = await setUp(t);
  const worker = startOne(t);

  t.test('a delivery is signed, says what happened, and is told once', async (t) => {
    const webhook = await hook('/good');
    const id = `run_${(await runOf(server)).replaceAll('-', '')}`;
    await call('POST', `/v1/runs/${id}/cancel`);
    const [got] = await receiver.until('/good', 1);
    const delivery = await until(webhook, ({ state }) => state === 'delivered');
    t.match(delivery, {
      type: 'run.cancelled',
      attempts: [{ at: String, status: 204, error: null, duration_ms: Number }],
      next_attempt_at: null,
      finished_at: String,
    });
    t.same(got!.body, { type: 'run.cancelled', timestamp: delivery.created_at, data: delivery.data });
    t.equal(got!.headers['webhook-id'], delivery.id);
    t.equal(got!.headers['content-type'], 'application/json');
    t.ok(Math.abs(Date.now() / 1000 - Number(got!.headers['webhook-timestamp'])) < 30);
    t.ok(await hasGoodSignature(got!, webhook.secret));
    t.notOk(await hasGoodSignature({ ...got!, text: `${got!.text} ` }, webhook.secret));
    t.notOk(await hasGoodSignature(got!, (await hook('/unused')).secret), 'each webhook has its own secret');
    await sleep(300);
    t.equal(receiver.got('/good').length, 1);
    t.same(await jobs(), [], 'and no job is left');
  });

  t.test('whatever is not 2xx is tried again, and told as what it was', async (t) => {
    const cases = [
      { path: '/redirect', status: 302, error: 'redirected' },
      { path: '/busy', status: 503, error: 'not_2xx' },
      { path: '/broken', status: null, error: 'broken_answer' },
    ];
    receiver.answers['/missing'] = 404;
    cases.push({ path: '/missing', status: 404, error: 'not_2xx' });
    receiver.answers['/hangs'] = 0;
    cases.push({ path: '/hangs', status: null, error: 'timed_out' });
    const elsewhere = await hook('/x', { url: `http://127.0.0.2:${receiver.port}/x` });
    const closed = await hook('/x', { url: 'http://127.0.0.1:1025/' });
    const hooks = [];
    for (const one of cases) hooks.push({ ...one, webhook: await hook(one.path) });
    hooks.push({ webhook: elsewhere, path: '127.0.0.2', status: null, error: 'refused_address' });
    hooks.push({ webhook: closed, path: 'port 1025', status: null, error: 'connect_failed' });
    const full = [];
    for (const path of ['/huge', '/cut']) full.push({ path, webhook: await hook(path) });
    const id = `run_${(await runOf(server)).replaceAll('-', '')}`;
    await call('POST', `/v1/runs/${id}/cancel`);
    for (const { webhook, path, status, error } of hooks) {
      const delivery = await until(webhook, ({ attempts }) => attempts.length > 0);
      t.match(delivery, { state: 'pending', attempts: [{ status, error }] }, path);
      const wait = (Date.parse(delivery.next_attempt_at!) - Date.parse(delivery.attempts[0]!.at)) / 1000;
      if (path === '/busy') t.ok(wait > 890 && wait < 960, `Retry-After: 900 is waited for (${wait} s)`);
      else t.ok(wait >= 16 && wait < 60, `${path} is tried again in ${wait} s`);
      t.match((await call('GET', `/v1/webhooks/${webhook.id}`)).body, {
        state: 'active',
        failing_since: String,
      });
    }
    for (const { webhook, path } of full)
      t.match(
        await until(webhook, ({ state }) => state === 'delivered'),
        { attempts: [{ status: 200 }] },
        path,
      );
    t.same(receiver.got('/redirected'), [], 'redirects are not followed');
  });

  t.test('attempts of one delivery carry one id, and the first 2xx ends them', async (t) => {
    receiver.answers['/flaky'] = 500;
    const webhook = await hook('/flaky');
    const id = `run_${(await runOf(server)).replaceAll('-', '')}`;
    await call('POST', `/v1/runs/${id}/cancel`);
    for (let n = 1; n <= 2; n++) await comeDue(await until(webhook, ({ attempts }) => attempts.length === n));
    await receiver.until('/flaky', 3);
    receiver.answers['/flaky'] = 200;
    await comeDue(await until(webhook, ({ attempts }) => attempts.length === 3));
    const delivery = await until(webhook, ({ state }) => state === 'delivered');
    t.same(
      delivery.attempts.map(({ status }) => status),
      [500, 500, 500, 200],
    );
    const got = receiver.got('/flaky');
    t.same(new Set(got.map(({ headers }) => headers['webhook-id'])), new Set([delivery.id]));
    t.same(new Set(got.map(({ text }) => text)).size, 1);
    for (const one of got) t.ok(await hasGoodSignature(one, webhook.secret));
    t.match((await call('GET', `/v1/webhooks/${webhook.id}`)).body, { failing_since: null });
  });

  t.test('given up after the last try; a redelivery starts over under the same id', async (t) => {
    receiver.answers['/down'] = 500;
    const webhook = await hook('/down');
    const id = `run_${(await runOf(server)).replaceAll('-', '')}`;
    await call('POST', `/v1/runs/${id}/cancel`);
    const first = await until(webhook, ({ attempts }) => attempts.length === 1);
    await sql(
      'update finegrain.webhook_deliveries set tries = $1, due_at = clock_timestamp() where id = $2',
      [maxTries - 1, uuidOf(first.id)],
    );
    const failed = await until(webhook, ({ state }) => state === 'failed');
    t.match(failed, { attempts: { length: 2 }, next_attempt_at: null, finished_at: String });
    t.match(
      (await call('GET', `/v1/webhooks/${webhook.id}`)).body,
      { state: 'active' },
      'one failure disables nothing',
    );

    const redeliver = () => call('POST', `/v1/webhooks/${webhook.id}/deliveries/${first.id}/redeliver`);
    t.match(await redeliver(), { status: 202, body: { id: first.id, state: 'pending', finished_at: null } });
    await until(webhook, ({ attempts }) => attempts.length === 3);
    t.match(await redeliver(), { status: 409 }, 'the new series is under way');
    receiver.answers['/down'] = 200;
    await comeDue(first);
    await until(webhook, ({ state }) => state === 'delivered');
    t.match(await redeliver(), { status: 202 }, 'one that arrived may be sent again, too');
    await until(webhook, ({ state, attempts }) => state === 'delivered' && attempts.length === 5);
    t.same(new Set(receiver.got('/down').map(({ headers }) => headers['webhook-id'])), new Set([first.id]));
  });

  t.test('a ping is sent once', async (t) => {
    receiver.answers['/deaf'] = 500;
    const webhook = await hook('/deaf');
    await ping(webhook);
    t.match(await until(webhook, ({ state }) => state !== 'pending'), { type: 'ping', state: 'failed' });
    t.match((await call('GET', `/v1/webhooks/${webhook.id}`)).body, { failing_since: null });
  });

  t.test('a webhook that fails for days is disabled, and enabled by what arrives', async (t) => {
    receiver.answers['/dead'] = 500;
    const webhook = await hook('/dead', { events: ['run.cancelled'] });
    const cancel = async () => {
      const id = `run_${(await runOf(server)).replaceAll('-', '')}`;
      await call('POST', `/v1/runs/${id}/cancel`);
    };
    await cancel();
    const old = await until(webhook, ({ attempts }) => attempts.length === 1);
    await cancel();
    const waiting = await until(webhook, ({ id, attempts }) => id !== old.id && attempts.length === 1);
    await sql("update finegrain.webhooks set failing_since = now() - interval '4 days' where id = $1", [
      uuidOf(webhook.id),
    ]);
    await comeDue(old);
    const shown = async () => (await call('GET', `/v1/webhooks/${webhook.id}`)).body;
    for (let n = 0; (await deliveries(webhook))[1]!.attempts.length < 2 && n < 200; n++) await sleep(50);
    t.match(await shown(), { state: 'active' }, 'while tries are left');
    await sql(
      'update finegrain.webhook_deliveries set tries = $1, due_at = clock_timestamp() where id = $2',
      [maxTries - 1, uuidOf(old.id)],
    );
    for (let n = 0; (await shown()).state === 'active' && n < 200; n++) await sleep(50);
    t.match(await shown(), {
      state: 'disabled',
      disabled_at: String,
      disabled_reason: /for 4 days.*not_2xx \(500\).*test or a redelivery/,
    });
    t.match(await deliveries(webhook), [
      { id: waiting.id, state: 'failed' },
      { id: old.id, state: 'failed' },
    ]);
    await cancel();
    t.equal((await deliveries(webhook)).length, 2, 'it gets no events');
    await call('POST', `/v1/webhooks/${webhook.id}/deliveries/${old.id}/redeliver`);
    for (let n = 0; (await deliveries(webhook))[1]!.state === 'pending' && n < 200; n++) await sleep(50);
    t.match((await deliveries(webhook))[1], { state: 'failed' }, 'disabled, it is tried once');
    receiver.answers['/dead'] = 200;
    await ping(webhook);
    await until(webhook, ({ state }) => state === 'delivered');
    t.match(await shown(), {
      state: 'active',
      failing_since: null,
      disabled_at: null,
      disabled_reason: null,
    });
  });

  t.test('deliveries that ended are forgotten after 30 days', async (t) => {
    const webhook = await hook('/aged');
    const [older, old, young] = [await ping(webhook), await ping(webhook), await ping(webhook)];
    await until(webhook, () => receiver.got('/aged').length === 3);
    for (let n = 0; (await deliveries(webhook)).some(({ state }) => state === 'pending') && n < 200; n++)
      await sleep(50);
    const age = (delivery: Delivery, days: number) =>
      sql(
        'update finegrain.webhook_deliveries set created_at = now() - make_interval(days => $1) where id = $2',
        [days, uuidOf(delivery.id)],
      );
    await age(older!, 31);
    await age(old!, 31);
    await age(young!, 29);
    await sql(
      "update finegrain.webhook_deliveries set state = 'pending', due_at = now() + interval '1 day', finished_at = null where id = $1",
      [uuidOf(old!.id)],
    );
    await sql("select graphile_worker.add_job('delete-old-deliveries')");
    for (let n = 0; (await deliveries(webhook)).length > 2 && n < 200; n++) await sleep(50);
    t.same(
      (await deliveries(webhook)).map(({ id }) => id),
      [young!.id, old!.id],
      'what is pending stays',
    );
  });

  t.test('the log of the worker tells what failed, and no secret', async (t) => {
    const webhook = await hook('/down');
    receiver.answers['/down'] = 500;
    await ping(webhook);
    await until(webhook, ({ state }) => state === 'failed');
    for (let n = 0; !worker.log().includes(webhook.id) && n < 100; n++) await sleep(50);
    t.match(worker.log(), `webhook ${webhook.id}: not_2xx: it answered 500`);
    t.match(worker.log(), /refused_address: 127\.0\.0\.2 is not a public address/);
    t.notMatch(worker.log(), 'whsec_');
    t.notMatch(worker.log(), webhook.secret.slice(6));
    t.notMatch(worker.log(), server.services.secretKeys!.current.key.toString('base64'));
  });

  t.test('a worker that dies in the middle costs a lease, not the delivery', async (t) => {
    receiver.answers['/slow'] = 0;
    const webhook = await hook('/slow');
    const delivery = await ping(webhook);
    await receiver.until('/slow', 1);
    worker.process.kill('SIGKILL');
    await worker.ended;
    const job = (await jobs()).find(({ key }) => key?.endsWith(delivery.id.slice(-12)));
    const { due_at } = (
      await sql<{ due_at: Date }>('select due_at from finegrain.webhook_deliveries where id = $1', [
        uuidOf(delivery.id),
      ])
    )[0]!;
    t.same(job, { key: job?.key, run_at: due_at, locked_at: null }, 'a job waits at the end of the lease');
    const seconds = (due_at.getTime() - Date.now()) / 1000;
    t.ok(seconds > 60 && seconds <= 120, `in ${seconds} s`);
    receiver.answers['/slow'] = 200;
    await comeDue(delivery);
    startOne(t);
    t.match(await until(webhook, ({ state }) => state === 'delivered'), {
      id: delivery.id,
      attempts: { length: 1 },
    });
    t.equal(receiver.got('/slow').length, 2);
  });

  // from here on without the worker process: its own function, called by hand
  const outgoing = openOutgoingClient({ allow: ['127.0.0.1'] });
  t.teardown(() => outgoing.close());
  const attempt = (delivery: Delivery, more: object = {}) =>
    attemptDelivery(
      { db: system, outgoing, secretKeys: server.services.secretKeys, ...more },
      { projectId: project, deliveryId: uuidOf(delivery.id) },
    );

  t.test('two workers at once deliver once', async (t) => {
    const webhook = await hook('/once');
    const delivery = await ping(webhook);
    await Promise.all([attempt(delivery), attempt(delivery), attempt(delivery)]);
    await until(webhook, ({ state }) => state === 'delivered');
    t.equal(receiver.got('/once').length, 1);
  });

  t.test('a signing secret that cannot be read is said; one of a previous key is sealed anew', async (t) => {
    const webhook = await hook('/sealed');
    const id = `run_${(await runOf(server)).replaceAll('-', '')}`;
    await call('POST', `/v1/runs/${id}/cancel`);
    const [delivery] = await deliveries(webhook);
    for (const [n, keys] of [secretKeys(randomBytes(32), []), null].entries()) {
      t.match(
        await attempt(delivery!, { secretKeys: keys }),
        /FINEGRAIN_SECRET_KEY/,
        'the operator is told what to do',
      );
      t.match((await deliveries(webhook))[0], {
        state: 'pending',
        attempts: { [n]: { status: null, error: 'secret_unreadable' } },
      });
      await comeDue(delivery!);
    }
    const sealedWith = async () =>
      (
        await sql<{ key_id: string }>('select key_id from finegrain.webhooks where id = $1', [
          uuidOf(webhook.id),
        ])
      )[0]!.key_id;
    const { current } = server.services.secretKeys!;
    const rotated = secretKeys(randomBytes(32), [current.key]);
    t.equal(await sealedWith(), current.id);
    t.equal(await attempt(delivery!, { secretKeys: rotated }), null);
    t.equal(await sealedWith(), rotated.current.id);
    await call('POST', `/v1/webhooks/${webhook.id}/deliveries/${delivery!.id}/redeliver`);
    t.equal(await attempt(delivery!, { secretKeys: secretKeys(rotated.current.key, []) }), null);
    for (const got of receiver.got('/sealed')) t.ok(await hasGoodSignature(got, webhook.secret));
    t.equal(receiver.got('/sealed').length, 2);
  });
});
