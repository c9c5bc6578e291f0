// Artifacts in a bucket of an S3-compatible store, laid out as in the folder: PREFIX/sha256/ab/cdef…. A key appears with its
// whole content or not at all (PutObject, CompleteMultipartUpload and the copies are atomic), and gets its content only
// after that was measured: files and small content go straight to their key with the checksum that the server compares; a
// long stream, whose digest is known at its end, goes to PREFIX/incoming/ and is copied within the store.
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import * as s3 from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import type { S3Place } from './artifact-place.ts';
import {
  type ArtifactStore,
  type ByteRange,
  fileContent,
  hexOf,
  meter,
  type PartialUpload,
  type PartialUploads,
  type StoredArtifact,
  uploadPrefix,
} from './artifact-store.ts';
import { openDownloadCache } from './download-cache.ts';
import { StoreUnavailable, UploadGone } from './errors.ts';

const mebibyte = 2 ** 20;
const gibibyte = 2 ** 30;

export interface S3Limits {
  /** content up to this is sent in one piece; S3 wants parts of 5 MiB at least */
  partBytes: number;
  /** the longest that CopyObject takes; longer objects are copied in parts */
  copyBytes: number;
  /** what is older gets a new time when it is put again; its times are as exact as that */
  freshSeconds: number;
  /** of each request: some seconds of a store that refuses connections, or answers 5xx */
  attempts: number;
}

const defaultLimits: S3Limits = {
  partBytes: 16 * mebibyte,
  copyBytes: 5 * gibibyte,
  freshSeconds: 3600,
  attempts: 9, // the waits between them are drawn at random; fewer may add up to a second only
};

const mostParts = 10_000;
const inParallel = 4;
const urlSeconds = 3600;

