// Content-Encoding, out and in.
import { once } from 'node:events';
import { Readable } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  brotliCompressSync,
  brotliDecompressSync,
  constants,
  createBrotliCompress,
  deflateSync,
  gunzipSync,
  gzipSync,
} from 'node:zlib';
import Fastify from 'fastify';
import t from 'tap';
import { compression } from '../../src/http/plugins/compression.ts';
import { startApiProcess } from '../support/api-process.ts';
import { createTestDatabase } from '../support/database.ts';
import { exchange, exchangeOne, openSocket } from '../support/raw-http.ts';
import { startTestServer } from '../support/server.ts';

const decoders = { br: brotliDecompressSync, gzip: gunzipSync };

t.test('answers', async (t) => {
  const server = await startTestServer(t);
  const { url, call, bootstrapKey } = server;
  const head = (path: string, acceptEncoding?: string, method = 'GET'): string =>
    `${method} ${path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer ${bootstrapKey}\r\n${acceptEncoding === undefined ? '' : `Accept-Encoding: ${acceptEncoding}\r\n`}\r\n`;
  const { body: dataset } = await call('POST', '/v1/datasets', {
    json: { name: 'encoded', description: 'd'.repeat(3000) },
  });
  const path = `/v1/datasets/${dataset.id}`;

  t.test('are encoded as the client likes best', async (t) => {
    for (const [accept, expected] of [
      [undefined, undefined],
      ['', undefined],
      ['identity', undefined],
      ['deflate', undefined],
      ['gzip', 'gzip'],
      ['x-gzip', 'gzip'],
      ['GZIP', 'gzip'],
      ['br', 'br'],
      ['gzip, deflate, br', 'br'],
      ['gzip;q=1, br;q=0.5', 'gzip'],
      ['br;q=0, gzip', 'gzip'],
      ['*', 'br'],
      ['*;q=0', undefined],
      ['br;q=0, *', 'gzip'],
      ['identity;q=1, gzip;q=0.5', undefined],
      ['gzip;q=0.000', undefined],
    ] as const) {
      const { headers, text: sent } = await exchangeOne(url, head(path, accept));
      t.equal(headers['content-encoding'], expected, `Accept-Encoding: ${accept}`);
      t.equal(headers.vary, 'Accept-Encoding');
      const bytes = Buffer.from(sent, 'latin1');
      t.equal(Number(headers['content-length']), bytes.length);
      const plain = expected ? decoders[expected](bytes) : bytes;
      t.same(JSON.parse(plain.toString()), dataset);
    }
  });

  t.test('small ones and files are sent as they are', async (t) => {
    const small = await exchangeOne(url, head('/healthz', 'gzip'));
    t.notOk('content-encoding' in small.headers);
    t.equal(small.headers.vary, 'Accept-Encoding', 'a cache cannot know that');
    // text that begins as a deflate stream does, and gzip that is stored as it is
    for (const content of [Buffer.from(`80${'0'.repeat(5000)}`), gzipSync('x'.repeat(100_000))]) {
      const { body } = await call('POST', '/v1/artifacts', {
        body: content,
        headers: { 'content-type': 'text/csv' },
      });
      const answer = await exchangeOne(url, head(`/v1/artifacts/${body.digest}`, 'gzip, br'));
      t.notOk('content-encoding' in answer.headers);
      t.ok(Buffer.from(answer.text, 'latin1').equals(content), 'the bytes of the digest');
    }
    const page = await exchangeOne(url, head('/docs/static/swagger-ui.css', 'gzip'));
    t.match(
      page,
      { status: 200, headers: { 'content-encoding': 'gzip' } },
      'files that are no artifacts are text like any other',
    );
    t.ok(gunzipSync(Buffer.from(page.text, 'latin1')).length > 50_000);
    const problem = await exchangeOne(url, head(`/v1/nothing?${'x'.repeat(2000)}`, 'gzip'));
    t.match(JSON.parse(gunzipSync(Buffer.from(problem.text, 'latin1')).toString()), { code: 'not_found' });
  });

  t.test('streams arrive as they are made', async (t) => {
    const rows = Array.from(
      { length: 20_000 },
      (_, n) => `{"prompt": "p${n}", "response_a": "a", "response_b": "b"}\n`,
    );
    await call('POST', `${path}/pairs/import`, {
      body: rows.join(''),
      headers: { 'content-type': 'application/x-ndjson' },
    });
    for (const encoding of [undefined, 'gzip', 'br']) {
      const startedAt = performance.now();
      const answer = await fetch(`${url}${path}/pairs/export`, {
        headers: { authorization: `Bearer ${bootstrapKey}`, 'accept-encoding': encoding ?? 'identity' },
      });
      t.equal(answer.headers.get('content-encoding'), encoding ?? null);
      let firstMs = 0;
      let lines = 0;
      for await (const chunk of answer.body!) {
        firstMs ||= performance.now() - startedAt;
        lines += Buffer.from(chunk).toString().split('\n').length - 1;
      }
      const totalMs = performance.now() - startedAt;
      t.equal(lines, rows.length);
      t.comment(`${encoding}: first rows after ${firstMs.toFixed()} of ${totalMs.toFixed()} ms`);
      t.ok(
        firstMs < totalMs / 3,
        `${encoding}: first rows after ${firstMs.toFixed()} ms of ${totalMs.toFixed()}`,
      );
    }
    const started = performance.now();
    t.match(await exchange(url, head(`${path}/pairs/export`, 'gzip', 'HEAD')), /content-encoding: gzip/i);
    t.ok(performance.now() - started < 300, 'HEAD does not export');
  });
});

