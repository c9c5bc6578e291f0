import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import t from 'tap';
import { problems } from '../../src/errors.ts';
import { startTestServer } from '../support/server.ts';

t.test('the service around the routes', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;

  t.test('health, readiness, documentation need no key', async (t) => {
    t.match(await call('GET', '/healthz', { key: null }), { status: 200, body: { status: 'ok' } });
    t.match(await call('GET', '/readyz', { key: null }), { status: 200, body: { ready: true } });
    t.match(await call('GET', '/docs', { key: null }), { status: 200 });
    t.match(await call('GET', '/openapi.json', { key: null }), { status: 200, body: { openapi: '3.1.0' } });
  });

  t.test('unknown paths and methods are problems', async (t) => {
    const missing = await call('GET', '/v1/nothing');
    t.match(missing, {
      status: 404,
      body: { code: 'not_found', type: 'urn:finegrain:problem:not_found', instance: '/v1/nothing' },
    });
    t.equal(missing.headers.get('content-type'), 'application/problem+json');
    const wrong = await call('PUT', '/v1/datasets');
    t.match(wrong, { status: 405, body: { code: 'method_not_allowed' } });
    t.equal(wrong.headers.get('allow'), 'GET, HEAD, POST, OPTIONS');
    t.equal((await call('POST', '/v1/datasets/ds_1/stats')).headers.get('allow'), 'GET, HEAD, OPTIONS');
    t.equal(
      (await call('GET', '/v1/datasets', { key: null })).headers.get('www-authenticate'),
      'Bearer realm="finegrain"',
    );
  });

  t.test('malformed HTTP gets a problem too', async (t) => {
    const { port } = new URL(server.url);
    const socket = connect(Number(port), '127.0.0.1');
    socket.write('NOT HTTP\r\n\r\n');
    t.match(await text(socket), /^HTTP\/1.1 400 [\s\S]*"code":"invalid_request"/);
  });

  t.test('no answer in the document has a status that the table of errors lacks', async (t) => {
    const { paths } = (await call('GET', '/openapi.json')).body as {
      paths: Record<string, Record<string, { responses: Record<string, unknown> }>>;
    };
    const known = new Set<number>(Object.values(problems).map(({ status }) => status));
    for (const [path, methods] of Object.entries(paths)) {
      for (const [method, { responses }] of Object.entries(methods)) {
        for (const status of Object.keys(responses).map(Number))
          t.ok(status < 400 || known.has(status), `${method} ${path} ${status}`);
        t.ok(Object.keys(responses).length > 0);
      }
    }
  });
});
