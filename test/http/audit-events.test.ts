import t from 'tap';
import { sqlState } from '../../src/db/pool.ts';
import { recordAct } from '../../src/services/audit.ts';
import { defaultProjectId } from '../../src/services/keys.ts';
import { registerTinyModel } from '../support/models.ts';
import { startTestServer } from '../support/server.ts';

t.test('audit log', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const events = async (query = '', key?: string) =>
    (await call('GET', `/v1/audit-events${query}`, key === undefined ? {} : { key })).body.items;
  const newest = async (key?: string) => (await events('?limit=1', key))[0];

  t.test('every administrative act is recorded with who, whence and what', async (t) => {
    const admin = (await call('POST', '/v1/keys', { json: { name: 'boss', scopes: ['admin'] } })).body;
    t.match(await newest(), {
      id: /^audit_/,
      occurred_at: /Z$/,
      actor: 'bootstrap',
      request_id: /./,
      address: '127.0.0.1',
      action: 'key.created',
      subject: admin.id,
      detail: { name: 'boss', scopes: ['admin'], expires_at: null },
    });

    const { key, id: actor } = admin;
    const successor = (await call('POST', `/v1/keys/${actor}/rotate`, { key, json: {} })).body;
    t.match(await newest(), {
      action: 'key.rotated',
      actor,
      subject: actor,
      detail: { successor: successor.id, expires_at: successor.previous_expires_at },
    });
    await call('DELETE', `/v1/keys/${successor.id}`, { key });
    t.match(await newest(), {
      action: 'key.revoked',
      actor,
      subject: successor.id,
      detail: { name: 'boss' },
    });
    await call('DELETE', `/v1/keys/${successor.id}`, { key });
    t.equal((await events(`?subject=${successor.id}`)).length, 1, 'what changes nothing is no act');

    const project = (await call('POST', '/v1/projects', { json: { name: 'new' } })).body;
    t.match(await newest(), { action: 'project.created', subject: project.id, detail: { name: 'new' } });

    const [one, two] = [await registerTinyModel(server), await registerTinyModel(server)];
    await call('PUT', '/v1/aliases/best', { json: { model_id: one } });
    t.match(await newest(), { action: 'alias.set', subject: 'best', detail: { model_id: one } });
    await call('DELETE', '/v1/aliases/best');
    t.match(await newest(), { action: 'alias.removed', subject: 'best', detail: { model_id: one } });
    await call('DELETE', `/v1/models/${two}`);
    t.match(await newest(), { action: 'model.deleted', subject: two, detail: { role: 'token_reward' } });

    const dataset = (await call('POST', '/v1/datasets', { json: { name: 'old' } })).body.id;
    for (const archived of [true, true, false])
      await call('PATCH', `/v1/datasets/${dataset}`, { json: { archived, name: 'renamed' } });
    t.match(await events(`?subject=${dataset}`), [
      { action: 'dataset.restored', detail: { name: 'renamed' } },
      { action: 'dataset.archived' },
    ]);
    t.equal((await events(`?subject=${dataset}`)).length, 2);
    t.notOk(JSON.stringify(await events('?limit=500')).includes('fg_'), 'no key is in the log');
  });

  t.test('the log is filtered and paged, the newest first', async (t) => {
    for (let i = 0; i < 3; i++)
      await call('POST', '/v1/keys', { json: { name: `page ${i}`, scopes: ['read'] } });
    const first = await call('GET', '/v1/audit-events?action=key.created&limit=2');
    t.match(first.body.items, [{ detail: { name: 'page 2' } }, { detail: { name: 'page 1' } }]);
    await call('POST', '/v1/keys', { json: { name: 'late', scopes: ['read'] } });
    const { next_cursor } = first.body;
    const second = await call('GET', `/v1/audit-events?action=key.created&limit=1&cursor=${next_cursor}`);
    t.match(second.body.items, [{ detail: { name: 'page 0' } }], 'stable under inserts');
    t.same(await events('?action=key.created&subject=nothing'), []);
  });

  t.test('no act without its event, and no event without its act', async (t) => {
    const dataset = (await call('POST', '/v1/datasets', { json: { name: 'kept' } })).body.id;
    const before = (await events('?limit=500')).length;
    t.match(await call('DELETE', `/v1/models/model_${'0'.repeat(32)}`), { status: 404 });
    t.match(await call('POST', '/v1/keys/key_1/rotate', { json: {} }), { status: 404 });
    t.equal((await events('?limit=500')).length, before, 'what failed is not recorded');

    await t.rejects(
      server.services.db.transaction(defaultProjectId, async (tx) => {
        await tx.query('update finegrain.datasets set archived_at = now() where id = $1', [
          dataset.replace('ds_', ''),
        ]);
        const stranger = {
          projectId: '00000000-0000-7000-8000-000000000001',
          keyId: null,
          scopes: [],
          requestId: 'r',
          address: 'a',
        };
        await recordAct(tx, stranger, { action: 'dataset.archived', subject: dataset, detail: {} });
      }),
      { code: '42501' },
      'the log of another project takes nothing',
    );
    t.match(
      await call('GET', `/v1/datasets/${dataset}`),
      { body: { archived_at: null } },
      'and the act is undone with it',
    );
  });

  t.test('nobody changes or removes an event, nor chooses its time', async (t) => {
    const attempts = [
      "update finegrain.audit_events set subject = 'another'",
      'delete from finegrain.audit_events',
      'truncate finegrain.audit_events',
    ];
    for (const role of ['finegrain_api', 'finegrain_system', 'finegrain_runner'] as const) {
      for (const sql of attempts) {
        const refused = server.database
          .open(role)
          .transaction(defaultProjectId, (tx) => tx.query(sql))
          .then(() => 'done', sqlState);
        t.equal(await refused, '42501', `${role}: ${sql}`);
      }
    }
    const backdated = `insert into finegrain.audit_events (project_id, id, request_id, address, action, subject, detail, occurred_at)
      values ($1, gen_random_uuid(), '', '', 'key.created', '', '{}', now() - interval '1 year')`;
    await t.rejects(
      server.services.db.transaction(defaultProjectId, (tx) => tx.query(backdated, [defaultProjectId])),
      { code: '42501' },
    );
  });

  t.test('error', async (t) => {
    t.match(await call('GET', '/v1/audit-events?action=key.lent'), {
      status: 400,
      body: { errors: [{ pointer: '/action', in: 'query' }] },
    });
    t.match(await call('GET', '/v1/audit-events?cursor=bm8'), {
      status: 422,
      body: { code: 'invalid_cursor' },
    });
  });

  t.test('security', async (t) => {
    t.same(await events('', await server.otherProjectKey()), [], 'each project has a log of its own');
  });
});