t.test('a stream is flushed while its source waits', async (t) => {
  const app = Fastify();
  await app.register(compression);
  let finish = (): void => {};
  app.get('/events', (_request, reply) => {
    const source = async function* () {
      yield 'data: 1\n\n';
      await new Promise<void>((resolve) => {
        finish = resolve;
      });
      yield 'data: 2\n\n';
    };
    return reply.type('text/event-stream').send(Readable.from(source()));
  });
  const url = await app.listen({ port: 0 });
  t.teardown(() => app.close());
  for (const encoding of ['gzip', 'br']) {
    const answer = await fetch(`${url}/events`, { headers: { 'accept-encoding': encoding } });
    const reader = answer.body!.getReader();
    t.equal(Buffer.from((await reader.read()).value!).toString(), 'data: 1\n\n', 'the first event is there');
    finish();
    t.equal(Buffer.from((await reader.read()).value!).toString(), 'data: 2\n\n');
  }
});

t.test('an encoded answer has a strong ETag of its own, which may come back', async (t) => {
  const app = Fastify();
  await app.register(compression);
  app.get('/resource', (request, reply) => {
    reply.header('etag', '"v1"').type('application/json');
    if (request.headers['if-none-match'] === '"v1"') return reply.code(304).send();
    return reply.send(`"${'x'.repeat(2000)}"`);
  });
  app.get('/weak', (_request, reply) =>
    reply.header('etag', 'W/"v1"').type('text/plain').send('x'.repeat(2000)),
  );
  app.patch('/resource', (request, reply) => reply.send(request.headers['if-match']));
  const url = await app.listen({ port: 0 });
  t.teardown(() => app.close());
  const get = (headers: Record<string, string>) => fetch(`${url}/resource`, { headers });
  const tags = new Set<string>();
  for (const encoding of ['identity', 'gzip', 'br']) {
    const etag = (await get({ 'accept-encoding': encoding })).headers.get('etag')!;
    tags.add(etag);
    const again = await get({ 'accept-encoding': encoding, 'if-none-match': etag });
    t.equal(again.status, 304, `${etag} is known`);
    t.equal(again.headers.get('etag'), etag, '304 names what the client has');
    t.equal(
      await (await fetch(`${url}/resource`, { method: 'PATCH', headers: { 'if-match': etag } })).text(),
      '"v1"',
    );
  }
  t.equal(tags.size, 3);
  t.equal((await fetch(`${url}/weak`)).headers.get('etag'), 'W/"v1"');
});

t.test('bodies', async (t) => {
  const server = await startTestServer(t);
  const { url, call, bootstrapKey } = server;
  const encode = {
    gzip: gzipSync,
    'x-gzip': gzipSync,
    deflate: deflateSync,
    br: brotliCompressSync,
    GZip: gzipSync,
  };
  const rows = '{"prompt": "p", "response_a": "a", "response_b": "b"}\n';
  const { id } = (await call('POST', '/v1/datasets', { json: { name: 'rows' } })).body;
  const send = (path: string, type: string, encoding: string, body: Uint8Array) =>
    call('POST', path, { body, headers: { 'content-type': type, 'content-encoding': encoding } });

  t.test('are decoded, JSON and NDJSON', async (t) => {
    for (const [encoding, encoded] of Object.entries(encode)) {
      t.match(await send('/v1/datasets', 'application/json', encoding, encoded(`{"name": "${encoding}"}`)), {
        status: 201,
        body: { name: encoding },
      });
      t.match(
        await send(`/v1/datasets/${id}/pairs/import`, 'application/x-ndjson', encoding, encoded(rows)),
        { status: 200, body: { received: 1 } },
      );
    }
    t.match(await send('/v1/datasets', 'application/json', 'identity', Buffer.from('{"name": "plain"}')), {
      status: 201,
    });
    const repeated = gzipSync(
      Array.from({ length: 20_000 }, (_, n) => rows.replace('"p"', `"p${n}"`)).join(''),
    );
    t.match(await send(`/v1/datasets/${id}/pairs/import`, 'application/x-ndjson', 'gzip', repeated), {
      status: 200,
      body: { received: 20_000, rejected: 0 },
    });
  });

  t.test('in an unknown encoding, or encoded where bytes are kept: 415 with Accept-Encoding', async (t) => {
    for (const encoding of ['compress', 'zstd', 'gzip, gzip', 'nonsense', '__proto__']) {
      const answer = await send('/v1/datasets', 'application/json', encoding, gzipSync('{}'));
      t.match(answer, { status: 415, body: { code: 'unsupported_media_type' } }, encoding);
      t.equal(answer.headers.get('accept-encoding'), 'gzip, deflate, br');
    }
    const artifact = await send('/v1/artifacts', 'text/csv', 'gzip', gzipSync('a,b'));
    t.match(artifact, { status: 415 });
    t.equal(artifact.headers.get('accept-encoding'), 'identity');
  });

  t.test('that are not what they say: 400', async (t) => {
    const whole = gzipSync('{"name": "x"}');
    const wrong: [string, Uint8Array][] = [
      ['gzip', Buffer.from('{"name": "x"}')],
      ['gzip', whole.subarray(0, 20)],
      ['br', Buffer.from('nonsense')],
      ['deflate', whole],
    ];
    for (const [encoding, body] of wrong) {
      const answer = await send('/v1/datasets', 'application/json', encoding, body);
      t.match(answer, {
        status: 400,
        body: { code: 'invalid_request', detail: new RegExp(`not valid ${encoding}`) },
      });
      t.match(await send(`/v1/datasets/${id}/pairs/import`, 'application/x-ndjson', encoding, body), {
        status: 400,
      });
    }
    t.match(await call('GET', '/healthz'), { status: 200 });
  });

  t.test('that are larger than they look: 413, and the client gets to read it', async (t) => {
    const big = gzipSync(`{"name": "${'x'.repeat(9_000_000)}"}`);
    t.ok(big.length < 20_000);
    const answer = await send('/v1/datasets', 'application/json', 'gzip', big);
    t.match(answer, { status: 413, body: { code: 'content_too_large' } });
    const socket = await openSocket(url);
    socket.write(
      `POST /v1/datasets HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${bootstrapKey}\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: ${big.length}\r\n\r\n`,
    );
    socket.write(big);
    socket.write('GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n');
    await once(socket, 'close');
    t.match(socket.received(), /^HTTP\/1.1 413 [\s\S]*HTTP\/1.1 200 /, 'the connection lives on');
  });
});

