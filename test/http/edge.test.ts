// What stands between the wire and the routes, spoken to over real sockets.
import { METHODS, STATUS_CODES } from 'node:http';
import t, { type Test } from 'tap';
import { problems } from '../../src/errors.ts';
import { exchange, exchangeOne, openSocket, type RawAnswer, readAnswers } from '../support/raw-http.ts';
import { startTestServer, type TestServer } from '../support/server.ts';

/** A well-made problem: of the table, with the reason phrase and the headers of its status. */
function checkProblem(t: Test, answer: RawAnswer, code: keyof typeof problems, name: string): void {
  const { status, title } = problems[code];
  t.match(answer, { status, reason: STATUS_CODES[status], body: { code, status, title } }, name);
  t.equal(answer.headers['content-type'], 'application/problem+json', `${name}: its type`);
  t.equal(answer.headers['x-request-id'], answer.body?.request_id, `${name}: its id`);
  t.match(answer.body?.type, `urn:finegrain:problem:${code}`);
}

const close = 'Host: finegrain\r\nConnection: close\r\n';
const head = (line: string, ...fields: string[]): string =>
  `${line} HTTP/1.1\r\n${close}${fields.map((field) => `${field}\r\n`).join('')}\r\n`;

/** Every route, as method and path with parameters filled in. */
function routesOf({ app }: TestServer): { path: string; methods: string[] }[] {
  const { paths } = app.swagger() as { paths: Record<string, Record<string, unknown>> };
  return Object.entries(paths).map(([template, operations]) => ({
    path: template.replaceAll(/\{[^}]+\}/g, 'x'),
    methods: Object.keys(operations).map((method) => method.toUpperCase()),
  }));
}

