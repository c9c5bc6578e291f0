// The routes. No worker runs here: what is told, and how, is in test/jobs/webhook-delivery.test.ts.
import t from 'tap';
import { startTestServer } from '../support/server.ts';

t.test('webhooks', async (t) => {
  let logged = '';
  const server = await startTestServer(t, {
    log: {
      write(line) {
        logged += line;
      },
    },
  });
  const { call } = server;
  const url = 'https://hooks.example/in?token=t';
  const create = (json: object = {}, options = {}) =>
    call('POST', '/v1/webhooks', { json: { url, events: ['run.failed'], ...json }, ...options });

  t.test('happy', async (t) => {
    const created = await create({ description: 'tells the team' });
    t.match(created, {
      status: 201,
      body: {
        id: /^wh_[0-9a-f]{32}$/,
        url,
        events: ['run.failed'],
        description: 'tells the team',
        state: 'active',
        failing_since: null,
        secret: /^whsec_[A-Za-z0-9+/]{43}=$/,
      },
    });
    const { secret, ...shown } = created.body;
    const path = `/v1/webhooks/${shown.id}`;
    t.same((await call('GET', path)).body, shown, 'the secret is shown once');
    const other = (await create({ url: 'http://127.0.0.1:8080/' })).body;
    t.not(other.secret, secret);
    t.same(
      (await call('GET', '/v1/webhooks')).body.items.map(({ id }: { id: string }) => id),
      [shown.id, other.id],
    );

    t.same((await call('GET', `${path}/deliveries`)).body, { items: [], next_cursor: null });
    const ping = await call('POST', `${path}/test`);
    t.match(ping, {
      status: 202,
      body: {
        id: /^whd_/,
        webhook_id: shown.id,
        type: 'ping',
        data: { webhook_id: shown.id },
        state: 'pending',
        attempts: [],
        next_attempt_at: String,
        finished_at: null,
      },
    });
    const second = await call('POST', `${path}/test`);
    t.same((await call('GET', `${path}/deliveries`)).body.items, [second.body, ping.body], 'newest first');
    const page = (await call('GET', `${path}/deliveries?limit=1`)).body;
    t.same((await call('GET', `${path}/deliveries?limit=1&cursor=${page.next_cursor}`)).body.items, [
      ping.body,
    ]);

    const system = server.database.open('finegrain_system');
    const jobs = () =>
      system.transaction(null, (tx) =>
        tx.query<{ run_at: Date }>(
          "select run_at from graphile_worker.jobs where task_identifier = 'deliver-webhook'",
        ),
      );
    t.same(
      (await jobs()).map(({ run_at }) => run_at.toISOString()).sort(),
      [ping.body.next_attempt_at, second.body.next_attempt_at],
      'each pending delivery has its job',
    );
    t.match(await call('DELETE', path), { status: 204 });
    t.match(await call('GET', path), { status: 404 });
    t.match(await call('GET', `${path}/deliveries`), { status: 404 });
  });

  t.test('error', async (t) => {
    t.match(await create({ url: 'x'.repeat(2001) }), {
      status: 400,
      body: { errors: [{ pointer: '/url' }] },
    });
    t.match(await create({ events: [] }), { status: 400, body: { errors: [{ pointer: '/events' }] } });
    t.match(await create({ events: ['run.started'] }), {
      status: 400,
      body: { errors: [{ pointer: '/events/0' }] },
    });
    t.match(await create({ events: ['ping'] }), { status: 400 });
    t.match(await create({ secret: 'x' }), { status: 400 });
    for (const refused of [
      'hooks.example.com',
      'ftp://hooks.example.com/',
      'https://user:password@hooks.example.com/',
      'https://hooks.example:22/',
      'https://localhost/',
      'http://169.254.169.254/latest/',
      'http://0xa9fea9fe/',
      'http://[::ffff:10.0.0.1]/',
    ]) {
      t.match(
        await create({ url: refused }),
        { status: 422, body: { code: 'unprocessable', errors: [{ pointer: '/url', in: 'body' }] } },
        refused,
      );
    }
    t.match((await create({ url: 'http://10.0.0.1/' })).body.detail, /FINEGRAIN_OUTGOING_ALLOW/);
    for (const id of [
      'wh_1',
      'run_00000000000070008000000000000000',
      'wh_00000000000070008000000000000000',
    ]) {
      t.match(await call('GET', `/v1/webhooks/${id}`), { status: 404 }, id);
      t.match(await call('DELETE', `/v1/webhooks/${id}`), { status: 404 }, id);
      t.match(await call('POST', `/v1/webhooks/${id}/test`), { status: 404 }, id);
      t.match(await call('GET', `/v1/webhooks/${id}/deliveries`), { status: 404 }, id);
    }
    const one = (await create()).body.id;
    const other = (await create()).body.id;
    const delivery = (await call('POST', `/v1/webhooks/${one}/test`)).body.id;
    t.match(await call('POST', `/v1/webhooks/${one}/deliveries/${delivery}/redeliver`), {
      status: 409,
      body: { code: 'conflict', detail: /still pending/ },
    });
    for (const path of [
      `${other}/deliveries/${delivery}`,
      `${one}/deliveries/whd_1`,
      `${one}/deliveries/${one}`,
    ])
      t.match(await call('POST', `/v1/webhooks/${path}/redeliver`), { status: 404 }, path);

    const { secretKeys } = server.services;
    server.services.secretKeys = null;
    t.match(await create(), { status: 422, body: { detail: /operator sets FINEGRAIN_SECRET_KEY/ } });
    server.services.secretKeys = secretKeys;
  });

  t.test('security', async (t) => {
    await create();
    const key = await server.otherProjectKey();
    t.same((await call('GET', '/v1/webhooks', { key })).body.items, []);
  });

  t.test('a signing secret is neither in the log nor readable in the database', async (t) => {
    const { secret } = (await create()).body;
    t.ok(logged.length > 1000);
    t.notOk(logged.includes('whsec_'));
    const system = server.database.open('finegrain_system');
    const rows = await system.transaction(null, (tx) => tx.query('select w::text from finegrain.webhooks w'));
    for (const encoding of ['utf8', 'hex'] as const)
      t.notOk(JSON.stringify(rows).includes(Buffer.from(secret).toString(encoding)));
    t.notOk(JSON.stringify(rows).includes(Buffer.from(secret.slice(6), 'base64').toString('hex')));
  });
});