export function openS3Store(
  { bucket: Bucket, prefix, endpoint, region, pathStyle }: S3Place,
  options: { cache: { folder: string; bytes: number }; limits?: Partial<S3Limits> },
): ArtifactStore {
  const limits = { ...defaultLimits, ...options.limits };
  const client = new s3.S3Client({
    ...(endpoint === null ? {} : { endpoint }),
    ...(region === null ? {} : { region }),
    forcePathStyle: pathStyle,
    maxAttempts: limits.attempts,
    // bodies have a SHA-256 where it matters, and older servers do not read the trailers that the SDK would add
    requestChecksumCalculation: 'WHEN_REQUIRED',
    requestHandler: { connectionTimeout: 5000, socketTimeout: 60_000 },
  });
  const keyOf = (digest: string): string => {
    const hex = hexOf(digest);
    return `${prefix}sha256/${hex.slice(0, 2)}/${hex.slice(2)}`;
  };
  const incoming = `${prefix}incoming/`;
  const uploadKey = ({ id }: Pick<PartialUpload, 'id'>): string => `${incoming}${uploadPrefix}${id}`;

  async function head(key: string): Promise<{ bytes: number; storedAt: Date } | null> {
    const found = await asked(client.send(new s3.HeadObjectCommand({ Bucket, Key: key }))).catch(
      nullIfAbsent,
    );
    return found && { bytes: found.ContentLength ?? 0, storedAt: found.LastModified ?? new Date(0) };
  }

  const remove = (key: string) => asked(client.send(new s3.DeleteObjectCommand({ Bucket, Key: key })));

  /** Within the store; onto itself, it makes an object young. */
  async function copy(from: string, to: string, bytes: number): Promise<void> {
    const CopySource = `${Bucket}/${from.split('/').map(encodeURIComponent).join('/')}`;
    const target = { Bucket, Key: to };
    if (bytes <= limits.copyBytes) {
      await asked(
        client.send(new s3.CopyObjectCommand({ ...target, CopySource, MetadataDirective: 'REPLACE' })),
      );
      return;
    }
    const UploadId = await beginMultipart(to);
    try {
      const Parts = await inTurns(partsOf(bytes, limits.copyBytes), async ({ number, start, end }) => {
        const { CopyPartResult } = await asked(
          client.send(
            new s3.UploadPartCopyCommand({
              ...target,
              UploadId,
              PartNumber: number,
              CopySource,
              CopySourceRange: `bytes=${start}-${end - 1}`,
            }),
          ),
        );
        return { PartNumber: number, ETag: CopyPartResult!.ETag };
      });
      await complete(to, UploadId, Parts);
    } catch (error) {
      await abort(to, UploadId);
      throw error;
    }
  }

  const beginMultipart = async (key: string, ChecksumAlgorithm?: 'SHA256'): Promise<string> =>
    (await asked(client.send(new s3.CreateMultipartUploadCommand({ Bucket, Key: key, ChecksumAlgorithm }))))!
      .UploadId!;
  const complete = (key: string, UploadId: string, Parts: s3.CompletedPart[]) =>
    asked(
      client.send(
        new s3.CompleteMultipartUploadCommand({ Bucket, Key: key, UploadId, MultipartUpload: { Parts } }),
      ),
    );
  const abort = (key: string, UploadId: string) =>
    asked(client.send(new s3.AbortMultipartUploadCommand({ Bucket, Key: key, UploadId }))).catch(
      (error: Error) => {
        if (error.name !== 'NoSuchUpload') throw error;
      },
    );

  async function listParts(key: string, UploadId: string): Promise<s3.Part[]> {
    const found: s3.Part[] = [];
    const pages = s3.paginateListParts({ client }, { Bucket, Key: key, UploadId });
    for await (const page of askedPages(pages)) found.push(...(page.Parts ?? []));
    return found;
  }

  /** Unfinished multipart uploads below a key, oldest first. */
  async function listMultipart(
    Prefix: string,
  ): Promise<(s3.MultipartUpload & { Key: string; UploadId: string })[]> {
    const found: s3.MultipartUpload[] = [];
    let KeyMarker: string | undefined;
    let UploadIdMarker: string | undefined;
    do {
      const page = await asked(
        client.send(new s3.ListMultipartUploadsCommand({ Bucket, Prefix, KeyMarker, UploadIdMarker })),
      );
      found.push(...(page.Uploads ?? []));
      KeyMarker = page.IsTruncated ? page.NextKeyMarker : undefined;
      UploadIdMarker = page.IsTruncated ? page.NextUploadIdMarker : undefined;
    } while (KeyMarker !== undefined);
    return (found as (s3.MultipartUpload & { Key: string; UploadId: string })[]).sort(
      (a, b) => Number(a.Initiated) - Number(b.Initiated),
    );
  }

  /** Small enough for one request; the server compares the digest before anything is visible. */
  async function putWhole(content: Buffer): Promise<StoredArtifact> {
    const hash = createHash('sha256').update(content).digest();
    const digest = `sha256:${hash.toString('hex')}`;
    await asked(
      client.send(
        new s3.PutObjectCommand({
          Bucket,
          Key: keyOf(digest),
          Body: content,
          ContentLength: content.length,
          ChecksumSHA256: hash.toString('base64'),
        }),
      ),
    );
    return { digest, bytes: content.length };
  }

  /** Resolves to false when the object is not there; one that is counts as put now. */
  async function refresh(digest: string): Promise<boolean> {
    const key = keyOf(digest);
    const found = await head(key);
    if (!found) return false;
    if (Date.now() - found.storedAt.getTime() < limits.freshSeconds * 1000) return true;
    return copy(key, key, found.bytes).then(
      () => true,
      (error: Error) => {
        if (error.name === 'NoSuchKey' || error.name === 'NotFound') return false; // it was collected meanwhile
        throw error;
      },
    );
  }

  /** Sends the parts that an unfinished upload of this content lacks, or all of them. */
  async function sendFile(path: string, file: MeasuredFile): Promise<void> {
    const key = keyOf(file.digest);
    const begun = (await listMultipart(key)).find(({ Key }) => Key === key)?.UploadId;
    const UploadId = begun ?? (await beginMultipart(key, 'SHA256'));
    const there = new Map(
      (begun === undefined ? [] : await listParts(key, begun)).map((part) => [part.PartNumber, part]),
    );
    const handle = await open(path);
    try {
      const Parts = await inTurns(file.parts, async ({ number, start, end, sha256 }) => {
        const read = async (): Promise<Buffer> => {
          const content = Buffer.allocUnsafe(end - start);
          const { bytesRead } = await handle.read(content, 0, content.length, start);
          if (bytesRead !== content.length) throw new Error(`${path} changed while it was stored.`);
          return content;
        };
        const known = { PartNumber: number, ChecksumSHA256: sha256 };
        const present = there.get(number);
        if (present && (await isSamePart(present, end - start, sha256, read)))
          return { ...known, ETag: present.ETag };
        const { ETag } = await asked(
          client.send(
            new s3.UploadPartCommand({
              Bucket,
              Key: key,
              UploadId,
              PartNumber: number,
              Body: await read(),
              ChecksumSHA256: sha256,
            }),
          ),
        );
        return { ...known, ETag };
      });
      await complete(key, UploadId, Parts);
    } finally {
      await handle.close();
    }
  }

  const uploads: PartialUploads = {
    begin: (id) => beginMultipart(uploadKey({ id })),
    async parts(upload) {
      const found = await listParts(uploadKey(upload), upload.reference!).catch(goneIfAbsent);
      return new Map(found.map(({ PartNumber, Size }) => [PartNumber!, Size!]));
    },
    async putPart(upload, number, content) {
      await asked(
        client.send(
          new s3.UploadPartCommand({
            Bucket,
            Key: uploadKey(upload),
            UploadId: upload.reference!,
            PartNumber: number,
            Body: content,
          }),
        ),
      ).catch(goneIfAbsent);
    },
    partUrl: (upload, number, bytes) =>
      getSignedUrl(
        client,
        new s3.UploadPartCommand({
          Bucket,
          Key: uploadKey(upload),
          UploadId: upload.reference!,
          PartNumber: number,
          ContentLength: bytes,
        }),
        { expiresIn: urlSeconds },
      ),
    async assemble(upload, { digest, bytes }) {
      const key = uploadKey(upload);
      try {
        const parts = await listParts(key, upload.reference!);
        await complete(
          key,
          upload.reference!,
          parts.map(({ PartNumber, ETag }) => ({ PartNumber, ETag })),
        );
      } catch (error) {
        // joined already, by a call that ended before it could answer
        if ((error as Error).name !== 'NoSuchUpload') throw error;
        if (!(await head(key))) throw new UploadGone();
      }
      const content = meter();
      await pipeline(Readable.from(bytesOf(key)), content, async (chunks) => {
        for await (const _ of chunks);
      });
      const found = content.measured();
      if (found.digest !== digest || found.bytes !== bytes) return false;
      await copy(key, keyOf(digest), bytes);
      return true;
    },
    async discard(upload) {
      await abort(uploadKey(upload), upload.reference!);
      await remove(uploadKey(upload));
    },
  };

  /** Goes on where a broken connection left off. */
  async function* bytesOf(key: string, range?: ByteRange): AsyncGenerator<Buffer> {
    let start = range?.start ?? 0;
    const to = range === undefined ? '' : range.end - 1;
    for (let failures = 0; ; ) {
      const whole = start === 0 && to === '';
      const answer = await asked(
        client.send(
          new s3.GetObjectCommand({ Bucket, Key: key, Range: whole ? undefined : `bytes=${start}-${to}` }),
        ),
      );
      const end = start + (answer.ContentLength ?? 0);
      try {
        for await (const chunk of answer.Body as AsyncIterable<Buffer>) {
          yield chunk;
          start += chunk.length;
          failures = 0;
        }
        if (start < end) throw new Error('the answer ended before its end');
        return;
      } catch (error) {
        if (start === end) return;
        if (++failures === limits.attempts)
          throw new StoreUnavailable(`The artifact store broke off: ${(error as Error).message}`, {
            cause: error,
          });
      }
    }
  }

  const read: ArtifactStore['read'] = (digest, range) =>
    Readable.from(bytesOf(keyOf(digest), range), { objectMode: false });
  const cache = openDownloadCache(options.cache, read);

  return {
    async put(source) {
      const chunks = (source instanceof Readable ? source : Readable.from(source))[Symbol.asyncIterator]();
      const first: Buffer[] = [];
      for (let bytes = 0; bytes <= limits.partBytes; ) {
        const { done, value } = await chunks.next();
        if (done) return putWhole(Buffer.concat(first));
        first.push(Buffer.from(value));
        bytes += first.at(-1)!.length;
      }
      const key = `${incoming}${randomUUID()}`;
      const content = meter();
      const all = (async function* () {
        yield* first;
        yield* { [Symbol.asyncIterator]: () => chunks };
      })();
      const upload = new Upload({
        client,
        params: { Bucket, Key: key, Body: content },
        partSize: limits.partBytes,
        queueSize: 2,
      });
      try {
        await Promise.all([pipeline(all, content), asked(upload.done())]);
        const stored = content.measured();
        await copy(key, keyOf(stored.digest), stored.bytes);
        return stored;
      } catch (error) {
        await upload.abort().catch(() => {}); // what is left is a leftover
        throw error;
      } finally {
        await remove(key).catch(() => {}); // as above
      }
    },
    async putFile(path) {
      const { size } = await stat(path);
      if (size <= limits.partBytes) return this.put(fileContent(path));
      const file = await measureFile(path, Math.max(limits.partBytes, Math.ceil(size / mostParts)));
      for (let tries = 1; !(await refresh(file.digest)); tries += 1) {
        try {
          await sendFile(path, file);
          break;
        } catch (error) {
          // another process has completed the same upload, or it was given up as a leftover
          if ((error as Error).name !== 'NoSuchUpload' || tries === 3) throw error;
        }
      }
      return { digest: file.digest, bytes: file.bytes };
    },
    read,
    localPath: cache.pathOf,
    has: async (digest) => (await head(keyOf(digest))) !== null,
    async checkWritable() {
      await asked(client.send(new s3.ListObjectsV2Command({ Bucket, Prefix: incoming, MaxKeys: 1 })));
    },
    uploads,
    async *list() {
      const Prefix = `${prefix}sha256/`;
      const pages = s3.paginateListObjectsV2({ client }, { Bucket, Prefix });
      for await (const { Contents = [] } of askedPages(pages)) {
        for (const { Key, Size, LastModified } of Contents) {
          const hex = Key!.slice(Prefix.length).replace('/', '');
          if (/^[0-9a-f]{64}$/.test(hex))
            yield { digest: `sha256:${hex}`, bytes: Size!, storedAt: LastModified! };
        }
      }
    },
    async remove(digests) {
      for (let i = 0; i < digests.length; i += 1000) {
        const Objects = digests.slice(i, i + 1000).map((digest) => ({ Key: keyOf(digest) }));
        const { Errors = [] } = await asked(
          client.send(new s3.DeleteObjectsCommand({ Bucket, Delete: { Objects, Quiet: true } })),
        );
        if (Errors.length > 0)
          throw new Error(`The artifact store did not delete ${Errors[0]!.Key}: ${Errors[0]!.Message}`);
      }
    },
    async removeLeftovers(before, spared) {
      const isSpared = (key: string): boolean =>
        key.startsWith(uploadKey({ id: '' })) && spared.has(key.slice(uploadKey({ id: '' }).length));
      let removed = 0;
      for (const { Key, UploadId, Initiated } of await listMultipart(prefix)) {
        if (!Initiated || Initiated >= before || isSpared(Key)) continue;
        await abort(Key, UploadId);
        removed += 1;
      }
      const pages = s3.paginateListObjectsV2({ client }, { Bucket, Prefix: incoming });
      for await (const { Contents = [] } of askedPages(pages)) {
        for (const { Key, LastModified } of Contents) {
          if (LastModified! >= before || isSpared(Key!)) continue;
          await remove(Key!);
          removed += 1;
        }
      }
      return removed;
    },
  };
}

