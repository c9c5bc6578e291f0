// The outgoing client against real servers and a real DNS server, all on the loopback address.
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer, type RequestListener } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { type AddressInfo, createServer as createTcpServer, type Server } from 'node:net';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import t, { type Test } from 'tap';
import { type OutgoingRequest, openOutgoingClient, type Resolve } from '../../src/outgoing/client.ts';
import { selfSigned } from '../support/certificate.ts';
import { startDns } from '../support/dns.ts';

const get: OutgoingRequest = { method: 'GET', timeoutMs: 5000, maxAnswerBytes: 1000 };

function open(t: Test, allow: string[], resolve?: Resolve) {
  const client = openOutgoingClient({ allow, ...(resolve ? { resolve } : {}) });
  t.teardown(() => client.close());
  return client;
}

async function listen(t: Test, server: Server): Promise<number> {
  server.listen(0, '0.0.0.0');
  await once(server, 'listening');
  t.teardown(() => server.close());
  return (server.address() as AddressInfo).port;
}

const serve = (t: Test, handler: RequestListener): Promise<number> => {
  const server = createServer(handler);
  t.teardown(() => server.closeAllConnections());
  return listen(t, server);
};

t.test('a request arrives as it was made, with nothing added that was not meant', async (t) => {
  let seen: { method?: string; url?: string; headers: NodeJS.Dict<string | string[]>; body: string };
  const port = await serve(t, async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    seen = { method: request.method!, url: request.url!, headers: request.headers, body };
    response.writeHead(201, { 'set-cookie': 'a=b' }).end('done');
  });
  process.env.http_proxy = 'http://127.0.0.1:9';
  t.teardown(() => delete process.env.http_proxy);
  const client = open(t, ['127.0.0.1']);
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
  for (let n = 0; n < 2; n++) {
    const answer = await client.request(`http://127.0.0.1:${port}/a%20b?c=d#e`, {
      ...get,
      method: 'POST',
      headers: { 'content-type': 'application/json', traceparent },
      body: '{"é":1}',
    });
    t.match(answer, { status: 201, body: Buffer.from('done') });
    t.match(seen!, { method: 'POST', url: '/a%20b?c=d', body: '{"é":1}' });
    t.strictSame(
      { ...seen!.headers },
      {
        host: `127.0.0.1:${port}`,
        connection: 'keep-alive',
        'user-agent': 'finegrain',
        'accept-encoding': 'identity',
        'content-type': 'application/json',
        'content-length': '8',
        traceparent,
      },
    );
  }
  await t.rejects(client.request(`http://127.0.0.1:${port}/`, { ...get, headers: { host: 'other' } }));
});

t.test('a literal address that is not public gets no connection', async (t) => {
  let connections = 0;
  const port = await listen(
    t,
    createTcpServer(() => connections++),
  );
  const client = open(t, ['10.0.0.0/8']);
  for (const host of [
    '127.0.0.1',
    '127.1',
    '2130706433',
    '[::ffff:127.0.0.1]',
    '[::1]',
    'localhost',
    '0.0.0.0',
  ])
    await t.rejects(client.request(`http://${host}:${port}/`, get), { code: 'refused_address' }, host);
  t.equal(connections, 0);
});

t.test('names: every address that a socket may take is checked, and nothing else is', async (t) => {
  const dns = await startDns(t);
  const port = await serve(t, (_, response) => response.end('inside'));
  const client = open(t, ['127.0.0.1', 'inside.test'], dns.resolve);
  const ask = (name: string) => client.request(`http://${name}:${port}/`, get);

  dns.set('private.test', ['10.0.0.1', '169.254.169.254', 'fd00:ec2::254', '::ffff:127.0.0.2']);
  await t.rejects(ask('private.test'), { code: 'refused_address', message: /169\.254\.169\.254/ });
  dns.set('mixed.test', ['127.0.0.2', '127.0.0.1', '::1']);
  t.match(await ask('mixed.test'), { status: 200 }, 'the one that may be connected to is');
  dns.set('inside.test', ['127.0.0.2']);
  t.match(await ask('inside.test'), { status: 200 }, 'a host that the operator named may be anywhere');
  dns.set('outside.test', ['127.0.0.2']);
  await t.rejects(
    ask('outside.test'),
    { code: 'refused_address' },
    'its kept connection serves no other host',
  );
  await t.rejects(ask('127.0.0.2'), { code: 'refused_address' });
  await t.rejects(ask('missing.test'), { code: 'dns_failed', message: /missing\.test/ });
});

