// A bounded folder of artifacts that were fetched from afar, for programs that open files. Each is written aside, checked
// against its digest and renamed; when the folder outgrows its bound, what was not used for longest goes first.
import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { hexOf, isThere, meter, untilClosed } from './artifact-store.ts';

/** A file was handed out as a path a moment ago: whoever got it may not have opened it yet. */
const keptMs = 10 * 60_000;

export interface DownloadCache {
  pathOf(digest: string): Promise<string>;
}

export function openDownloadCache(
  { folder, bytes: bound }: { folder: string; bytes: number },
  read: (digest: string) => Readable,
  graceMs = keptMs,
): DownloadCache {
  const underWay = new Map<string, Promise<string>>();

  async function fetch(digest: string): Promise<string> {
    const path = join(folder, hexOf(digest));
    if (await isThere(path)) {
      const now = new Date();
      const kept = await utimes(path, now, now).then(
        () => true,
        () => false, // another process has just removed it
      );
      if (kept) return path;
    }
    await mkdir(folder, { recursive: true });
    const temporary = join(folder, `incoming-${randomUUID()}`);
    const content = meter();
    const writing = createWriteStream(temporary, { mode: 0o600, flush: true });
    try {
      await pipeline(read(digest), content, writing);
      const found = content.measured().digest;
      if (found !== digest)
        throw new Error(
          `The artifact store gave ${found} for ${digest}: what it keeps under that digest is damaged.`,
        );
      await rename(temporary, path);
    } finally {
      await untilClosed(writing);
      await rm(temporary, { force: true });
    }
    await makeRoom();
    return path;
  }

  async function makeRoom(): Promise<void> {
    const files = await Promise.all(
      (await readdir(folder)).map(async (name) => {
        const path = join(folder, name);
        const found = await stat(path).catch(() => null); // removed by another process
        return { path, bytes: found?.size ?? 0, usedAt: found?.mtimeMs ?? Date.now() };
      }),
    );
    let total = files.reduce((sum, { bytes }) => sum + bytes, 0);
    for (const { path, bytes, usedAt } of files.sort((a, b) => a.usedAt - b.usedAt)) {
      if (total <= bound || Date.now() - usedAt < graceMs) return;
      await rm(path, { force: true });
      total -= bytes;
    }
  }

  return {
    pathOf(digest) {
      const begun = underWay.get(digest);
      if (begun) return begun;
      const fetching = fetch(digest).finally(() => underWay.delete(digest));
      underWay.set(digest, fetching);
      return fetching;
    },
  };
}
