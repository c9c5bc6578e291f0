// Who a request is named to be, and the one line that the log has of it.
import { once } from 'node:events';
import { Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import t from 'tap';
import { exchange, openSocket } from '../support/raw-http.ts';
import { startTestServer, type TestServer } from '../support/server.ts';

type Line = Record<string, unknown> & { request_id?: string; level: number; msg: string };

/** Where the service logs to, and the lines so far. */
function logLines() {
  const lines: Line[] = [];
  const log = new Writable({
    write(chunk: Buffer, _encoding, done) {
      lines.push(JSON.parse(chunk.toString()));
      done();
    },
  });
  /** The line of a request, which may be written a moment after its answer was read. */
  const lineOf = async (id: string): Promise<Line> => {
    for (let waited = 0; waited < 5000; waited += 20) {
      const found = lines.filter(({ request_id }) => request_id === id);
      if (found.length > 1) throw new Error(`${found.length} lines: ${JSON.stringify(found)}`);
      if (found[0]) return found[0];
      await sleep(20);
    }
    throw new Error(`no line of ${id}`);
  };
  return { log, lines, lineOf };
}

async function administer({ database }: TestServer, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: database.superuserUrl });
  await client.connect();
  await client.query(statement).finally(() => client.end());
}

const traceId = '4bf92f3577b34da6a3ce929d0e0e4736';
const parentId = '00f067aa0ba902b7';
const [debug, info, error] = [20, 30, 50];