t.test('rebinding: one look-up decides, and the socket connects to what it found', async (t) => {
  const dns = await startDns(t);
  const reached: string[] = [];
  const server = createServer((request, response) => {
    reached.push(request.socket.localAddress!);
    response.writeHead(200, { connection: 'close' }).end();
  });
  const port = await listen(t, server);
  const client = open(t, ['127.0.0.1'], async (name) => {
    const addresses = await dns.resolve(name);
    dns.set('rebind.test', ['127.0.0.2']); // by the next question it is a private service of this machine
    return addresses;
  });
  dns.set('rebind.test', ['127.0.0.1']);
  t.match(await client.request(`http://rebind.test:${port}/`, get), { status: 200 });
  t.same(dns.asked, ['rebind.test'], 'asked once');
  for (let n = 0; n < 2; n++)
    await t.rejects(client.request(`http://rebind.test:${port}/`, get), { code: 'refused_address' });
  t.same(reached, ['127.0.0.1']);
});

t.test('redirects are answers, not followed', async (t) => {
  let followed = false;
  const port = await serve(t, (request, response) => {
    followed ||= request.url === '/next';
    response.writeHead(302, { location: '/next' }).end();
  });
  const answer = await open(t, ['127.0.0.1']).request(`http://127.0.0.1:${port}/`, get);
  t.match(answer, { status: 302, headers: { location: '/next' } });
  t.notOk(followed);
});

t.test('bounded in time and size', async (t) => {
  const dns = await startDns(t);
  let written = 0;
  const port = await serve(t, async ({ url }, response) => {
    if (url === '/hangs') return;
    if (url === '/drips') {
      response.write('.');
      const drip = setInterval(() => response.write('.'), 20);
      response.on('close', () => clearInterval(drip));
      return;
    }
    if (url === '/bomb') {
      const zipped = gzipSync(Buffer.alloc(10_000_000));
      response.writeHead(200, { 'content-encoding': 'gzip' }).end(zipped.subarray(0, 900));
      return;
    }
    if (url === '/headers') {
      for (let n = 0; n < 100; n++) response.setHeader(`x-${n}`, 'y'.repeat(1000));
      response.end();
      return;
    }
    const content = function* () {
      for (const chunk = Buffer.alloc(65_536, 'x'); written < 100_000_000; written += chunk.length)
        yield chunk;
    };
    await pipeline(content, response).catch(() => {}); // it is cut off, as it should be
  });
  const client = open(t, ['127.0.0.1'], dns.resolve);
  const ask = (path: string, options: Partial<OutgoingRequest> = {}) =>
    client.request(`http://127.0.0.1:${port}${path}`, { ...get, ...options });
  await t.rejects(ask('/hangs', { timeoutMs: 200 }), { code: 'timed_out' });
  await t.rejects(ask('/drips', { timeoutMs: 200, maxAnswerBytes: 1_000_000 }), { code: 'timed_out' });
  await t.rejects(ask('/long'), { code: 'too_large', message: /1000 bytes/ });
  t.ok(written < 20_000_000, `the server was cut off after ${written} bytes`);
  written = 0;
  t.match(await ask('/long', { maxAnswerBytes: 0 }), { status: 200, body: Buffer.alloc(0) });
  t.ok(written < 20_000_000, `cut off after ${written} bytes when only the status counts`);
  t.equal((await ask('/bomb')).body.length, 900, 'nothing is decompressed');
  await t.rejects(ask('/headers'), { code: 'broken_answer' });

  const silent = await listen(
    t,
    createTcpServer((socket) => t.teardown(() => socket.destroy())),
  );
  const began = performance.now();
  await t.rejects(client.request(`https://127.0.0.1:${silent}/`, { ...get, timeoutMs: 30_000 }), {
    code: 'timed_out',
  });
  t.ok(performance.now() - began < 8000, 'a connection has 5 s');
  const slow = open(t, [], () => new Promise(() => {}));
  await t.rejects(slow.request('http://slow.test/', { ...get, timeoutMs: 200 }), { code: 'timed_out' });
});

