// Clients that send anything, as slowly or as much as they like: each is bounded in time and memory, and others are
// served meanwhile.
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import t, { type Test } from 'tap';
import { exchange, openSocket, readAnswers } from '../support/raw-http.ts';
import { startTestServer } from '../support/server.ts';

type RawSocket = Awaited<ReturnType<typeof openSocket>>;

/** How long the connection lasts from now, in ms; the test fails when it is still there after `limitMs`. */
async function lasts(t: Test, socket: RawSocket, limitMs: number): Promise<number> {
  const startedAt = performance.now();
  const closing = new Promise((resolve) => socket.once('close', resolve)); // by a reset, too
  if (!socket.closed) await Promise.race([closing, sleep(limitMs)]);
  t.ok(socket.closed, `ended within ${limitMs} ms`);
  socket.destroy();
  return performance.now() - startedAt;
}

/** Writes a byte now and then until the connection ends. */
function dribble(socket: RawSocket, everyMs: number, bytes = 'x'): void {
  const dribbling = setInterval(() => socket.write(bytes), everyMs);
  socket.once('close', () => clearInterval(dribbling));
}

t.test('slow clients', async (t) => {
  const limits = { headMs: 1000, bodyGapMs: 800, silenceMs: 2000, lingerMs: 500 };
  const server = await startTestServer(t, { limits });
  const { url, call, bootstrapKey } = server;
  const post = (path: string, type: string, ...fields: string[]): string =>
    `${[`POST ${path} HTTP/1.1`, 'Host: a', `Authorization: Bearer ${bootstrapKey}`, `Content-Type: ${type}`, ...fields].join('\r\n')}\r\n\r\n`;
  const { id } = (await call('POST', '/v1/datasets', { json: { name: 'slow' } })).body;
  const imports = `/v1/datasets/${id}/pairs/import`;
  const row = (n: number | string) => `{"prompt": "p${n}", "response_a": "a", "response_b": "b"}\n`;

  t.test('300 heads that never end keep nobody from being served', async (t) => {
    const sockets = await Promise.all(Array.from({ length: 300 }, () => openSocket(url)));
    for (const [n, socket] of sockets.entries()) {
      if (n % 3 === 0) continue; // says nothing at all
      socket.write(`GET /healthz HTTP/1.1\r\nHost: a\r\nX: `);
      dribble(socket, 100);
    }
    const ending = Promise.all(sockets.map((socket) => lasts(t, socket, 30_000)));
    let slowestMs = 0;
    for (let n = 0; n < 20; n++) {
      const askedAt = performance.now();
      t.equal((await call('GET', '/v1/datasets')).status, 200);
      slowestMs = Math.max(slowestMs, performance.now() - askedAt);
      await sleep(20);
    }
    t.ok(slowestMs < 3000, `others were served within ${slowestMs.toFixed()} ms`);
    await ending;
    t.match(readAnswers(sockets[1]!.received()), [
      { status: 408, reason: 'Request Timeout', body: { code: 'request_timeout' } },
    ]);
  });

  t.test('a JSON body that dribbles, or stops: 408', async (t) => {
    const dribbled = await openSocket(url);
    dribbled.write(post('/v1/datasets', 'application/json', 'Content-Length: 100000'));
    dribble(dribbled, 50);
    t.ok((await lasts(t, dribbled, 30_000)) > 700);
    t.match(readAnswers(dribbled.received()), [
      { status: 408, headers: { connection: 'close' }, body: { detail: /1024 bytes a second/ } },
    ]);
    const stopped = await openSocket(url);
    stopped.write(post('/v1/datasets', 'application/json', 'Transfer-Encoding: chunked'));
    stopped.write('9\r\n{"name": \r\n');
    await lasts(t, stopped, 30_000);
    t.match(readAnswers(stopped.received()), [{ status: 408, body: { detail: /stopped/ } }]);
  });

  t.test('an import may take its time, but not stop', async (t) => {
    const slow = await openSocket(url);
    slow.write(post(imports, 'application/x-ndjson', 'Transfer-Encoding: chunked', 'Connection: close'));
    for (let n = 0; n < 12; n++) {
      const text = row(`slow ${n}`);
      slow.write(`${text.length.toString(16)}\r\n${text}\r\n`);
      await sleep(250);
    }
    slow.write('0\r\n\r\n');
    await lasts(t, slow, 30_000);
    t.match(readAnswers(slow.received()), [{ status: 200, body: { created: 12 } }]);
    const stopped = await openSocket(url);
    const text = row('kept');
    stopped.write(post(imports, 'application/x-ndjson', 'Transfer-Encoding: chunked'));
    stopped.write(`${text.length.toString(16)}\r\n${text}\r\n`);
    await lasts(t, stopped, 30_000);
    t.match(readAnswers(stopped.received()), [{ status: 408, body: { code: 'request_timeout' } }]);
  });

  t.test('an import that waits for the database is not blamed for it', async (t) => {
    const client = new pg.Client({ connectionString: server.database.superuserUrl });
    await client.connect();
    await client.query('begin; lock table finegrain.pairs in exclusive mode');
    const rows = Array.from({ length: 10_000 }, (_, n) => row(`held ${n} ${'x'.repeat(500)}`)).join('');
    const importing = call('POST', imports, {
      body: rows,
      headers: { 'content-type': 'application/x-ndjson' },
    });
    await sleep(2500); // more than a body may pause, or a connection be silent
    await client.query('commit');
    await client.end();
    t.match(await importing, { status: 200, body: { created: 10_000 } });
  });

  t.test('without a key nobody gets to send a body', async (t) => {
    const socket = await openSocket(url);
    socket.write(
      'POST /v1/datasets HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n',
    );
    dribble(socket, 50);
    t.ok((await lasts(t, socket, 3000)) < 1500, 'read away for a moment only');
    t.match(readAnswers(socket.received()), [{ status: 401 }]);
  });

  t.test('an answer that nobody reads is given up, in little memory', async (t) => {
    const big = 'x'.repeat(100_000);
    for (let n = 0; n < 4; n++)
      await call('POST', `/v1/datasets/${id}/pairs`, {
        json: {
          pairs: Array.from({ length: 200 }, (_, i) => ({
            prompt: `${n} ${i}`,
            response_a: big,
            response_b: 'b',
          })),
        },
      });
    const heap = () => process.memoryUsage().rss;
    const before = heap();
    const sockets = await Promise.all(Array.from({ length: 5 }, () => openSocket(url)));
    for (const socket of sockets) {
      socket.pause();
      socket.write(
        `GET /v1/datasets/${id}/pairs/export HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${bootstrapKey}\r\n\r\n`,
      );
    }
    await sleep(1000);
    const grown = heap() - before;
    t.ok(grown < 700e6, `5 exports of 80 MB that nobody reads take ${(grown / 1e6).toFixed()} MB`);
    const open = () =>
      new Promise<number>((resolve) => server.app.server.getConnections((_error, count) => resolve(count)));
    for (let waited = 0; waited < 30_000 && (await open()) > 1; waited += 100) await sleep(100);
    t.ok((await open()) <= 1, 'the service has ended their connections'); // the one of `call` is kept alive
    for (const socket of sockets) socket.destroy();
    t.match(await call('GET', '/healthz'), { status: 200 });
  });
});

