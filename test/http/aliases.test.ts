import t from 'tap';
import { registerTinyModel } from '../support/models.ts';
import { startTestServer } from '../support/server.ts';

t.test('aliases', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const one = await registerTinyModel(server);
  const two = await registerTinyModel(server);
  const policy = await registerTinyModel(server, { role: 'policy' });
  const put = (name: string, model_id: string) => call('PUT', `/v1/aliases/${name}`, { json: { model_id } });

  t.test('happy', async (t) => {
    t.match(await put('token-reward', one), { status: 200, body: { name: 'token-reward', model_id: one } });
    t.match(await put('writer', policy), { status: 200 });
    const moved = await put('token-reward', two);
    t.match(moved, { status: 200, body: { model_id: two } });
    const { items } = (await call('GET', '/v1/aliases')).body;
    t.match(items, [
      { name: 'token-reward', model_id: two },
      { name: 'writer', model_id: policy },
    ]);
    t.same(items[0], moved.body);
    t.match((await call('GET', '/v1/models/token-reward')).body, { id: two });
    const scored = await call('POST', '/v1/score', { json: { prompt: 'Hi', responses: ['Hello'] } });
    t.match(scored.body.model, { id: two, alias: 'token-reward' });
    t.match(await call('DELETE', '/v1/aliases/writer'), { status: 204, text: '' });
    t.match(await call('DELETE', '/v1/aliases/writer'), { status: 404 });
    t.match(await call('GET', `/v1/models/${policy}`), { status: 200 }, 'the model stays');
  });

  t.test('an alias stays with its role', async (t) => {
    t.match(await put('token-reward', policy), {
      status: 422,
      body: { code: 'unprocessable', errors: [{ pointer: '/model_id', detail: 'is a policy model' }] },
    });
    await put('judge', one);
    t.match(await put('judge', policy), { status: 422 });
    await call('DELETE', '/v1/aliases/judge');
    t.match(await put('judge', policy), { status: 200 }, 'a new alias takes any');
    await call('DELETE', '/v1/aliases/token-reward');
    t.match(await put('token-reward', policy), { status: 422 }, 'except the default of scoring');
  });

  t.test('errors', async (t) => {
    t.match(await put('x', 'model_0'), { status: 404, body: { errors: [{ pointer: '/model_id' }] } });
    t.match(await put('x', 'judge'), { status: 404 }, 'an alias of an alias is none');
    for (const name of [one, '-x', 'a%20b', 'a%2Fb', 'x'.repeat(101)]) {
      t.match(
        await put(name, one),
        { status: 400, body: { errors: [{ pointer: '/name', in: 'params' }] } },
        name,
      );
    }
    t.match(await call('PUT', '/v1/aliases/x', { json: {} }), {
      status: 400,
      body: { errors: [{ pointer: '/model_id' }] },
    });
    t.match(await call('PUT', '/v1/aliases/x', { json: { model_id: one, role: 'policy' } }), {
      status: 400,
      body: { errors: [{ pointer: '/role' }] },
    });
    t.match(await call('POST', '/v1/aliases/x', { json: {} }), { status: 405, headers: { get: Function } });
  });

  t.test('security', async (t) => {
    const key = await server.otherProjectKey();
    t.same((await call('GET', '/v1/aliases', { key })).body.items, []);
    t.match(await call('PUT', '/v1/aliases/x', { key, json: { model_id: one } }), { status: 404 });
    t.match(await call('DELETE', '/v1/aliases/judge', { key }), { status: 404 });
  });
});