t.test('connections that fail, and answers that break off', async (t) => {
  const client = open(t, ['127.0.0.1']);
  const answering = async (bytes: string): Promise<string> => {
    const port = await listen(
      t,
      createTcpServer((socket) => {
        socket.on('error', () => {});
        socket.once('data', () => socket.end(bytes));
      }),
    );
    return `http://127.0.0.1:${port}/`;
  };
  await t.rejects(client.request(await answering(''), get), { code: 'broken_answer' });
  await t.rejects(client.request(await answering('HTTP/1.1 200 OK\r\ncontent-le'), get), {
    code: 'broken_answer',
  });
  await t.rejects(client.request(await answering('HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab'), get), {
    code: 'broken_answer',
  });
  await t.rejects(client.request(await answering('220 mail ESMTP\r\n'), get), { code: 'broken_answer' });
  t.match(
    await client.request(await answering('HTTP/1.1 204 No Content\r\n\r\n'), { ...get, maxAnswerBytes: 0 }),
    { status: 204 },
  );
  t.match(
    await client.request(await answering('HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab'), {
      ...get,
      maxAnswerBytes: 0,
    }),
    { status: 200 },
    'the status has arrived',
  );
  const gone = createTcpServer().listen(0);
  await once(gone, 'listening');
  const { port } = gone.address() as AddressInfo;
  gone.close();
  await t.rejects(client.request(`http://127.0.0.1:${port}/`, get), { code: 'connect_failed' });
  await t.rejects(client.request(`https://127.0.0.1:${port}/`, get), { code: 'connect_failed' });
});

t.test('certificates are checked, against the host too', async (t) => {
  const certificate = selfSigned('right.test');
  const server = createTlsServer(certificate, (_, response) => response.end('secure'));
  const port = await listen(t, server);
  const client = open(t, ['127.0.0.1'], async () => [{ address: '127.0.0.1', family: 4 }]);
  await t.rejects(
    client.request(`https://right.test:${port}/`, get),
    { code: 'tls_failed' },
    'nobody vouches for it',
  );
  const plain = await serve(t, (_, response) => response.end());
  await t.rejects(
    client.request(`https://127.0.0.1:${plain}/`, get),
    { code: 'tls_failed' },
    'no TLS at all',
  );

  // Node reads further authorities from its environment, at its start only
  const authority = join(t.testdir(), 'authority.pem');
  await writeFile(authority, certificate.cert);
  const outcome = async (host: string): Promise<string> => {
    const program = `
      import { openOutgoingClient } from ${JSON.stringify(new URL('../../src/outgoing/client.js', import.meta.url).href)};
      const client = openOutgoingClient({ allow: ['127.0.0.1'], resolve: async () => [{ address: '127.0.0.1', family: 4 }] });
      const get = { method: 'GET', timeoutMs: 5000, maxAnswerBytes: 1000 };
      await client.request('https://${host}:${port}/', get).then(({ body }) => console.log(String(body)), ({ code }) => console.log(code));
      await client.close();`;
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['--input-type=module', '--eval', program],
      { env: { ...process.env, NODE_EXTRA_CA_CERTS: authority, TAP: undefined } },
    );
    return stdout.trim();
  };
  t.equal(await outcome('right.test'), 'secure');
  t.equal(await outcome('wrong.test'), 'tls_failed');
});

t.test('a request that its caller breaks off ends with the reason, and its connection with it', async (t) => {
  let closed: Promise<unknown> | undefined;
  const port = await serve(t, (request, response) => {
    closed = new Promise((resolve) => request.socket.once('close', resolve)); // whether by a reset or not
    response.write('half');
  });
  const client = open(t, ['127.0.0.1']);
  const abort = new AbortController();
  const reason = new Error('not wanted any more');
  const asked = client.request(`http://127.0.0.1:${port}/`, { ...get, signal: abort.signal });
  while (closed === undefined) await new Promise((done) => setTimeout(done, 5));
  abort.abort(reason);
  await t.rejects(asked, reason);
  await closed;
  await t.rejects(client.request(`http://127.0.0.1:${port}/`, { ...get, signal: abort.signal }), reason);
});