t.test('a gigabyte in a megabyte costs neither memory nor the others', async (t) => {
  const database = await createTestDatabase(t);
  const key = 'fg_a-bootstrap-key-for-bombs';
  const api = await startApiProcess(t, {
    DATABASE_URL: database.urlOf('finegrain_api'),
    FINEGRAIN_DATA_DIR: t.testdir(),
    FINEGRAIN_API_KEY: key,
  });
  const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' };
  const created = await fetch(`${api.url}/v1/datasets`, {
    method: 'POST',
    headers,
    body: '{"name": "bombed"}',
  });
  const { id } = (await created.json()) as { id: string };
  const residentBytes = async (): Promise<number> => {
    const metrics = await text((await fetch(`${api.url}/metrics`)).body as never);
    return Number(/^process_resident_memory_bytes (\d+)/m.exec(metrics)![1]);
  };
  const [first, last] = ['{"name": "', '"}\n'];
  const block = Buffer.alloc(8 * 1024 * 1024, 'x');
  const blocks = 1024 ** 3 / block.length;
  const bombs = {
    gzip: Buffer.concat([gzipSync(first), ...Array(blocks).fill(gzipSync(block)), gzipSync(last)]),
    br: await brotliOf(first, block, blocks, last),
  };
  t.ok(bombs.gzip.length < 1.1e6, `${bombs.gzip.length} bytes of gzip`);
  t.ok(bombs.br.length < 1e6, `${bombs.br.length} bytes of br`);

  for (const [encoding, bomb] of Object.entries(bombs)) {
    for (const [path, type, status] of [
      ['/v1/datasets', 'application/json', 413],
      [`/v1/datasets/${id}/pairs/import`, 'application/x-ndjson', 413],
    ] as const) {
      const before = await residentBytes();
      let peak = before;
      let slowestMs = 0;
      const startedAt = performance.now();
      const answering = fetch(api.url + path, {
        method: 'POST',
        headers: { ...headers, 'content-type': type, 'content-encoding': encoding },
        body: bomb,
      });
      let isDone = false;
      void answering.finally(() => {
        isDone = true;
      });
      while (!isDone) {
        const askedAt = performance.now();
        peak = Math.max(peak, await residentBytes());
        slowestMs = Math.max(slowestMs, performance.now() - askedAt);
        await sleep(10);
      }
      const answer = await answering;
      const tookMs = performance.now() - startedAt;
      const said = `${encoding} to ${type}: ${answer.status} after ${tookMs.toFixed()} ms, ${((peak - before) / 1e6).toFixed(1)} MB more, others within ${slowestMs.toFixed()} ms`;
      t.comment(said);
      t.equal(answer.status, status, said);
      t.ok(peak - before < 64e6, said);
      t.ok(tookMs < 10_000, said);
      t.ok(slowestMs < 1000, said);
    }
  }
});

async function brotliOf(first: string, block: Buffer, blocks: number, last: string): Promise<Buffer> {
  const encoder = createBrotliCompress({ params: { [constants.BROTLI_PARAM_QUALITY]: 0 } });
  const encoded = buffer(encoder);
  encoder.write(first);
  for (let n = 0; n < blocks; n++) if (!encoder.write(block)) await once(encoder, 'drain');
  encoder.end(last);
  return encoded;
}