t.test('request ids, traces and the request log', async (t) => {
  const { log, lines, lineOf } = logLines();
  const server = await startTestServer(t, { log });
  const { url, call, bootstrapKey } = server;

  t.test('an id is taken where it is one, and is on every answer', async (t) => {
    for (const id of ['a', 'x'.repeat(128), '!"#$%&/()=?{}[]~']) {
      const answer = await call('GET', '/healthz', { headers: { 'x-request-id': id } });
      t.equal(answer.headers.get('x-request-id'), id);
    }
    for (const id of ['', 'x'.repeat(129), 'two words', 'ümlaut', 'a, b']) {
      const answer = await call('GET', '/healthz', { headers: { 'x-request-id': id } });
      t.match(answer.headers.get('x-request-id'), /^[0-9a-f-]{36}$/, `not ${id}`);
    }
    const own = { 'x-request-id': 'mine' };
    for (const [method, path, key] of [
      ['GET', '/v1/nothing', null],
      ['PUT', '/v1/datasets', null],
      ['GET', '/v1/datasets', null],
      ['GET', '/v1/datasets/ds_1', undefined],
    ] as const) {
      const problem = await call(method, path, { headers: own, key });
      t.equal(problem.headers.get('x-request-id'), 'mine', `${method} ${path}`);
      t.equal(problem.body.request_id, 'mine');
      t.equal(problem.body.instance, path);
    }
    const twice = await exchange(
      url,
      'GET /healthz HTTP/1.1\r\nHost: a\r\nX-Request-Id: a\r\nX-Request-Id: b\r\nConnection: close\r\n\r\n',
    );
    t.match(twice, /x-request-id: [0-9a-f-]{36}\r\n/);
  });

  t.test('traceparent is honoured, and a broken one is as none', async (t) => {
    const traced = await call('GET', '/v1/datasets', {
      headers: { traceparent: `00-${traceId}-${parentId}-01`, 'x-request-id': 'traced' },
    });
    const line = await lineOf('traced');
    t.match(line, { trace_id: traceId, parent_id: parentId, span_id: /^[0-9a-f]{16}$/ });
    t.equal(traced.headers.get('traceresponse'), `00-${traceId}-${line.span_id}-01`);
    await call('GET', '/v1/datasets', {
      headers: { traceparent: `00-${traceId}-nonsense-01`, 'x-request-id': 'untraced' },
    });
    const other = await lineOf('untraced');
    t.match(other, { parent_id: null, trace_id: /^[0-9a-f]{32}$/ });
    t.not(other.trace_id, traceId);
  });

  t.test('one line for each request, with who, what and how', async (t) => {
    const key = await call('POST', '/v1/keys', { json: { name: 'logged', scopes: ['read'] } });
    const answer = await call('GET', '/v1/datasets?limit=3', {
      key: key.body.key,
      headers: { 'x-request-id': 'plain', 'user-agent': 'a-client/1.0' },
    });
    t.match(await lineOf('plain'), {
      level: info,
      msg: 'request',
      method: 'GET',
      route: '/v1/datasets',
      path: '/v1/datasets',
      status: 200,
      problem: null,
      aborted: false,
      duration_ms: Number,
      project_id: 'proj_00000000000070008000000000000000',
      key_id: key.body.id,
      address: '127.0.0.1',
      user_agent: 'a-client/1.0',
    });
    const { bytes_in, bytes_out } = (await lineOf('plain')) as unknown as Record<string, number>;
    t.ok(bytes_in! > 150 && bytes_in! < 1000, `${bytes_in} bytes in`);
    t.ok(bytes_out! > answer.text.length && bytes_out! < answer.text.length + 800, `${bytes_out} bytes out`);

    await call('GET', '/v1/datasets/ds_1', { headers: { 'x-request-id': 'missing' } });
    t.match(await lineOf('missing'), {
      level: info,
      route: '/v1/datasets/:dataset_id',
      path: '/v1/datasets/ds_1',
      status: 404,
      problem: 'not_found',
      key_id: null,
    });
    await call('GET', '/v1/nothing', { key: null, headers: { 'x-request-id': 'unknown' } });
    t.match(await lineOf('unknown'), { level: info, route: null, status: 404, project_id: null });
    await call('GET', '/healthz', { headers: { 'x-request-id': 'health' } });
    t.match(await lineOf('health'), { level: debug, status: 200 });
  });

  t.test('what was not a request has a line too', async (t) => {
    const answered = await exchange(url, 'GET /healthz HTTP/1.1\r\nbroken\r\n\r\n');
    const id = /x-request-id: (\S+)/.exec(answered)![1]!;
    t.match(await lineOf(id), { level: info, method: null, status: 400, problem: 'invalid_request' });
  });

  t.test('a client that goes at any stage leaves one line', async (t) => {
    const { id } = (await call('POST', '/v1/datasets', { json: { name: 'left' } })).body;
    const pairs = Array.from({ length: 1000 }, (_, n) => ({
      prompt: `p${n}`,
      response_a: 'a'.repeat(2000),
      response_b: 'b',
    }));
    for (let n = 0; n < 5; n++)
      await call('POST', `/v1/datasets/${id}/pairs`, {
        json: { pairs: pairs.map((pair) => ({ ...pair, prompt: `${pair.prompt} ${n}` })) },
      });
    const begin = (name: string, line: string, ...fields: string[]) =>
      [
        `${line} HTTP/1.1`,
        'Host: a',
        `Authorization: Bearer ${bootstrapKey}`,
        `X-Request-Id: ${name}`,
        ...fields,
        '\r\n',
      ].join('\r\n');
    const body = await openSocket(url);
    body.write(
      begin('gone-in-body', 'POST /v1/datasets', 'Content-Type: application/json', 'Content-Length: 99'),
    );
    body.write('{"name": ');
    await sleep(100);
    body.resetAndDestroy();
    t.match(await lineOf('gone-in-body'), { status: null, aborted: true, level: info });

    const rows = await openSocket(url);
    rows.write(
      begin(
        'gone-in-import',
        `POST /v1/datasets/${id}/pairs/import`,
        'Content-Type: application/x-ndjson',
        'Transfer-Encoding: chunked',
      ),
    );
    rows.write('3\r\n{"p\r\n');
    await sleep(100);
    rows.resetAndDestroy();
    t.match(await lineOf('gone-in-import'), { status: null, aborted: true, level: info });

    const answer = await openSocket(url);
    answer.write(begin('gone-in-answer', `GET /v1/datasets/${id}/pairs/export`));
    await once(answer, 'data');
    answer.resetAndDestroy();
    t.match(await lineOf('gone-in-answer'), { status: 200, aborted: true, level: info });
    t.match(await call('GET', '/healthz'), { status: 200 });
  });

  t.test('no key and no body is ever logged', async (t) => {
    const secret = 'fg_this-is-a-wrong-key-that-nobody-should-read';
    await call('GET', '/v1/datasets?token=fg_in-the-query', {
      key: secret,
      headers: { 'x-request-id': 'refused' },
    });
    await lineOf('refused');
    await call('POST', '/v1/datasets', { json: { name: 'the name is nobody’s business', wrong: 1 } });
    const all = JSON.stringify(lines);
    for (const text of [bootstrapKey, secret, 'fg_in-the-query', 'nobody’s business'])
      t.notOk(all.includes(text));
  });

  t.test('5xx is an error, with its cause in the same line', async (t) => {
    await administer(server, 'alter table finegrain.datasets rename to gone');
    const answer = await call('GET', '/v1/datasets', { headers: { 'x-request-id': 'failed' } });
    t.match(answer, { status: 500, body: { code: 'internal_error', detail: /failed/ } });
    t.match(await lineOf('failed'), {
      level: error,
      status: 500,
      err: { code: '42P01', message: /datasets/, stack: String },
    });
  });
});
