// What a store of artifacts promises, kept by the folder and by a real S3 server; and what only the latter can do wrong.
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { ListMultipartUploadsCommand, ListObjectsV2Command, PutObjectCommand } from '@aws-sdk/client-s3';
import t, { type Test } from 'tap';
import { type ArtifactStore, openArtifactStore } from '../../src/storage/artifact-store.ts';
import { StoreUnavailable, UploadGone } from '../../src/storage/errors.ts';
import { openS3Store, type S3Limits } from '../../src/storage/s3-store.ts';
import { createBucket, type TestBucket, useS3Server } from '../support/s3.ts';
import { startS3Proxy } from '../support/s3-proxy.ts';

t.setTimeout(120_000);

const partBytes = 5 * 2 ** 20; // the least that S3 takes
const large = randomBytes(2 * partBytes + 12_345);
const digestOf = (content: Uint8Array | string): string =>
  `sha256:${createHash('sha256').update(content).digest('hex')}`;
/** As from a socket: in pieces, none of which fits a part. */
async function* inPieces(content: Buffer, bytes = 700_001): AsyncGenerator<Buffer> {
  for (let at = 0; at < content.length; at += bytes) yield content.subarray(at, at + bytes);
}
const all = async <T>(items: AsyncIterable<T>): Promise<T[]> => {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
};

interface Place {
  store: ArtifactStore;
  /** whatever is there beside what is visible */
  leftovers(): Promise<string[]>;
}

async function temporaryFolder(t: Test): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-store-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

async function folderPlace(t: Test): Promise<Place> {
  const folder = await temporaryFolder(t);
  return {
    store: openArtifactStore(folder),
    leftovers: () => readdir(join(folder, 'incoming')).catch(() => []),
  };
}

const openStore = async (t: Test, bucket: TestBucket, endpoint: string, limits: Partial<S3Limits> = {}) =>
  openS3Store(
    { ...bucket, endpoint },
    {
      cache: { folder: join(await temporaryFolder(t), 'cache'), bytes: 1e9 },
      limits: { partBytes, copyBytes: partBytes, freshSeconds: 1, ...limits },
    },
  );

async function leftoversIn({ client, bucket, prefix }: TestBucket): Promise<string[]> {
  const Bucket = bucket;
  const { Uploads = [] } = await client.send(new ListMultipartUploadsCommand({ Bucket }));
  const objects = await client.send(new ListObjectsV2Command({ Bucket, Prefix: `${prefix}incoming/` }));
  return [...Uploads, ...(objects.Contents ?? [])].map(({ Key }) => Key!);
}

const endpoint = await useS3Server(t);
const skip = endpoint === null && 'there is no S3 server: npm test installs one';
const places: [string, boolean | string, (t: Test) => Promise<Place>][] = [
  ['folder', false, folderPlace],
  [
    's3',
    skip,
    async (t) => {
      const bucket = await createBucket(t, endpoint!);
      return {
        store: await openStore(t, bucket, endpoint!),
        leftovers: () => leftoversIn(bucket),
      };
    },
  ],
];

