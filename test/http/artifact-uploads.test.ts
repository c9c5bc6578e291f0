// Uploads in parts, with artifacts in a folder and in a bucket; and downloads of a range.
import { createHash, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { ArtifactUpload } from '../../src/services/artifact-uploads.ts';
import { openS3Store } from '../../src/storage/s3-store.ts';
import { createBucket, useS3Server } from '../support/s3.ts';
import { startTestServer, type TestServer } from '../support/server.ts';

t.setTimeout(180_000);

const partBytes = 16 * 1024 ** 2;
const large = randomBytes(2 * partBytes + 1234);
const digestOf = (content: Uint8Array): string =>
  `sha256:${createHash('sha256').update(content).digest('hex')}`;
const announcing = (content: Uint8Array) => ({
  json: { digest: digestOf(content), bytes: content.length, media_type: 'application/x-safetensors' },
});

const endpoint = await useS3Server(t);
const places: [string, boolean | string, (t: Test) => Promise<TestServer>][] = [
  ['in a folder', false, (t) => startTestServer(t)],
  [
    'in a bucket',
    endpoint === null && 'there is no S3 server',
    async (t) => {
      const bucket = await createBucket(t, endpoint!);
      const cache = { folder: join(t.testdir(), 'cache'), bytes: 1e9 };
      return startTestServer(t, { artifacts: openS3Store(bucket, { cache }) });
    },
  ],
];

for (const [place, skip, start] of places) {
  t.test(place, { skip }, async (t) => {
    const server = await start(t);
    const { call } = server;
    const begin = async (content: Uint8Array): Promise<ArtifactUpload> => {
      const { status, body, text } = await call('POST', '/v1/artifact-uploads', announcing(content));
      if (status !== 201) throw new Error(text);
      return body;
    };
    const pathOf = ({ id }: ArtifactUpload, rest = ''): string => `/v1/artifact-uploads/${id}${rest}`;
    const partOf = (content: Uint8Array, part: number) =>
      content.subarray((part - 1) * partBytes, part * partBytes);
    const send = (upload: ArtifactUpload, part: number, body: Uint8Array | string) =>
      call('PUT', pathOf(upload, `/parts/${part}`), {
        body,
        headers: { 'content-type': 'application/octet-stream' },
      });
    const missingOf = async (upload: ArtifactUpload): Promise<number[]> =>
      (await call('GET', pathOf(upload))).body.missing.map(({ part }: { part: number }) => part);

    t.test('parts in any order, with a break between them, become an artifact', async (t) => {
      const upload = await begin(large);
      t.match(upload, { part_bytes: partBytes, parts: 3, missing: { length: 3 }, bytes: large.length });
      t.match(upload.missing[2], { part: 3, offset: 2 * partBytes, bytes: 1234 });
      t.equal((await send(upload, 3, partOf(large, 3))).status, 204);
      t.match(await call('POST', pathOf(upload, '/complete')), {
        status: 422,
        body: { code: 'unprocessable', detail: /1, 2 have not come/ },
      });
      t.equal((await send(upload, 1, randomBytes(partBytes))).status, 204);
      t.equal((await send(upload, 1, partOf(large, 1))).status, 204, 'a part may be sent again');
      t.same(await missingOf(upload), [2], 'who comes back learns what is missing');
      const { url } = (await call('GET', pathOf(upload))).body.missing[0];
      t.equal(url !== null, place === 'in a bucket', 'a bucket takes parts itself');
      if (url === null) t.equal((await send(upload, 2, partOf(large, 2))).status, 204);
      else t.equal((await fetch(url, { method: 'PUT', body: partOf(large, 2) })).status, 200);
      t.equal((await call('GET', `/v1/artifacts/${upload.digest}`)).status, 404, 'not visible yet');

      const { json } = announcing(large);
      const artifact = await call('POST', pathOf(upload, '/complete'));
      t.match(artifact, { status: 201, body: json });
      t.equal((await call('GET', pathOf(upload))).status, 404, 'the upload is done');
      t.equal((await call('POST', pathOf(upload, '/complete'))).status, 404);
      const again = await call('POST', '/v1/artifact-uploads', { json });
      t.match(again, { status: 200, body: json }, 'what is there need not be sent');
      const response = await fetch(`${server.url}/v1/artifacts/${upload.digest}`, {
        headers: { authorization: `Bearer ${server.bootstrapKey}` },
      });
      t.ok(Buffer.from(await response.arrayBuffer()).equals(large));
    });

    t.test('what is not what was announced is never visible', async (t) => {
      const announced = randomBytes(100);
      const upload = await begin(announced);
      t.equal((await send(upload, 1, randomBytes(100))).status, 204);
      t.match(await call('POST', pathOf(upload, '/complete')), {
        status: 422,
        body: { code: 'digest_mismatch' },
      });
      t.equal((await call('GET', `/v1/artifacts/${digestOf(announced)}`)).status, 404);
      t.equal((await call('GET', pathOf(upload))).status, 404, 'begin again');
      t.notOk(await server.services.artifacts.has(digestOf(announced)));
    });

    t.test('to know a digest of another project is not to have its content', async (t) => {
      const key = await server.otherProjectKey();
      const options = { ...announcing(large), key };
      const begun = await call('POST', '/v1/artifact-uploads', options);
      t.equal(begun.status, 201, 'it must be sent, although the store has it');
      const path = `/v1/artifact-uploads/${begun.body.id}`;
      t.equal((await call('POST', `${path}/complete`, { key })).status, 422);
      t.equal((await call('GET', `/v1/artifacts/${digestOf(large)}`, { key })).status, 404);
      for (const [method, rest] of [
        ['GET', ''],
        ['DELETE', ''],
        ['POST', '/complete'],
      ] as const)
        t.equal((await call(method, path + rest)).status, 404, `${method}${rest} of another project`);
      t.equal((await call('DELETE', path, { key })).status, 204);
      t.equal((await call('GET', path, { key })).status, 404);
    });

    t.test('wrong sizes and numbers are refused', async (t) => {
      const upload = await begin(randomBytes(100));
      for (const bytes of [99, 101, 0])
        t.match(
          await send(upload, 1, randomBytes(bytes)),
          { status: 422, body: { detail: /has 100 bytes/ } },
          `${bytes}`,
        );
      t.match(await send(upload, 2, 'x'), { status: 404, body: { detail: /has 1 parts/ } });
      for (const part of ['0', '-1', 'x', '99999'])
        t.equal((await call('PUT', pathOf(upload, `/parts/${part}`), { body: 'x' })).status, 400, part);
      t.same(await missingOf(upload), [1]);
      for (const json of [
        { digest: digestOf(large), bytes: 0 },
        { digest: digestOf(large), bytes: 8 * 1024 ** 3 + 1 },
        { digest: 'sha256:x', bytes: 1 },
        { digest: digestOf(large) },
        { digest: digestOf(large), bytes: 1, media_type: 'text/plain\r\nx: y' },
      ])
        t.equal((await call('POST', '/v1/artifact-uploads', { json })).status, 400, JSON.stringify(json));
      const none = { id: 'aup_019356f0a1b27c3d8e4f5a6b7c8d9e0f' } as ArtifactUpload;
      t.equal((await send(none, 1, 'x')).status, 404);
      t.equal((await call('GET', '/v1/artifact-uploads/x')).status, 404);
    });

    t.test('an upload that has expired is gone', async (t) => {
      const upload = await begin(randomBytes(10));
      await server.database
        .open('finegrain_system')
        .transaction(null, (tx) => tx.query('update finegrain.artifact_uploads set expires_at = now()'));
      t.equal((await call('GET', pathOf(upload))).status, 404);
      t.equal((await send(upload, 1, randomBytes(10))).status, 404);
      t.equal((await call('POST', pathOf(upload, '/complete'))).status, 404);
    });

    t.test('a range of an artifact is answered alone', async (t) => {
      const { body: artifact } = await call('POST', '/v1/artifacts', {
        body: '0123456789',
        headers: { 'content-type': 'text/plain' },
      });
      const ask = (range: string) => call('GET', `/v1/artifacts/${artifact.digest}`, { headers: { range } });
      for (const [range, text, place] of [
        ['bytes=0-3', '0123', '0-3'],
        ['bytes=7-', '789', '7-9'],
        ['bytes=-2', '89', '8-9'],
        ['bytes=5-99', '56789', '5-9'],
        ['bytes=-99', '0123456789', '0-9'],
      ] as const) {
        const answer = await ask(range);
        t.match(answer, { status: 206, text }, range);
        t.equal(answer.headers.get('content-range'), `bytes ${place}/10`);
        t.equal(answer.headers.get('content-length'), String(text.length));
      }
      for (const range of ['bytes=3-1', 'bytes=0-1,3-4', 'lines=1-2', 'bytes=-', ''])
        t.match(await ask(range), { status: 200, text: '0123456789' }, `${range} is passed over`);
      for (const range of ['bytes=10-', 'bytes=10-20', 'bytes=-0']) {
        const answer = await ask(range);
        t.match(answer, { status: 416, body: { code: 'range_not_satisfiable' } }, range);
        t.equal(answer.headers.get('content-range'), 'bytes */10');
      }
    });
  });
}
