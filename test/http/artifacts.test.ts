import t from 'tap';
import { startTestServer } from '../support/server.ts';

t.test('artifacts', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;

  t.test('come out as they went in, under their digest', async (t) => {
    const body = '{"prompt":"p","response":"ü"}\n';
    const stored = await call('POST', '/v1/artifacts', {
      body,
      headers: { 'content-type': 'application/x-ndjson' },
    });
    t.match(stored, {
      status: 201,
      body: { digest: /^sha256:[0-9a-f]{64}$/, bytes: 31, media_type: 'application/x-ndjson' },
    });
    const again = await call('POST', '/v1/artifacts', { body, headers: { 'content-type': 'text/plain' } });
    t.same(again.body, stored.body, 'storing it again changes nothing');
    const read = await call('GET', `/v1/artifacts/${stored.body.digest}`);
    t.equal(read.text, body);
    t.match(Object.fromEntries(read.headers), {
      'content-type': 'application/x-ndjson',
      'content-length': '31',
      'x-content-type-options': 'nosniff',
    });
    t.match(
      await call('POST', '/v1/artifacts', { body: '', headers: { 'content-type': 'text/plain' } }),
      { status: 201, body: { bytes: 0 } },
      'an empty file is a file',
    );
    t.match(await call('POST', '/v1/artifacts'), { status: 400 }, 'no file is none');
  });

  t.test('an upload that breaks off is not visible', async (t) => {
    const controller = new AbortController();
    const body = new ReadableStream({
      start(stream) {
        stream.enqueue(new TextEncoder().encode('half'));
        setTimeout(() => controller.abort(), 200);
      },
    });
    await t.rejects(
      call('POST', '/v1/artifacts', {
        body,
        signal: controller.signal,
        headers: { 'content-type': 'text/plain' },
      }),
    );
    const digestOfHalf = 'sha256:a8a2b0a6ae4ae5a2d1a1b5aebd4b3ea0a9a0fdb8b3f7f8e0e5d2d2a4f0a1c2d3';
    t.match(await call('GET', `/v1/artifacts/${digestOfHalf}`), { status: 404 });
  });

  t.test('security', async (t) => {
    const { body } = await call('POST', '/v1/artifacts', {
      body: 'mine',
      headers: { 'content-type': 'text/plain' },
    });
    const path = `/v1/artifacts/${body.digest}`;
    t.match(
      await call('GET', path, { key: await server.otherProjectKey() }),
      { status: 404 },
      'a digest alone opens nothing',
    );
    t.match(await call('GET', '/v1/artifacts/sha256:..%2f..%2fapi-key'), { status: 404 });
  });
});
