// Content-addressed artifacts, and the store of them in a local folder: sha256/ab/cdef…. A file is written aside, synced
// and renamed, so that what lies under a digest is always whole and always fits it. Another store: s3-store.ts.
import { createHash, randomUUID } from 'node:crypto';
import { constants, createReadStream, createWriteStream, existsSync, type WriteStream } from 'node:fs';
import { access, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { StoreUnavailable, UploadGone } from './errors.ts';

export interface StoredArtifact {
  /** `sha256:` and 64 hex digits */
  digest: string;
  bytes: number;
}

/** Half-open. */
export interface ByteRange {
  start: number;
  end: number;
}

export interface ArtifactStore {
  /**
   * Stores what `source` yields; what is there already becomes as young as new.
   * @throws whatever the source throws; nothing is visible then
   */
  put(source: Readable | AsyncIterable<string | Uint8Array>): Promise<StoredArtifact>;
  /** As `put`, of a file: what an earlier attempt has brought over is not sent again. The file must not change meanwhile. */
  putFile(path: string): Promise<StoredArtifact>;
  /** @throws Error, from the stream, when there is no such artifact */
  read(digest: string, range?: ByteRange): Readable;
  /** A path under which the whole artifact can be read, for programs that open files. Never write to it. */
  localPath(digest: string): Promise<string>;
  has(digest: string): Promise<boolean>;
  /** @throws Error that says why nothing can be stored */
  checkWritable(): Promise<void>;
  uploads: PartialUploads;
  /** Everything that is visible, with the time of its last put, to the hour. */
  list(): AsyncIterable<StoredArtifact & { storedAt: Date }>;
  /** Only for the collector (artifact-collection.ts), which knows what is named. */
  remove(digests: string[]): Promise<void>;
  /** Removes what was begun before then and never became visible; answers how many. @param spared ids of uploads */
  removeLeftovers(before: Date, spared: Set<string>): Promise<number>;
}

export interface PartialUpload {
  id: string;
  /** the store's own name for it, from `begin`; null when it needs none */
  reference: string | null;
}

/** Content that arrives in parts, in any order and over days; nothing of it is visible before it is assembled. */
export interface PartialUploads {
  begin(id: string): Promise<string | null>;
  /** Bytes of the parts that are there, by number, from 1. @throws UploadGone */
  parts(upload: PartialUpload): Promise<Map<number, number>>;
  /** Replaces the part if it is there. @throws UploadGone */
  putPart(upload: PartialUpload, number: number, content: Buffer): Promise<void>;
  /** Where the part can be PUT without this service in between, for an hour; null when there is no such place. */
  partUrl(upload: PartialUpload, number: number, bytes: number): Promise<string | null>;
  /**
   * Joins the parts and makes them visible if they are what was announced; false when they are not. May be called again
   * until the upload is discarded. @throws UploadGone
   */
  assemble(upload: PartialUpload, announced: StoredArtifact): Promise<boolean>;
  /** Without effect on what is visible. */
  discard(upload: PartialUpload): Promise<void>;
}

/** The 64 hex digits of a digest. @throws Error for anything else, such as a path */
export function hexOf(digest: string): string {
  const hex = /^sha256:([0-9a-f]{64})$/.exec(digest)?.[1];
  if (!hex) throw new Error(`not an artifact digest: ${digest}`);
  return hex;
}

/** Passes content through and knows its digest at the end. */
export function meter(): Transform & { measured(): StoredArtifact } {
  const hash = createHash('sha256');
  let bytes = 0;
  const transform = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      bytes += chunk.length;
      done(null, chunk);
    },
  });
  return Object.assign(transform, { measured: () => ({ digest: `sha256:${hash.digest('hex')}`, bytes }) });
}

/** A stream that was broken off may be opening its file still, which would then be there after it was removed. */
export async function untilClosed(stream: WriteStream): Promise<void> {
  stream.destroy();
  if (!stream.closed) await new Promise<void>((resolve) => stream.once('close', () => resolve()));
}

/** A file that is opened when it is first read: a stream opens at once, and one that fails unheard ends the process. */
export async function* fileContent(path: string): AsyncGenerator<Buffer> {
  yield* createReadStream(path);
}