for (const [name, skip, open] of places) {
  t.test(name, { skip }, async (t) => {
    const { store, leftovers } = await open(t);

    t.test('what goes in comes out, under its digest', async (t) => {
      await store.checkWritable();
      for (const content of [Buffer.from(''), Buffer.from('short'), large]) {
        const digest = digestOf(content);
        t.notOk(await store.has(digest));
        t.same(await store.put(inPieces(content)), { digest, bytes: content.length });
        t.ok(await store.has(digest));
        t.ok((await buffer(store.read(digest))).equals(content), `${content.length} bytes`);
        t.ok((await readFile(await store.localPath(digest))).equals(content), 'as a file');
      }
      const range = { start: 5, end: partBytes + 9 };
      t.ok((await buffer(store.read(digestOf(large), range))).equals(large.subarray(range.start, range.end)));
      t.same(
        (await all(store.list())).map(({ digest, bytes }) => `${digest} ${bytes}`).sort(),
        ['', 'short', large].map((content) => `${digestOf(content)} ${content.length}`).sort(),
      );
      t.same(await leftovers(), []);
    });

    t.test('what is not there cannot be read', async (t) => {
      const absent = digestOf('absent');
      await t.rejects(buffer(store.read(absent)));
      await t.rejects(store.localPath(absent));
      for (const wrong of ['sha256:../../etc/passwd', `sha256:${'A'.repeat(64)}`, ''])
        await t.rejects(store.has(wrong).then(), { message: /not an artifact digest/ }, wrong);
    });

    t.test('a file that is not there cannot be stored', async (t) => {
      await t.rejects(store.putFile(join(await temporaryFolder(t), 'absent')), { code: 'ENOENT' });
      t.same(await leftovers(), []);
    });

    t.test('content that breaks off is never visible, and leaves nothing', async (t) => {
      const content = randomBytes(large.length);
      for (const bytes of [1000, partBytes + 1000, content.length]) {
        const failure = new Error('the client has left');
        const source = async function* () {
          yield* inPieces(content.subarray(0, bytes));
          throw failure;
        };
        const error = await store.put(source()).catch((error) => error);
        t.equal(error, failure, `after ${bytes} bytes, with the error of the source`);
        t.notOk(await store.has(digestOf(content.subarray(0, bytes))));
      }
      const broken = async function* () {
        yield 'a few bytes';
        throw new Error('the client has left');
      };
      await Promise.allSettled(Array.from({ length: 100 }, () => store.put(broken())));
      t.same(await leftovers(), []);
    });

    t.test('while it arrives, nothing is to be seen of it', async (t) => {
      const content = randomBytes(large.length);
      const before = (await all(store.list())).length;
      let looks = 0;
      const source = async function* () {
        for await (const piece of inPieces(content, 2 ** 20)) {
          yield piece;
          t.equal((await all(store.list())).length, before, `look ${++looks}`);
        }
      };
      const { digest } = await store.put(source());
      t.ok(looks > 5);
      t.ok(await store.has(digest));
    });

    t.test('what is put again is as young as new', async (t) => {
      const path = join(await temporaryFolder(t), 'file');
      const [short, long] = [Buffer.from('again'), randomBytes(partBytes + 1)];
      await writeFile(path, long);
      for (const content of [short, long]) await store.put(inPieces(content));
      const storedAt = async (content: Buffer) =>
        (await all(store.list())).find(({ digest }) => digest === digestOf(content))!.storedAt;
      const before = [await storedAt(short), await storedAt(long)] as const;
      await sleep(1200); // S3 tells whole seconds
      await store.put(inPieces(short));
      await store.putFile(path);
      t.ok((await storedAt(short)) > before[0]);
      t.ok((await storedAt(long)) > before[1], 'a file that need not be sent, too');
    });

    t.test('parts arrive in any order, and are visible when they are what was announced', async (t) => {
      const id = '019356f0-e7f8-7a0b-9c2d-3e4f5a6b7c8d';
      const upload = { id, reference: await store.uploads.begin(id) };
      const announced = { digest: digestOf(large), bytes: large.length };
      await store.remove([announced.digest]);
      const part = (number: number) => large.subarray((number - 1) * partBytes, number * partBytes);
      t.same([...(await store.uploads.parts(upload))], []);
      await store.uploads.putPart(upload, 3, part(3));
      await store.uploads.putPart(upload, 1, randomBytes(partBytes));
      await store.uploads.putPart(upload, 1, part(1));
      t.same(
        [...(await store.uploads.parts(upload))].sort(),
        [
          [1, partBytes],
          [3, 12_345],
        ],
        'a part may be sent again',
      );
      const url = await store.uploads.partUrl(upload, 2, partBytes);
      if (url === null) await store.uploads.putPart(upload, 2, part(2));
      else {
        const wrong = await fetch(url, { method: 'PUT', body: part(2).subarray(1) });
        t.ok(wrong.status >= 400, 'a signed URL takes no other size');
        await wrong.text();
        const sent = await fetch(url, { method: 'PUT', body: part(2) });
        t.equal(sent.status, 200, await sent.text());
      }
      t.notOk(await store.has(announced.digest));
      t.ok(await store.uploads.assemble(upload, announced));
      t.ok(await store.uploads.assemble(upload, announced), 'once more, when the first answer was lost');
      t.ok((await buffer(store.read(announced.digest))).equals(large));
      await store.uploads.discard(upload);
      t.ok(await store.has(announced.digest));
      await t.rejects(store.uploads.assemble(upload, announced), UploadGone);
      await t.rejects(store.uploads.putPart(upload, 1, part(1)), UploadGone);
      await store.uploads.discard(upload);

      const other = { id, reference: await store.uploads.begin(id) };
      await store.uploads.putPart(other, 1, Buffer.from('something else'));
      const wrong = { digest: digestOf('announced'), bytes: 14 };
      t.notOk(await store.uploads.assemble(other, wrong));
      t.notOk(await store.has(wrong.digest));
      t.notOk(await store.has(digestOf('something else')));
      await store.uploads.discard(other);
      t.same(await leftovers(), []);
    });

    t.test('leftovers go when they are old, but not those of uploads that go on', async (t) => {
      const [left, live] = ['00000000-0000-7000-8000-000000000001', '00000000-0000-7000-8000-000000000002'];
      for (const id of [left, live]) await store.uploads.begin(id);
      const soon = new Date(Date.now() + 60_000);
      t.equal(await store.removeLeftovers(new Date(Date.now() - 60_000), new Set()), 0);
      t.equal(await store.removeLeftovers(soon, new Set([live])), 1);
      t.equal((await leftovers()).length, 1);
      t.equal(await store.removeLeftovers(soon, new Set()), 1);
      t.same(await leftovers(), []);
    });

    t.test('what is removed is gone; what is not there may be removed', async (t) => {
      const { digest } = await store.put(inPieces(Buffer.from('to be removed')));
      await store.remove([digest, digestOf('absent')]);
      t.notOk(await store.has(digest));
    });
  });
}

