// Artifacts of a project: content under its digest, visible to the projects that have put it there.
import type { Readable } from 'node:stream';
import * as db from '../db/artifacts.ts';
import type { Transaction } from '../db/pool.ts';
import { notFound, Problem } from '../errors.ts';
import type { ByteRange } from '../storage/artifact-store.ts';
import type { Caller, Services } from './context.ts';
import { ArtifactsGone, holdArtifacts } from './named-artifacts.ts';

export interface Artifact {
  digest: string;
  bytes: number;
  media_type: string;
  created_at: string;
}

export const renderArtifact = (row: db.ArtifactRow): Artifact => ({
  digest: row.digest,
  bytes: row.bytes,
  media_type: row.media_type,
  created_at: row.created_at.toISOString(),
});

export const maxArtifactBytes = 8 * 1024 ** 3;

/** Stores the stream; nothing is visible before the whole of it is there. @throws Problem content_too_large */
export async function putArtifact(
  services: Services,
  caller: Caller,
  mediaType: string,
  source: AsyncIterable<Uint8Array>,
): Promise<Artifact> {
  const { digest, bytes } = await services.artifacts.put(bounded(source));
  return nameArtifact(services, caller, { digest, bytes, mediaType });
}

/**
 * Makes what was just stored visible to the project.
 * @param also in the same transaction
 * @throws Problem unavailable
 */
export function nameArtifact(
  services: Services,
  caller: Caller,
  { digest, bytes, mediaType }: { digest: string; bytes: number; mediaType: string },
  also: (tx: Transaction) => Promise<void> = async () => {},
): Promise<Artifact> {
  return services.db.transaction(caller.projectId, async (tx) => {
    await holdArtifacts(tx, services.artifacts, [digest]).catch((error) => {
      if (!(error instanceof ArtifactsGone)) throw error;
      throw new Problem('unavailable', 'The file was cleared away before it was registered. Send it again.', {
        retryAfterSeconds: 1,
      });
    });
    await also(tx);
    return renderArtifact(
      await db.insertArtifact(tx, { projectId: caller.projectId, digest, bytes, mediaType }),
    );
  });
}

async function* bounded(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  for await (const chunk of source) {
    bytes += chunk.length;
    if (bytes > maxArtifactBytes)
      throw new Problem('content_too_large', `An artifact may have ${maxArtifactBytes} bytes at most.`);
    yield chunk;
  }
}

/** @throws Problem not_found */
export async function getArtifact(
  services: Services,
  caller: Caller,
  digest: string,
): Promise<{ artifact: Artifact; read: (range?: ByteRange) => Readable }> {
  const row = await services.db.transaction(caller.projectId, (tx) => db.selectArtifact(tx, digest));
  if (!row) throw notFound('artifact', digest);
  return { artifact: renderArtifact(row), read: (range) => services.artifacts.read(digest, range) };
}