interface FilePart extends ByteRange {
  number: number;
}

interface MeasuredFile extends StoredArtifact {
  /** sha256: in base64 */
  parts: (FilePart & { sha256: string })[];
}

function partsOf(bytes: number, partBytes: number): FilePart[] {
  return Array.from({ length: Math.ceil(bytes / partBytes) }, (_, i) => ({
    number: i + 1,
    start: i * partBytes,
    end: Math.min(bytes, (i + 1) * partBytes),
  }));
}

/** The digest of a file and of its parts, in one reading. Parts depend on the size alone, so that they can be resumed. */
async function measureFile(path: string, partBytes: number): Promise<MeasuredFile> {
  const whole = createHash('sha256');
  let part = createHash('sha256');
  let left = partBytes;
  let bytes = 0;
  const sums: string[] = [];
  for await (const chunk of createReadStream(path, { highWaterMark: mebibyte }) as AsyncIterable<Buffer>) {
    whole.update(chunk);
    bytes += chunk.length;
    for (let rest = chunk; rest.length > 0; ) {
      const taken = rest.subarray(0, left);
      part.update(taken);
      left -= taken.length;
      rest = rest.subarray(taken.length);
      if (left > 0) continue;
      sums.push(part.digest('base64'));
      part = createHash('sha256');
      left = partBytes;
    }
  }
  if (left < partBytes) sums.push(part.digest('base64'));
  return {
    digest: `sha256:${whole.digest('hex')}`,
    bytes,
    parts: partsOf(bytes, partBytes).map((range, i) => ({ ...range, sha256: sums[i]! })),
  };
}