t.test('many requests at once on one connection take turns with the others', async (t) => {
  const server = await startTestServer(t);
  const { url, call, bootstrapKey } = server;
  await call('GET', '/v1/datasets'); // opens a database connection
  for (const [count, path] of [
    [10_000, '/healthz'],
    [1_000, '/v1/datasets'],
  ] as const) {
    const request = `GET ${path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${bootstrapKey}\r\n\r\n`;
    const before = process.memoryUsage().rss;
    const startedAt = performance.now();
    const socket = await openSocket(url);
    socket.write(request.repeat(count - 1));
    socket.write(request.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n'));
    let slowestMs = 0;
    let peak = before;
    while (!socket.closed && performance.now() - startedAt < 180_000) {
      const askedAt = performance.now();
      t.equal((await call('GET', '/v1/datasets')).status, 200);
      slowestMs = Math.max(slowestMs, performance.now() - askedAt);
      peak = Math.max(peak, process.memoryUsage().rss);
      await sleep(50);
    }
    const answers = readAnswers(socket.received());
    t.equal(answers.length, count);
    t.ok(answers.every(({ status }) => status === 200));
    const tookMs = performance.now() - startedAt;
    const said = `${count} pipelined requests in ${tookMs.toFixed()} ms, ${((peak - before) / 1e6).toFixed()} MB more, others within ${slowestMs.toFixed()} ms`;
    t.comment(said);
    t.ok(slowestMs < Math.max(3000, tookMs / 4), said);
    t.ok(peak - before < 300e6, said);
  }
});

t.test('JSON of any shape', async (t) => {
  const { call } = await startTestServer(t);
  const { id } = (await call('POST', '/v1/datasets', { json: { name: 'shapes' } })).body;
  const pairs = `/v1/datasets/${id}/pairs`;
  /** Answered soon, and others as well. */
  const send = async (name: string, path: string, body: string, type = 'application/json') => {
    const startedAt = performance.now();
    const answering = call('POST', path, { body, headers: { 'content-type': type } });
    const other = call('GET', '/healthz').then(() => performance.now() - startedAt);
    const answer = await answering;
    const said = `${name}: ${answer.status} in ${(performance.now() - startedAt).toFixed()} ms, others in ${(await other).toFixed()} ms`;
    t.comment(said);
    t.ok(performance.now() - startedAt < 5000, said);
    return answer;
  };
  let made = 0;
  const pair = (metadata: string) =>
    `{"pairs": [{"prompt": "p${made++}", "response_a": "a", "response_b": "b", "metadata": ${metadata}}]}`;

  t.test('depth', async (t) => {
    for (const depth of [10_000, 4_000_000]) {
      const answer = await send(`depth ${depth}`, '/v1/datasets', '['.repeat(depth) + ']'.repeat(depth));
      t.match(answer, {
        status: 422,
        body: { code: 'unprocessable', detail: 'The body is nested deeper than 64 levels.' },
      });
    }
    t.match(await send('deep objects', pairs, pair(`${'{"a":'.repeat(10_000)}1${'}'.repeat(10_000)}`)), {
      status: 422,
    });
    t.match(await send('depth 64', pairs, pair(`${'{"a":'.repeat(61)}1${'}'.repeat(61)}`)), { status: 201 });
    const row = `{"prompt": "q", "response_a": "a", "response_b": "b", "metadata": ${'['.repeat(3_000_000)}\n`;
    t.match(await send('a deep row', `${pairs}/import`, row, 'application/x-ndjson'), {
      status: 200,
      body: {
        rejected: 1,
        errors: [{ line: 1, code: 'invalid_row', detail: 'is nested deeper than 64 levels' }],
      },
    });
  });

  t.test('size', async (t) => {
    t.match(await send('4,000,000 numbers', '/v1/datasets', `[${'1,'.repeat(3_999_999)}1]`), { status: 400 });
    t.match(
      await send('wrong values in a list', '/v1/win-rates', `{"judgements": [${'0,'.repeat(4_000_000)}0]}`),
      { status: 400 },
    );
    const many = Object.fromEntries(Array.from({ length: 100_000 }, (_, n) => [`k${n}`, n]));
    t.match(await send('100,000 unknown fields', '/v1/datasets', JSON.stringify(many)), {
      status: 400,
      body: { code: 'invalid_request', errors: [{ pointer: '/name', detail: 'is missing' }] },
    });
    t.match(await send('100,000 keys', pairs, pair(JSON.stringify(many))), { status: 201 });
    const text = 'x'.repeat(5_000_000);
    t.match(await send('a text of 5 MB', '/v1/datasets', JSON.stringify({ name: text })), {
      status: 400,
      body: { errors: [{ pointer: '/name' }] },
    });
    t.match(await send('5 MB in metadata', pairs, pair(JSON.stringify({ text }))), { status: 201 });
    const wrong = await send(
      'every error of a small body',
      pairs,
      JSON.stringify({ pairs: Array(20).fill({}) }),
    );
    t.equal(wrong.body.errors.length, 50, 'listed up to 50');
  });

  t.test('values', async (t) => {
    t.match(await send('1e999', pairs, pair('{"n": [1e999]}')), {
      status: 422,
      body: { code: 'unprocessable', errors: [{ pointer: '/pairs/0/metadata/n/0' }] },
    });
    t.match(await send('equal keys', '/v1/datasets', '{"name": "first", "name": "last"}'), {
      status: 201,
      body: { name: 'last' },
    });
    for (const [name, type] of [
      ['NUL', 'Application/JSON'],
      ['NUL', 'application/json;charset=utf-8'],
    ] as const)
      t.match(await send(name, '/v1/datasets', '{"name": "\\u0000"}', type), {
        status: 422,
        body: { code: 'ill_formed_text', errors: [{ pointer: '/name' }] },
      });
    const metadata = '{"__proto__": {"polluted": true}, "constructor": {"prototype": {"polluted": true}}}';
    const { body } = await send('__proto__', pairs, pair(metadata));
    const stored = await call('GET', `/v1/pairs/${body.items[0].id}`);
    t.match(stored.text, /"__proto__":\{"polluted":true\}/, 'metadata comes out as it went in');
    t.equal(({} as { polluted?: boolean }).polluted, undefined);
    t.match(await send('__proto__ as a field', '/v1/datasets', '{"name": "x", "__proto__": {}}'), {
      status: 400,
      body: { errors: [{ pointer: '/__proto__' }] },
    });
    const answer = await call('POST', '/v1/datasets', {
      body: Buffer.from('{"name": "\xff"}', 'latin1'),
      headers: { 'content-type': 'application/json' },
    });
    t.match(answer, { status: 400, body: { code: 'malformed_json', detail: 'The body is not UTF-8.' } });
  });

  t.test('queries', async (t) => {
    const query = Array.from({ length: 2500 }, (_, n) => `a${n % 10}`).join('&');
    t.match(await call('GET', `/v1/datasets?${query}`), { status: 400, body: { code: 'invalid_request' } });
    const many = Array.from({ length: 5000 }, (_, n) => `a${n}=1`).join('&');
    t.match(
      await exchange(
        (await startTestServer(t)).url,
        `GET /v1/datasets?${many} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`,
      ),
      /^HTTP\/1.1 414 URI Too Long/,
    );
    t.match(await call('GET', '/v1/datasets?cursor=%00'), { status: 422, body: { code: 'ill_formed_text' } });
    t.match(await call('GET', '/v1/datasets?__proto__=1&constructor=2'), { status: 400 });
    t.match(await call('GET', '/v1/datasets?limit=1&limit=2'), { status: 400 });
    t.match(await call('GET', '/v1/datasets?cursor=%ff'), { status: 422, body: { code: 'invalid_cursor' } });
  });
});