t.test('an S3 store that fails', { skip }, async (t) => {
  const bucket = await createBucket(t, endpoint!);
  const proxy = await startS3Proxy(t, endpoint!);
  const store = await openStore(t, bucket, proxy.endpoint);

  t.test('for some seconds is waited for', async (t) => {
    let failures = 0;
    proxy.judge = () => (++failures <= 4 ? 503 : 'pass');
    const { digest } = await store.put(inPieces(large));
    const away = proxy.beAway(1500);
    t.ok(await store.has(digest));
    await away;
    t.ok(failures > 4);
  });

  t.test('for longer says that it fails', async (t) => {
    const hasty = await openStore(t, bucket, proxy.endpoint, { attempts: 2 });
    proxy.judge = () => 503;
    await t.rejects(hasty.put(inPieces(Buffer.from('x'))), StoreUnavailable);
    await t.rejects(hasty.has(digestOf('x')), StoreUnavailable);
    await t.rejects(buffer(hasty.read(digestOf('x'))), StoreUnavailable);
    await t.rejects(hasty.checkWritable(), StoreUnavailable);
    await t.rejects(all(hasty.list()), StoreUnavailable);
  });

  t.test('in the middle of a download is asked for the rest', async (t) => {
    let breaks = 3;
    proxy.judge = (operation) => (operation === 'GetObject' && breaks-- > 0 ? { breakAfter: 3e6 } : 'pass');
    t.ok((await buffer(store.read(digestOf(large)))).equals(large));
    t.ok(breaks < 0);
  });

  t.test('between the arrival of a stream and its copy shows nothing', async (t) => {
    const options = { attempts: 1, copyBytes: 1e9 };
    const interrupted = await openStore(t, bucket, proxy.endpoint, options);
    const direct = await openStore(t, bucket, endpoint!);
    const before = await all(direct.list());
    proxy.seen.length = 0;
    proxy.judge = (operation) => (operation === 'CopyObject' ? 'hang' : 'pass');
    const failed = t.rejects(interrupted.put(inPieces(randomBytes(large.length))), StoreUnavailable);
    while (!proxy.seen.includes('CopyObject')) await sleep(20);
    t.same(await all(direct.list()), before);
    await proxy.beAway(0);
    await failed;
  });

  t.test('with damaged content gives out no file', async (t) => {
    proxy.judge = () => 'pass';
    const digest = digestOf('undamaged');
    const Key = `${bucket.prefix}sha256/${digest.slice(7, 9)}/${digest.slice(9)}`;
    await bucket.client.send(new PutObjectCommand({ Bucket: bucket.bucket, Key, Body: 'damaged' }));
    await t.rejects(store.localPath(digest), { message: /damaged/ });
    await store.remove([digest]);
  });
});

