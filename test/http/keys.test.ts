import t from 'tap';
import type { Transaction } from '../../src/db/pool.ts';
import type { Caller } from '../../src/services/context.ts';
import { createKey, defaultProjectId } from '../../src/services/keys.ts';
import { startTestServer } from '../support/server.ts';

const nobody = '00000000000070008000000000000000';
const inMs = (text: string, since: string): number => Date.parse(text) - Date.parse(since);

t.test('keys and projects', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const system = server.database.open('finegrain_system');
  const inDatabase = <T>(work: (tx: Transaction) => Promise<T>): Promise<T> => system.transaction(null, work);
  const create = async (json: object) =>
    (await call('POST', '/v1/keys', { json: { name: 'test', scopes: ['read'], ...json } })).body;
  const expireNow = (id: string) =>
    inDatabase((tx) =>
      tx.query('update finegrain.api_keys set expires_at = clock_timestamp() where id = $1', [
        id.replace('key_', ''),
      ]),
    );

  t.test('a key works until it is revoked, and is shown once', async (t) => {
    const created = await call('POST', '/v1/keys', { json: { name: 'reader', scopes: ['read'] } });
    t.match(created, {
      status: 201,
      body: {
        id: /^key_/,
        key: /^fg_/,
        scopes: ['read'],
        state: 'active',
        expires_at: null,
        revoked_at: null,
      },
    });
    const { key, id } = created.body;
    t.match(await call('GET', '/v1/datasets', { key }), { status: 200 });
    t.match(await call('POST', '/v1/datasets', { key, json: { name: 'x' } }), {
      status: 403,
      body: { code: 'missing_scope', detail: /pairs:write/ },
    });
    t.notOk((await call('GET', '/v1/keys')).text.includes(key));
    const revoked = await call('DELETE', `/v1/keys/${id}`);
    t.match(revoked, { status: 200, body: { state: 'revoked', revoked_at: String } });
    t.match(await call('GET', '/v1/datasets', { key }), {
      status: 401,
      body: { detail: /was revoked at .*Z/ },
    });
    t.same((await call('DELETE', `/v1/keys/${id}`)).body, revoked.body, 'again: nothing changes');
    t.same((await call('GET', `/v1/keys/${id}`)).body, revoked.body);
  });

  t.test('a key works until it expires, by the clock of the database', async (t) => {
    const expires_at = new Date(Date.now() + 3_600_000).toISOString();
    const { id, key, ...rest } = await create({ expires_at });
    t.match(rest, { expires_at, state: 'active' });
    t.match(await call('GET', '/v1/datasets', { key }), { status: 200 });
    await expireNow(id);
    const refused = await call('GET', '/v1/datasets', { key });
    t.match(refused, {
      status: 401,
      body: { code: 'unauthenticated', detail: /expired at .*Z.*another one/ },
    });
    t.equal(refused.headers.get('www-authenticate'), 'Bearer realm="finegrain", error="invalid_token"');
    t.match(await call('GET', `/v1/keys/${id}`), { status: 200, body: { state: 'expired' } });
  });

  t.test('the last use is noted, at most once a minute, and never waits for a lock', async (t) => {
    const { id, key } = await create({});
    const uuid = id.replace('key_', '');
    const row = () =>
      inDatabase(
        async (tx) =>
          (
            await tx.query('select xmin::text, last_used_at from finegrain.api_keys where id = $1', [uuid])
          )[0],
      );
    t.match(await call('GET', `/v1/keys/${id}`), { body: { last_used_at: null } });
    await call('GET', '/v1/datasets', { key });
    const first = await row();
    t.ok(first?.last_used_at instanceof Date);
    await Promise.all(Array.from({ length: 20 }, () => call('GET', '/v1/datasets', { key })));
    t.same(await row(), first, 'within the minute the row is not written');

    await inDatabase((tx) =>
      tx.query("update finegrain.api_keys set last_used_at = now() - interval '61 seconds' where id = $1", [
        uuid,
      ]),
    );
    const before = await row();
    await inDatabase(async (tx) => {
      await tx.query('select from finegrain.api_keys where id = $1 for update', [uuid]);
      t.match(await call('GET', '/v1/datasets', { key }), { status: 200 }, 'the locked row is passed by');
    });
    t.same(await row(), before);
    await call('GET', '/v1/datasets', { key });
    t.ok(((await row())?.last_used_at as Date) > (before?.last_used_at as Date), 'after a minute it is');
  });

  t.test('a rotated key and its successor both work for the overlap', async (t) => {
    const old = await create({ name: 'pipeline', scopes: ['read', 'score'] });
    const rotated = await call('POST', `/v1/keys/${old.id}/rotate`, { json: { overlap_seconds: 3600 } });
    t.match(rotated, {
      status: 201,
      body: {
        key: /^fg_/,
        name: 'pipeline',
        scopes: ['read', 'score'],
        rotated_from: old.id,
        rotated_to: null,
        expires_at: null,
      },
    });
    const successor = rotated.body;
    t.not(successor.id, old.id);
    t.ok(Math.abs(inMs(successor.previous_expires_at, successor.created_at) - 3_600_000) < 1000);
    t.match(await call('GET', `/v1/keys/${old.id}`), {
      body: {
        state: 'active',
        rotated_to: successor.id,
        rotated_from: null,
        expires_at: successor.previous_expires_at,
      },
    });
    for (const { key } of [old, successor])
      t.match(await call('GET', '/v1/datasets', { key }), { status: 200 });
    await expireNow(old.id);
    t.match(await call('GET', '/v1/datasets', { key: old.key }), { status: 401 });
    t.match(await call('GET', '/v1/datasets', { key: successor.key }), { status: 200 });
    t.match(
      await call('POST', `/v1/keys/${successor.id}/rotate`, { json: {} }),
      { status: 201, body: { rotated_from: successor.id } },
      'and so on',
    );
  });

  t.test('a rotation keeps the lifetime of a key, and never makes the old one live longer', async (t) => {
    const expires_at = new Date(Date.now() + 600_000).toISOString();
    const old = await create({ expires_at });
    const { body } = await call('POST', `/v1/keys/${old.id}/rotate`, { json: {} });
    t.equal(body.previous_expires_at, expires_at, 'it ends before the overlap of a day');
    t.ok(
      Math.abs(inMs(body.expires_at, body.created_at) - inMs(expires_at, old.created_at)) < 1000,
      'ten minutes again',
    );
    const another = await create({});
    const { body: day } = await call('POST', `/v1/keys/${another.id}/rotate`, { json: {} });
    t.ok(Math.abs(inMs(day.previous_expires_at, day.created_at) - 86_400_000) < 1000, 'a day by default');
    const now = await create({});
    await call('POST', `/v1/keys/${now.id}/rotate`, { json: { overlap_seconds: 0 } });
    t.match(await call('GET', '/v1/datasets', { key: now.key }), {
      status: 401,
      body: { detail: /expired/ },
    });
  });

  t.test('of rotations of one key at the same time, one succeeds', async (t) => {
    const { id } = await create({});
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => call('POST', `/v1/keys/${id}/rotate`, { json: {} })),
    );
    t.same(answers.map(({ status }) => status).sort(), [201, ...Array(7).fill(409)]);
  });

  t.test('a key tells what it is', async (t) => {
    const { id, key, expires_at } = await create({ scopes: ['score'], expires_at: '2099-01-01T00:00:00Z' });
    t.match(await call('GET', '/v1/keys/current', { key }), {
      status: 200,
      body: { id, name: 'test', scopes: ['score'], expires_at, project: { name: 'default' } },
    });
    t.match(await call('GET', '/v1/keys/current'), {
      status: 200,
      body: { id: null, name: 'bootstrap key', scopes: ['admin', 'operator'], expires_at: null },
    });
    t.match(await call('GET', '/v1/keys/current', { key: await server.otherProjectKey() }), {
      status: 200,
      body: { scopes: ['admin'], project: { name: 'other' } },
    });
  });

  t.test('the operator can enter a project that has lost its last admin key', async (t) => {
    const { body: project } = await call('POST', '/v1/projects', { json: { name: 'locked out' } });
    const own = (await call('GET', '/v1/keys/current', { key: project.key })).body.id;
    t.match(await call('DELETE', `/v1/keys/${own}`, { key: project.key }), { status: 200 });
    t.match(await call('GET', '/v1/keys', { key: project.key }), { status: 401 });
    const made = await call('POST', `/v1/projects/${project.id}/keys`, { json: { name: 'recovery' } });
    t.match(made, { status: 201, body: { scopes: ['admin'], name: 'recovery' } });
    const { key } = made.body;
    t.match(await call('GET', '/v1/keys/current', { key }), { body: { project: { id: project.id } } });
    t.match(await call('GET', '/v1/audit-events', { key }), {
      body: { items: [{ action: 'key.created', actor: 'bootstrap', subject: made.body.id }] },
    });
  });

  t.test('error', async (t) => {
    t.match(await call('POST', '/v1/keys', { json: { name: 'x', scopes: ['fly'] } }), {
      status: 400,
      body: { errors: [{ pointer: '/scopes/0' }] },
    });
    t.match(
      await call('POST', '/v1/keys', { json: { name: 'x', scopes: ['operator'] } }),
      { status: 400 },
      'nobody grants operator',
    );
    t.match(await call('POST', '/v1/keys', { json: { name: 'x', scopes: [] } }), { status: 400 });
    const past = new Date(Date.now() - 1000).toISOString();
    for (const expires_at of [past, '0000-01-01T00:00:00Z', '2016-12-31T23:59:60Z']) {
      t.match(
        await call('POST', '/v1/keys', { json: { name: 'x', scopes: ['read'], expires_at } }),
        { status: 422, body: { code: 'unprocessable', errors: [{ pointer: '/expires_at' }] } },
        expires_at,
      );
    }
    t.match(
      await call('POST', '/v1/keys', { json: { name: 'x', scopes: ['read'], expires_at: 'tomorrow' } }),
      {
        status: 400,
        body: { errors: [{ pointer: '/expires_at' }] },
      },
    );
    for (const id of ['key_1', `key_${nobody}`]) {
      t.match(await call('GET', `/v1/keys/${id}`), { status: 404 });
      t.match(await call('DELETE', `/v1/keys/${id}`), { status: 404 });
      t.match(await call('POST', `/v1/keys/${id}/rotate`, { json: {} }), { status: 404 });
    }
    const { id } = await create({});
    for (const overlap_seconds of [-1, 30 * 86_400 + 1, 0.5]) {
      t.match(await call('POST', `/v1/keys/${id}/rotate`, { json: { overlap_seconds } }), {
        status: 400,
        body: { errors: [{ pointer: '/overlap_seconds' }] },
      });
    }
    await call('POST', `/v1/keys/${id}/rotate`, { json: {} });
    t.match(await call('POST', `/v1/keys/${id}/rotate`, { json: {} }), {
      status: 409,
      body: { code: 'conflict', detail: /successor is key_/ },
    });
    const revoked = await create({});
    await call('DELETE', `/v1/keys/${revoked.id}`);
    const expired = await create({});
    await expireNow(expired.id);
    for (const [key, state] of [
      [revoked, 'revoked'],
      [expired, 'expired'],
    ]) {
      t.match(await call('POST', `/v1/keys/${key.id}/rotate`, { json: {} }), {
        status: 409,
        body: { detail: new RegExp(state) },
      });
    }
    for (const id of ['proj_1', `proj_${nobody.replace(/.$/, '1')}`])
      t.match(await call('POST', `/v1/projects/${id}/keys`, { json: { name: 'x' } }), { status: 404 });
  });

  t.test('security', async (t) => {
    const stranger = await server.otherProjectKey();
    const body = await create({ name: 'mine' });
    t.match(await call('DELETE', `/v1/keys/${body.id}`, { key: stranger }), { status: 404 });
    t.match(await call('GET', `/v1/keys/${body.id}`, { key: stranger }), { status: 404 });
    t.match(await call('POST', `/v1/keys/${body.id}/rotate`, { key: stranger, json: {} }), { status: 404 });
    t.notOk((await call('GET', '/v1/keys', { key: stranger })).text.includes(body.id));
    t.match(
      await call('POST', '/v1/projects', { key: stranger, json: { name: 'x' } }),
      { status: 403 },
      'an admin of a project is no operator',
    );
    t.match(await call('GET', '/v1/projects', { key: stranger }), { status: 403 });
    t.equal((await call('GET', '/v1/projects')).body.items[0].name, 'default');

    const challenge = async (path: string, key: string | null) =>
      (await call('GET', path, { key })).headers.get('www-authenticate');
    t.equal(await challenge('/v1/keys', null), 'Bearer realm="finegrain"', 'no error without a key');
    t.equal(await challenge('/v1/keys', 'fg_wrong'), 'Bearer realm="finegrain", error="invalid_token"');
    t.equal(
      await challenge('/v1/keys', body.key),
      'Bearer realm="finegrain", error="insufficient_scope", scope="admin"',
    );

    const maker: Caller = {
      projectId: defaultProjectId,
      keyId: null,
      scopes: ['read', 'score'],
      requestId: 'r',
      address: 'a',
    };
    await t.rejects(
      createKey(server.services, maker, { name: 'more', scopes: ['read', 'runs:write'] }),
      { code: 'missing_scope' },
      'whichever route it comes by, a key grants nothing that its maker lacks',
    );
    await t.rejects(createKey(server.services, maker, { name: 'more', scopes: ['admin'] }), {
      code: 'missing_scope',
    });
  });
});