/** Servers that keep no SHA-256 of parts have their MD5 as the ETag. */
async function isSamePart(
  part: s3.Part,
  bytes: number,
  sha256: string,
  read: () => Promise<Buffer>,
): Promise<boolean> {
  if (part.Size !== bytes) return false;
  if (part.ChecksumSHA256) return part.ChecksumSHA256 === sha256;
  return (
    part.ETag?.replaceAll('"', '') ===
    createHash('md5')
      .update(await read())
      .digest('hex')
  );
}

/** Results in the order of the items; a few items at a time. */
async function inTurns<Item, Result>(
  items: Item[],
  work: (item: Item) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = [];
  let next = 0;
  let failed = false;
  const turns = Array.from({ length: inParallel }, async () => {
    while (next < items.length && !failed) {
      const i = next++;
      results[i] = await work(items[i]!).catch((error) => {
        failed = true;
        throw error;
      });
    }
  });
  await Promise.all(turns);
  return results;
}

/** The SDK has tried again by now. @throws StoreUnavailable for what is the store's or the network's fault */
async function asked<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (error) {
    throw translated(error);
  }
}

async function* askedPages<T>(pages: AsyncIterable<T>): AsyncGenerator<T> {
  try {
    yield* pages;
  } catch (error) {
    throw translated(error);
  }
}

function translated(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { $metadata, code = '' } = error as Error & {
    $metadata?: { httpStatusCode?: number };
    code?: string;
  };
  const status = $metadata?.httpStatusCode;
  const isNetwork = /^(E[A-Z]+|UND_ERR\w*)$/.test(code) || error.name === 'TimeoutError';
  if (isNetwork || (status !== undefined && (status >= 500 || status === 429)))
    return new StoreUnavailable(`The artifact store fails: ${error.name}: ${error.message || code}`, {
      cause: error,
    });
  if (status === 401 || status === 403)
    return new StoreUnavailable(
      `The artifact store refuses the credentials: ${error.name}. See AWS_ACCESS_KEY_ID and the policy of its bucket.`,
      { cause: error },
    );
  if (error.name === 'NoSuchBucket')
    return new StoreUnavailable('The bucket of FINEGRAIN_ARTIFACTS does not exist.', { cause: error });
  return error;
}

function nullIfAbsent(error: Error): null {
  if (error.name === 'NotFound' || error.name === 'NoSuchKey') return null;
  throw error;
}

function goneIfAbsent(error: Error): never {
  throw error.name === 'NoSuchUpload' ? new UploadGone() : error;
}