t.test('a process that is killed while it sends a file has not sent it in vain', { skip }, async (t) => {
  const bucket = await createBucket(t, endpoint!);
  const proxy = await startS3Proxy(t, endpoint!);
  const file = join(await temporaryFolder(t), 'checkpoint');
  const content = randomBytes(8 * partBytes + 77);
  await writeFile(file, content);
  let sent = 0;
  proxy.judge = (operation) => (operation === 'UploadPart' && ++sent > 5 ? 'hang' : 'pass');
  const child = spawn(process.execPath, ['dist/test/support/put-file.js', file, String(partBytes)], {
    env: { PATH: process.env.PATH, ...bucket.env, AWS_ENDPOINT_URL_S3: proxy.endpoint },
    stdio: 'inherit',
  });
  const ended = once(child, 'exit');
  while (sent < 9) await sleep(20); // five are there, four hang
  child.kill('SIGKILL');
  await ended;
  const store = await openStore(t, bucket, proxy.endpoint);
  t.notOk(await store.has(digestOf(content)), 'nothing is visible');
  t.equal((await leftoversIn(bucket)).length, 1);

  proxy.judge = () => 'pass';
  proxy.seen.length = 0;
  t.same(await store.putFile(file), { digest: digestOf(content), bytes: content.length });
  t.equal(
    proxy.seen.filter((operation) => operation === 'UploadPart').length,
    4,
    'only what was missing was sent',
  );
  t.ok((await buffer(store.read(digestOf(content)))).equals(content));
  t.same(await leftoversIn(bucket), []);

  proxy.seen.length = 0;
  await store.putFile(file);
  t.notOk(
    proxy.seen.some((operation) => ['UploadPart', 'PutObject'].includes(operation)),
    'nor is it sent again',
  );

  t.test('two that send the same file at once both succeed', async (t) => {
    const other = randomBytes(3 * partBytes);
    await writeFile(file, other);
    const stores = await Promise.all([0, 1, 2].map(() => openStore(t, bucket, endpoint!)));
    const results = await Promise.all(stores.map((store) => store.putFile(file)));
    for (const result of results) t.same(result, { digest: digestOf(other), bytes: other.length });
    t.ok((await buffer(store.read(digestOf(other)))).equals(other));
  });
});

t.test('the cache of downloads keeps to its bound', { skip }, async (t) => {
  const { openDownloadCache } = await import('../../src/storage/download-cache.ts');
  const folder = join(await temporaryFolder(t), 'cache');
  const contents = [0, 1, 2, 3].map((n) => Buffer.alloc(1000, n));
  let fetched = 0;
  const cache = openDownloadCache(
    { folder, bytes: 3000 },
    (digest) => {
      fetched += 1;
      return Readable.from([contents.find((content) => digestOf(content) === digest)!]);
    },
    100,
  );
  const paths = await Promise.all(contents.slice(0, 3).map((content) => cache.pathOf(digestOf(content))));
  await Promise.all([0, 0].map(() => cache.pathOf(digestOf(contents[0]!))));
  t.equal(fetched, 3, 'what is there is not fetched again');
  const old = new Date(Date.now() - 1000);
  for (const path of paths) await utimes(path, old, old);
  await cache.pathOf(digestOf(contents[0]!)); // used just now
  await cache.pathOf(digestOf(contents[3]!));
  t.ok(await stat(paths[0]!));
  t.equal((await readdir(folder)).length, 3, 'one had to go');
});
