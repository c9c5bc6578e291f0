import t from 'tap';
import { exchangeOne } from '../support/raw-http.ts';
import { startTestServer } from '../support/server.ts';

const head = (line: string, ...fields: string[]): string =>
  `${[`${line} HTTP/1.1`, 'Host: a', 'Connection: close', ...fields].join('\r\n')}\r\n\r\n`;
const preflight = (path: string, origin: string, method = 'POST') =>
  head(
    `OPTIONS ${path}`,
    `Origin: ${origin}`,
    `Access-Control-Request-Method: ${method}`,
    'Access-Control-Request-Headers: authorization, if-match',
  );
const own = 'https://app.example.org';
const corsHeaders = (headers: Record<string, string>) =>
  Object.keys(headers).filter((name) => name.startsWith('access-control-'));

t.test('without origins there is no CORS', async (t) => {
  const { url } = await startTestServer(t);
  for (const request of [preflight('/v1/datasets', own), head('GET /healthz', `Origin: ${own}`)]) {
    const { headers } = await exchangeOne(url, request);
    t.same(corsHeaders(headers), []);
    t.notMatch(headers.vary, /origin/i);
  }
});

t.test('listed origins may read answers', async (t) => {
  const other = 'http://localhost:5173';
  const { url, app, bootstrapKey } = await startTestServer(t, { corsOrigins: [own, other] });

  t.test('every route has its preflight, without a key', async (t) => {
    const { paths } = app.swagger() as { paths: Record<string, Record<string, unknown>> };
    for (const [template, operations] of Object.entries(paths)) {
      const path = template.replaceAll(/\{[^}]+\}/g, 'x');
      for (const method of Object.keys(operations).map((name) => name.toUpperCase())) {
        const { status, headers } = await exchangeOne(url, preflight(path, own, method));
        t.equal(status, 204, `${method} ${path}`);
        t.equal(headers['access-control-allow-origin'], own);
        t.ok(headers['access-control-allow-methods']!.split(', ').includes(method));
        t.equal(headers['access-control-allow-headers'], 'authorization, if-match');
        t.match(headers.allow, method);
      }
    }
    t.match(await exchangeOne(url, preflight('/v1/nothing', own)), { status: 404 });
  });

  t.test('answers and problems name the origin, and what may be read of them', async (t) => {
    for (const [request, status] of [
      [head('GET /v1/datasets', `Origin: ${other}`, `Authorization: Bearer ${bootstrapKey}`), 200],
      [head('GET /v1/datasets', `Origin: ${other}`), 401],
      [head('PUT /v1/datasets', `Origin: ${other}`), 405],
      [head('GET /v1/nothing', `Origin: ${other}`), 404],
    ] as const) {
      const answer = await exchangeOne(url, request);
      t.equal(answer.status, status);
      t.equal(answer.headers['access-control-allow-origin'], other);
      t.notOk('access-control-allow-credentials' in answer.headers);
      t.match(answer.headers.vary, /Origin/);
      const exposed = answer.headers['access-control-expose-headers']!.toLowerCase().split(', ');
      for (const name of [
        'etag',
        'retry-after',
        'x-request-id',
        'ratelimit',
        'location',
        'idempotency-replayed',
      ])
        t.ok(exposed.includes(name), name);
    }
  });

  t.test('others may not', async (t) => {
    for (const origin of [
      'https://evil.example',
      'https://app.example.org.evil.example',
      'http://app.example.org',
      'null',
    ]) {
      const answer = await exchangeOne(url, head('GET /healthz', `Origin: ${origin}`));
      t.notOk('access-control-allow-origin' in answer.headers, origin);
      t.match(answer.headers.vary, /Origin/, 'a cache keeps the answers apart');
    }
    t.notOk(
      'access-control-allow-origin' in
        (await exchangeOne(url, preflight('/v1/datasets', 'https://evil.example'))).headers,
    );
  });

  t.test('OPTIONS of other clients is as ever', async (t) => {
    t.match(await exchangeOne(url, head('OPTIONS /v1/datasets')), {
      status: 204,
      headers: { allow: 'GET, HEAD, POST, OPTIONS' },
    });
  });
});

t.test('* lets everybody', async (t) => {
  const { url } = await startTestServer(t, { corsOrigins: ['*'] });
  const { headers } = await exchangeOne(url, head('GET /healthz', 'Origin: https://anywhere.example'));
  t.equal(headers['access-control-allow-origin'], '*');
});