export function openArtifactStore(folder: string): ArtifactStore {
  const aside = join(folder, 'incoming');
  const pathOf = (digest: string): string => {
    const hex = hexOf(digest);
    return join(folder, 'sha256', hex.slice(0, 2), hex.slice(2));
  };
  const uploadFolder = ({ id }: Pick<PartialUpload, 'id'>): string => join(aside, `${uploadPrefix}${id}`);

  /** Writes aside and hands on what was written, which is gone afterwards unless it was renamed. */
  async function writeAside<T>(
    target: string,
    source: Parameters<ArtifactStore['put']>[0],
    use: (temporary: string, stored: StoredArtifact) => Promise<T>,
  ): Promise<T> {
    const temporary = join(target, randomUUID());
    const content = meter();
    const writing = createWriteStream(temporary, { mode: 0o600 });
    try {
      await pipeline(source, content, writing);
      const file = await open(temporary, 'r+');
      await file.sync().finally(() => file.close());
      return await use(temporary, content.measured());
    } finally {
      await untilClosed(writing);
      await rm(temporary, { force: true });
    }
  }

  /** Of what was stored here once: when even the folder is gone, a disk is not mounted. */
  const whileThere = <T>(work: () => Promise<T>): Promise<T> =>
    whileUsable(work).catch((error) => {
      if (error.code !== 'ENOENT' || existsSync(folder)) throw error;
      throw new StoreUnavailable(`${folder} is gone.`, { cause: error });
    });

  async function* bytesOf(path: string, range?: ByteRange): AsyncGenerator<Buffer> {
    const stream = createReadStream(path, range && { start: range.start, end: range.end - 1 });
    const chunks = stream[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
    try {
      for (;;) {
        const { done, value } = await whileThere(() => chunks.next());
        if (done) return;
        yield value;
      }
    } finally {
      stream.destroy();
    }
  }

  const makeVisible = async (temporary: string, digest: string): Promise<void> => {
    const path = pathOf(digest);
    await mkdir(join(path, '..'), { recursive: true });
    await rename(temporary, path);
  };

  const put: ArtifactStore['put'] = (source) =>
    whileUsable(async () => {
      await mkdir(aside, { recursive: true });
      return writeAside(aside, source, async (temporary, stored) => {
        await makeVisible(temporary, stored.digest);
        return stored;
      });
    });

  const uploads: PartialUploads = {
    begin: (id) =>
      whileUsable(async () => {
        await mkdir(uploadFolder({ id }), { recursive: true });
        return null;
      }),
    parts: (upload) =>
      whileUsable(async () => {
        const found = new Map<number, number>();
        for (const name of await readdir(uploadFolder(upload)).catch(goneIfAbsent))
          if (/^\d+$/.test(name))
            found.set(Number(name), (await stat(join(uploadFolder(upload), name))).size);
        return found;
      }),
    putPart: (upload, number, content) =>
      whileUsable(() =>
        writeAside(uploadFolder(upload), Readable.from([content]), (temporary) =>
          rename(temporary, join(uploadFolder(upload), String(number))),
        ).catch(goneIfAbsent),
      ),
    partUrl: async () => null,
    async assemble(upload, { digest, bytes }) {
      const numbers = [...(await uploads.parts(upload)).keys()].sort((a, b) => a - b);
      async function* joined() {
        for (const number of numbers) yield* fileContent(join(uploadFolder(upload), String(number)));
      }
      return whileUsable(() =>
        writeAside(aside, joined(), async (temporary, stored) => {
          if (stored.digest !== digest || stored.bytes !== bytes) return false;
          await makeVisible(temporary, digest);
          return true;
        }).catch(goneIfAbsent),
      );
    },
    discard: (upload) => rm(uploadFolder(upload), { recursive: true, force: true }),
  };

  return {
    put,
    putFile: (path) => put(fileContent(path)),
    read: (digest, range) => {
      const path = pathOf(digest);
      return Readable.from(bytesOf(path, range), { objectMode: false });
    },
    localPath: (digest) =>
      whileThere(async () => {
        await stat(pathOf(digest));
        return pathOf(digest);
      }),
    checkWritable: () =>
      whileUsable(async () => {
        await mkdir(aside, { recursive: true });
        await access(aside, constants.W_OK);
      }),
    has: (digest) => whileUsable(() => isThere(pathOf(digest))),
    uploads,
    async *list() {
      const root = join(folder, 'sha256');
      if (!existsSync(root)) return;
      for (const start of await readdir(root)) {
        for (const rest of await readdir(join(root, start))) {
          const found = await stat(join(root, start, rest)).catch(nullIfAbsent);
          if (found) yield { digest: `sha256:${start}${rest}`, bytes: found.size, storedAt: found.mtime };
        }
      }
    },
    async remove(digests) {
      for (const digest of digests) await rm(pathOf(digest), { force: true });
    },
    async removeLeftovers(before, spared) {
      let removed = 0;
      if (!existsSync(aside)) return removed;
      for (const name of await readdir(aside)) {
        if (name.startsWith(uploadPrefix) && spared.has(name.slice(uploadPrefix.length))) continue;
        const found = await stat(join(aside, name)).catch(nullIfAbsent);
        if (!found || found.mtime >= before) continue;
        await rm(join(aside, name), { recursive: true, force: true });
        removed += 1;
      }
      return removed;
    },
  };
}

/** Begins the name of whatever belongs to an upload in parts, in any store; its id follows. */
export const uploadPrefix = 'upload-';

// a disk that is full or broken, a share that is away
const unusable = new Set([
  'ENOSPC',
  'EDQUOT',
  'EROFS',
  'EIO',
  'ENOTDIR',
  'ESTALE',
  'ETIMEDOUT',
  'ENOTCONN',
  'EHOSTDOWN',
]);

/** @throws StoreUnavailable for an error of the disk: what failed may work later */
async function whileUsable<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const { code = '', message } = error as NodeJS.ErrnoException;
    throw unusable.has(code) ? new StoreUnavailable(message, { cause: error }) : error;
  }
}

function goneIfAbsent(error: NodeJS.ErrnoException): never {
  throw error.code === 'ENOENT' ? new UploadGone() : error;
}

function nullIfAbsent(error: NodeJS.ErrnoException): null {
  if (error.code === 'ENOENT') return null;
  throw error;
}

export const isThere = async (path: string): Promise<boolean> =>
  (await stat(path).catch(nullIfAbsent)) !== null;
