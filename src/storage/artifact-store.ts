// Content-addressed artifacts in a local folder: sha256/ab/cdef…. A file is written aside, synced and renamed, so that
// what lies under a digest is always whole and always fits it.
import { createHash, randomUUID } from 'node:crypto';
import { constants, createReadStream, createWriteStream } from 'node:fs';
import { access, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';

export interface StoredArtifact {
  /** `sha256:` and 64 hex digits */
  digest: string;
  bytes: number;
}

export interface ArtifactStore {
  /** Stores what `source` yields. @throws whatever the source throws; nothing is visible then */
  put(source: Readable | AsyncIterable<string | Uint8Array>): Promise<StoredArtifact>;
  /** @throws Error when there is no such artifact */
  read(digest: string): Readable;
  /** A path under which the whole artifact can be read, for programs that open files. Never write to it. */
  localPath(digest: string): Promise<string>;
  has(digest: string): Promise<boolean>;
  /** @throws Error that says why nothing can be stored */
  checkWritable(): Promise<void>;
}

export function openArtifactStore(folder: string): ArtifactStore {
  const aside = join(folder, 'incoming');
  const pathOf = (digest: string): string => {
    const hex = /^sha256:([0-9a-f]{64})$/.exec(digest)?.[1];
    if (!hex) throw new Error(`not an artifact digest: ${digest}`);
    return join(folder, 'sha256', hex.slice(0, 2), hex.slice(2));
  };
  return {
    async put(source) {
      await mkdir(aside, { recursive: true });
      const temporary = join(aside, randomUUID());
      const hash = createHash('sha256');
      let bytes = 0;
      const measure = new Transform({
        transform(chunk: Buffer, _encoding, done) {
          hash.update(chunk);
          bytes += chunk.length;
          done(null, chunk);
        },
      });
      try {
        await pipeline(source, measure, createWriteStream(temporary, { mode: 0o600 }));
        const file = await open(temporary, 'r+');
        await file.sync().finally(() => file.close());
        const digest = `sha256:${hash.digest('hex')}`;
        const path = pathOf(digest);
        await mkdir(join(path, '..'), { recursive: true });
        await rename(temporary, path);
        return { digest, bytes };
      } finally {
        await rm(temporary, { force: true });
      }
    },
    read: (digest) => createReadStream(pathOf(digest)),
    async localPath(digest) {
      await stat(pathOf(digest));
      return pathOf(digest);
    },
    async checkWritable() {
      await mkdir(aside, { recursive: true });
      await access(aside, constants.W_OK);
    },
    has: (digest) =>
      stat(pathOf(digest)).then(
        () => true,
        (error: NodeJS.ErrnoException) => {
          if (error.code === 'ENOENT') return false;
          throw error;
        },
      ),
  };
}