t.test('the edge', async (t) => {
  const server = await startTestServer(t);
  const { url, call, bootstrapKey } = server;
  const authorization = `Authorization: Bearer ${bootstrapKey}`;

  t.test(
    'every method of every path: 405 with a complete Allow, 204 to OPTIONS, without a key',
    async (t) => {
      for (const { path, methods } of routesOf(server)) {
        const allow = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'].filter(
          (method) => methods.includes(method) || (method === 'HEAD' && methods.includes('GET')),
        );
        const expected = [...allow, 'OPTIONS'].join(', ');
        const options = await exchangeOne(url, head(`OPTIONS ${path}`));
        t.match(options, { status: 204, reason: 'No Content', text: '', headers: { allow: expected } }, path);
        t.notOk('content-length' in options.headers, 'a 204 has no Content-Length');
        for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']) {
          if (allow.includes(method)) continue;
          const answer = await exchangeOne(
            url,
            head(`${method} ${path}`, 'Content-Length: 1', 'Content-Type: x/y'),
            'x',
          );
          checkProblem(t, answer, 'method_not_allowed', `${method} ${path}`);
          t.equal(answer.headers.allow, expected);
        }
      }
    },
  );

  t.test('verbs that nothing uses, and that nobody knows', async (t) => {
    for (const method of [
      ...METHODS.filter((name) => !/^(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS)$/.test(name)),
      'FOO',
      'get',
      'X-1',
    ]) {
      if (
        [
          'DESCRIBE',
          'ANNOUNCE',
          'SETUP',
          'PLAY',
          'PAUSE',
          'TEARDOWN',
          'REDIRECT',
          'RECORD',
          'FLUSH',
          'PRI',
        ].includes(method)
      )
        continue; // of other protocols
      const answer = await exchangeOne(url, head(`${method} /v1/datasets`));
      checkProblem(t, answer, 'method_not_allowed', method);
      t.equal(answer.headers.allow, 'GET, HEAD, POST, OPTIONS', method);
      const unknown = await exchangeOne(url, head(`${method} /v1/nothing`));
      checkProblem(t, unknown, 'not_found', `${method} of nothing`);
    }
    t.match(await exchangeOne(url, head('CONNECT example.org:443')), {
      status: 405,
      headers: { allow: 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS' },
    });
    t.match(await exchangeOne(url, head('OPTIONS *')), {
      status: 204,
      headers: { allow: 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS' },
    });
    checkProblem(t, await exchangeOne(url, head('OPTIONS /v1/nothing')), 'not_found', 'OPTIONS of nothing');
    t.match(
      readAnswers(
        await exchange(
          url,
          'GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nFOO /v1/datasets HTTP/1.1\r\nHost: a\r\n\r\n',
        ),
      ),
      [{ status: 200 }, { status: 405 }],
      'the request before it gets its answer first',
    );
  });

  t.test('paths are taken literally', async (t) => {
    const slash = await exchangeOne(url, head('GET /v1/datasets/'));
    checkProblem(t, slash, 'not_found', 'a slash at the end');
    t.match(slash.body.detail, 'Did you mean /v1/datasets?');
    for (const path of [
      '//v1/datasets',
      '/v1//datasets',
      '/v1/datasets//',
      '/V1/datasets',
      '/v1/../v1/datasets',
      '/',
      '/v1/%64atasets%2f',
      '/docs/static/nothing.js',
    ])
      checkProblem(t, await exchangeOne(url, head(`GET ${path}`)), 'not_found', path);
    t.match(await exchangeOne(url, head('GET /v1/%64atasets', authorization)), { status: 200 });
    t.match(
      await exchangeOne(url, head(`GET ${url}/v1/datasets?limit=1`, authorization)),
      { status: 200 },
      'absolute form',
    );
    t.match(await exchangeOne(url, head('GET http://elsewhere.example', authorization)), { status: 404 });
  });

  t.test('percent-encoding nonsense and odd characters never reach the database', async (t) => {
    for (const path of [
      '/%',
      '/v1/datasets/%',
      '/v1/datasets/%zz',
      '/v1/datasets/%ff',
      '/v1/datasets/%c0%af',
      '/v1/datasets/%ed%a0%80',
    ])
      checkProblem(t, await exchangeOne(url, head(`GET ${path}`, authorization)), 'invalid_request', path);
    for (const { path, methods } of routesOf(server).filter(({ path }) => path.includes('/x'))) {
      for (const odd of [
        '%00',
        '%0a',
        '%20',
        '%f0%9f%98%80',
        '__proto__',
        'constructor',
        "'",
        'x'.repeat(3000),
        '%2e%2e%2f',
      ]) {
        const method = methods[0]!;
        const json =
          method === 'GET' || method === 'DELETE'
            ? []
            : ['Content-Type: application/json', 'Content-Length: 2'];
        const answer = await exchangeOne(
          url,
          head(`${method} ${path.replace('/x', `/${odd}`)}`, authorization, ...json),
          json.length > 0 ? '{}' : '',
        );
        t.ok(
          answer.status >= 400 && answer.status < 500,
          `${method} ${path} ${odd.slice(0, 20)}: ${answer.status}`,
        );
      }
    }
  });

  t.test('malformed HTTP', async (t) => {
    const requests: Record<string, string | Uint8Array> = {
      'no HTTP': 'NOT HTTP\r\n\r\n',
      'no version': 'GET /healthz\r\n\r\n',
      'version 1.2': 'GET /healthz HTTP/1.2\r\nHost: a\r\n\r\n',
      'version 2.0': 'GET /healthz HTTP/2.0\r\nHost: a\r\n\r\n',
      'the preface of HTTP/2': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
      'a TLS hello': Buffer.from('16030100a5010000a10303', 'hex'),
      'length and chunks': head('POST /v1/datasets', 'Content-Length: 3', 'Transfer-Encoding: chunked'),
      'chunks and length': head('POST /v1/datasets', 'Transfer-Encoding: chunked', 'Content-Length: 3'),
      'two lengths': head('POST /v1/datasets', 'Content-Length: 3', 'Content-Length: 4'),
      'two equal lengths': head('POST /v1/datasets', 'Content-Length: 3', 'Content-Length: 3'),
      'a list of lengths': head('POST /v1/datasets', 'Content-Length: 3, 3'),
      'a negative length': head('POST /v1/datasets', 'Content-Length: -3'),
      'a length beyond integers': head('POST /v1/datasets', `Content-Length: ${'9'.repeat(30)}`),
      'an unknown transfer coding': head('POST /v1/datasets', 'Transfer-Encoding: gzip, chunked'),
      'chunked in HTTP/1.0': 'POST /v1/datasets HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
      'bare LF': 'GET /healthz HTTP/1.1\nHost: a\n\n',
      'bare LF after a header': 'GET /healthz HTTP/1.1\r\nHost: a\nX: y\r\n\r\n',
      'bare CR in a header': 'GET /healthz HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n',
      'no Host': 'GET /healthz HTTP/1.1\r\n\r\n',
      'two Hosts': 'GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n',
      'a Host that is none': 'GET /healthz HTTP/1.1\r\nHost: a/b@c\r\n\r\n',
      'obs-fold': head('GET /healthz', 'X: y\r\n z'),
      'a header before the first': 'GET /healthz HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n',
      'a space before the colon': head('GET /healthz', 'X : y'),
      'a header without a colon': head('GET /healthz', 'X'),
      'NUL in a header': head('GET /healthz', 'X: y\0z'),
      'NUL in the target': head('GET /healthz\0'),
      'bytes that are not ASCII in the target': Buffer.from(head('GET /h\xe9'), 'latin1'),
      'a relative target': head('GET healthz'),
      'an asterisk': head('GET *'),
    };
    for (const [name, request] of Object.entries(requests)) {
      const answer = await exchangeOne(url, request);
      checkProblem(t, answer, 'invalid_request', name);
      t.equal(answer.headers.connection, 'close', `${name}: where the next request begins is not known`);
    }
    const chunk = await exchangeOne(
      url,
      head(
        'POST /v1/datasets',
        authorization,
        'Content-Type: application/json',
        'Transfer-Encoding: chunked',
      ),
      'ZZ\r\n',
    );
    checkProblem(t, chunk, 'invalid_request', 'a chunk without a size');
    t.match(
      await exchangeOne(url, 'GET /healthz HTTP/1.0\r\n\r\n'),
      { status: 200 },
      'HTTP/1.0 needs no Host',
    );
    t.match(
      await exchangeOne(url, `\r\n${head('GET /healthz')}`),
      { status: 200 },
      'an empty line before it',
    );
  });

  t.test('sizes of the head', async (t) => {
    checkProblem(t, await exchangeOne(url, head(`GET /${'x'.repeat(9000)}`)), 'uri_too_long', 'a target');
    checkProblem(
      t,
      await exchangeOne(url, head(`GET /${'x'.repeat(100_000)}`)),
      'uri_too_long',
      'a vast target',
    );
    checkProblem(
      t,
      await exchangeOne(url, head('GET /healthz', `X: ${'y'.repeat(20_000)}`)),
      'header_too_large',
      'a header',
    );
    checkProblem(
      t,
      await exchangeOne(url, head('GET /healthz', `X: ${'y'.repeat(5_000_000)}`)),
      'header_too_large',
      'a vast header',
    );
    checkProblem(
      t,
      await exchangeOne(url, head('GET /healthz', ...Array.from({ length: 300 }, (_, n) => `X${n}: y`))),
      'header_too_large',
      'many headers',
    );
  });

  t.test('Accept: 406 where the route has nothing acceptable', async (t) => {
    const dataset = (await call('POST', '/v1/datasets', { json: { name: 'accept' } })).body.id;
    const statusFor = async (path: string, accept: string) =>
      (await exchangeOne(url, head(`GET ${path}`, authorization, `Accept: ${accept}`))).status;
    const json = '/v1/datasets';
    for (const accept of [
      '*/*',
      'application/*',
      'application/json',
      'APPLICATION/JSON',
      'application/json;charset=utf-8',
      'text/html, */*;q=0.1',
      'application/json;q=0.001',
      '',
      'text/html;q=1, application/json;q=0.5',
      'application/*;q=0, application/json',
    ])
      t.equal(await statusFor(json, accept), 200, accept);
    for (const accept of [
      'text/html',
      'application/xml, text/*',
      'application/json;q=0',
      '*/*, application/json;q=0',
      '*/*;q=0',
      'application/problem+json',
      'nonsense',
      'application/json;q=2',
      'application/*;q=0, */*',
    ])
      t.equal(await statusFor(json, accept), 406, accept);
    const ndjson = `/v1/datasets/${dataset}/pairs/export`;
    t.equal(await statusFor(ndjson, 'application/x-ndjson'), 200);
    t.equal(await statusFor(ndjson, 'application/json'), 406, 'of a stream too');
    const refused = await exchangeOne(url, head(`GET ${ndjson}`, authorization, 'Accept: text/csv'));
    checkProblem(t, refused, 'not_acceptable', 'export as CSV');
    t.match(refused.body.detail, 'application/x-ndjson');
    t.equal(
      (await exchangeOne(url, head('GET /v1/datasets', 'Accept: text/html'))).status,
      401,
      'who may not ask is told so first',
    );
    const { body: artifact } = await call('POST', '/v1/artifacts', {
      body: 'a,b',
      headers: { 'content-type': 'text/csv' },
    });
    t.equal(
      await statusFor(`/v1/artifacts/${artifact.digest}`, 'text/csv'),
      200,
      'an artifact is of any type',
    );
    const pair = (
      await call('POST', `/v1/datasets/${dataset}/pairs`, {
        json: { pairs: [{ prompt: 'p', response_a: 'a', response_b: 'b' }] },
      })
    ).body.items[0].id;
    t.equal(
      (await exchangeOne(url, head(`DELETE /v1/pairs/${pair}`, authorization, 'Accept: text/html'))).status,
      204,
      'an answer without content suits everybody',
    );
  });

  t.test('HEAD answers as GET does, without the content', async (t) => {
    const { id } = (
      await call('POST', '/v1/datasets', { json: { name: 'head', description: 'd'.repeat(3000) } })
    ).body;
    await call('POST', `/v1/datasets/${id}/pairs`, {
      json: { pairs: [{ prompt: 'p', response_a: 'a', response_b: 'b' }] },
    });
    for (const path of [
      `/v1/datasets/${id}`,
      `/v1/datasets/${id}/pairs/export`,
      '/v1/datasets/ds_1',
      '/healthz',
      '/openapi.json',
    ])
      for (const fields of [[authorization], [authorization, 'Accept-Encoding: gzip'], []]) {
        const get = await exchangeOne(url, head(`GET ${path}`, ...fields));
        const answered = await exchange(url, head(`HEAD ${path}`, ...fields));
        t.ok(answered.endsWith('\r\n\r\n'), `HEAD ${path} has no content`);
        const [, status] = /^HTTP\/1.1 (\d+)/.exec(answered)!;
        const headers = Object.fromEntries(
          answered
            .split('\r\n')
            .slice(1)
            .filter(Boolean)
            .map((line) => [
              line.slice(0, line.indexOf(':')).toLowerCase(),
              line.slice(line.indexOf(':') + 2),
            ]),
        );
        const own = ['date', 'x-request-id', 'traceresponse', 'transfer-encoding'];
        const shared = (all: Record<string, string>) =>
          Object.fromEntries(
            Object.entries(all)
              .filter(([name]) => !own.includes(name))
              .sort(),
          );
        t.equal(Number(status), get.status);
        const lengths = get.status >= 400 ? ['content-length'] : []; // problems name their request
        for (const name of lengths) delete headers[name];
        const { ...expected } = get.headers;
        for (const name of lengths) delete expected[name];
        t.same(shared(headers), shared(expected), `HEAD ${path} ${fields.length}`);
      }
  });

  t.test('Expect', async (t) => {
    checkProblem(
      t,
      await exchangeOne(url, head('GET /healthz', 'Expect: the-unexpected')),
      'expectation_failed',
      'an unknown one',
    );
    const body = '{"name": "expected"}';
    const socket = await openSocket(url);
    socket.write(
      head(
        'POST /v1/datasets',
        authorization,
        'Content-Type: application/json',
        `Content-Length: ${body.length}`,
        'Expect: 100-continue',
      ),
    );
    while (!socket.received().includes('\r\n\r\n')) await new Promise((resolve) => setTimeout(resolve, 10));
    t.equal(socket.received(), 'HTTP/1.1 100 Continue\r\n\r\n');
    socket.write(body);
    await new Promise((resolve) => socket.once('close', resolve));
    t.match(readAnswers(socket.received()), [{ status: 201, body: { name: 'expected' } }]);
  });

  t.test('bodies: 413, 415, 422, and the connection lives on', async (t) => {
    const post = (fields: string[], body: string | Uint8Array) =>
      exchange(
        url,
        `POST /v1/datasets HTTP/1.1\r\nHost: a\r\n${authorization}\r\n${fields.join('\r\n')}\r\n\r\n`,
        body,
        head('GET /healthz'),
      ).then(readAnswers);
    const big = 9 * 1024 * 1024;
    const [declared, after] = await post(
      ['Content-Type: application/json', `Content-Length: ${big}`],
      Buffer.alloc(big, 'x'),
    );
    checkProblem(t, declared!, 'content_too_large', 'declared');
    t.match(declared!.body.detail, '8388608');
    t.equal(after!.status, 200, 'the rest of the body was read away');
    const chunk = Buffer.concat([
      Buffer.from('100000\r\n'),
      Buffer.alloc(0x100000, 'x'),
      Buffer.from('\r\n'),
    ]);
    const chunks = Buffer.concat([...Array(12).fill(chunk), Buffer.from('0\r\n\r\n')]);
    const [chunked, next] = await post(
      ['Content-Type: application/json', 'Transfer-Encoding: chunked'],
      chunks,
    );
    checkProblem(t, chunked!, 'content_too_large', 'chunked');
    t.equal(next!.status, 200);
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'nonsense', 'application/xml']) {
      const [wrong, then] = await post([`Content-Type: ${type}`, 'Content-Length: 2'], '{}');
      checkProblem(t, wrong!, 'unsupported_media_type', type);
      t.equal(wrong!.body.detail, `The route reads application/json, not ${type}.`);
      t.equal(then!.status, 200);
    }
    const [untyped] = await post(['Content-Length: 2'], '{}');
    checkProblem(t, untyped!, 'unsupported_media_type', 'no type');
    const [broken, still] = await post(
      ['Content-Type: Application/JSON; charset=utf-8', 'Content-Length: 9'],
      '{"name": ',
    );
    checkProblem(t, broken!, 'malformed_json', 'JSON cut off');
    t.equal(still!.status, 200);
    const split = {
      json: {
        dataset_ids: ['ds_019356f0a1b27c3d8e4f5a6b7c8d9e0f'],
        split: { train: 0.5, validation: 0, test: 0, seed: 0 },
      },
    };
    t.match(await call('POST', '/v1/snapshots', split), { status: 422, body: { code: 'unprocessable' } });
  });
});
