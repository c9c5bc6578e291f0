import t from 'tap';
import { checkSecurity, startTestServer } from '../support/server.ts';

t.test('keys and projects', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;

  t.test('a key works until it is revoked, and is shown once', async (t) => {
    const created = await call('POST', '/v1/keys', { json: { name: 'reader', scopes: ['read'] } });
    t.match(created, { status: 201, body: { id: /^key_/, key: /^fg_/, scopes: ['read'], revoked_at: null } });
    const { key, id } = created.body;
    t.match(await call('GET', '/v1/datasets', { key }), { status: 200 });
    t.match(await call('POST', '/v1/datasets', { key, json: { name: 'x' } }), {
      status: 403,
      body: { code: 'missing_scope', detail: /pairs:write/ },
    });
    t.notOk((await call('GET', '/v1/keys')).text.includes(key));
    t.match(await call('DELETE', `/v1/keys/${id}`), { status: 200, body: { revoked_at: String } });
    t.match(await call('GET', '/v1/datasets', { key }), { status: 401 });
    t.match(await call('DELETE', '/v1/keys/key_1'), { status: 404 });
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
  });

  t.test('security', async (t) => {
    const stranger = await server.otherProjectKey();
    const { body } = await call('POST', '/v1/keys', { json: { name: 'mine', scopes: ['read'] } });
    t.match(await call('DELETE', `/v1/keys/${body.id}`, { key: stranger }), { status: 404 });
    t.notOk((await call('GET', '/v1/keys', { key: stranger })).text.includes(body.id));
    t.match(
      await call('POST', '/v1/projects', { key: stranger, json: { name: 'x' } }),
      { status: 403 },
      'an admin of a project is no operator',
    );
    t.match(await call('GET', '/v1/projects', { key: stranger }), { status: 403 });
    t.equal((await call('GET', '/v1/projects')).body.items[0].name, 'default');
    await checkSecurity(t, server, 'POST', '/v1/keys', 'admin', { json: { name: 'x', scopes: ['read'] } });
    await checkSecurity(t, server, 'GET', '/v1/keys', 'admin');
    await checkSecurity(t, server, 'DELETE', `/v1/keys/${body.id}`, 'admin');
    await checkSecurity(t, server, 'POST', '/v1/projects', 'operator', { json: { name: 'x' } });
    await checkSecurity(t, server, 'GET', '/v1/projects', 'operator');
  });
});
