// Uploads in parts: for files that are too large, or connections that are too poor, for one request. Parts arrive in any
// order, again if need be, here or at the URLs that a bucket takes them under; completing joins them, and what then has
// another digest than was announced never becomes visible.
import { v7 as uuidv7 } from 'uuid';
import * as db from '../db/artifact-uploads.ts';
import { selectArtifact } from '../db/artifacts.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { notFound, Problem } from '../errors.ts';
import { UploadGone } from '../storage/errors.ts';
import { type Artifact, nameArtifact, renderArtifact } from './artifacts.ts';
import type { Caller, Services } from './context.ts';

/** Of every part but the last; a part is held in memory. */
export const partBytes = 16 * 1024 ** 2;
const liveSeconds = 7 * 24 * 3600;

export interface UploadPart {
  part: number;
  /** of its first byte in the file */
  offset: number;
  bytes: number;
  /** takes a PUT of the part for an hour, without an API key; null where only this API does */
  url: string | null;
}

export interface ArtifactUpload {
  id: string;
  digest: string;
  bytes: number;
  media_type: string;
  part_bytes: number;
  parts: number;
  missing: UploadPart[];
  created_at: string;
  expires_at: string;
}

const partCount = ({ bytes, part_bytes }: db.ArtifactUploadRow): number => Math.ceil(bytes / part_bytes);

function partOf(row: db.ArtifactUploadRow, part: number): Omit<UploadPart, 'url'> {
  const offset = (part - 1) * row.part_bytes;
  return { part, offset, bytes: Math.min(row.part_bytes, row.bytes - offset) };
}

async function missingParts(
  services: Services,
  row: db.ArtifactUploadRow,
): Promise<Omit<UploadPart, 'url'>[]> {
  const there = await services.artifacts.uploads.parts(row);
  return Array.from({ length: partCount(row) }, (_, i) => partOf(row, i + 1)).filter(
    ({ part, bytes }) => there.get(part) !== bytes,
  );
}

async function render(services: Services, row: db.ArtifactUploadRow): Promise<ArtifactUpload> {
  const missing = await missingParts(services, row);
  return {
    id: formatId('artifactUpload', row.id),
    digest: row.digest,
    bytes: row.bytes,
    media_type: row.media_type,
    part_bytes: row.part_bytes,
    parts: partCount(row),
    missing: await Promise.all(
      missing.map(async (part) => ({
        ...part,
        url: await services.artifacts.uploads.partUrl(row, part.part, part.bytes),
      })),
    ),
    created_at: row.created_at.toISOString(),
    expires_at: row.expires_at.toISOString(),
  };
}

/** Begins an upload; answers the artifact instead when the project has it already. */
export async function createArtifactUpload(
  services: Services,
  caller: Caller,
  { digest, bytes, media_type }: { digest: string; bytes: number; media_type: string },
): Promise<{ artifact: Artifact } | { upload: ArtifactUpload }> {
  const { projectId } = caller;
  const known = await services.db.transaction(projectId, (tx) => selectArtifact(tx, digest));
  if (known) return { artifact: renderArtifact(known) };
  const id = uuidv7();
  const reference = await services.artifacts.uploads.begin(id); // without a row it is a leftover
  const row = await services.db.transaction(projectId, (tx) =>
    db.insertArtifactUpload(tx, {
      projectId,
      id,
      digest,
      bytes,
      partBytes,
      mediaType: media_type,
      reference,
      liveSeconds,
    }),
  );
  return { upload: await render(services, row) };
}

/** @throws Problem not_found, when it was completed, aborted or has expired, too */
async function findUpload(services: Services, caller: Caller, id: string): Promise<db.ArtifactUploadRow> {
  const uuid = parseId('artifactUpload', id);
  const row =
    uuid === null
      ? undefined
      : await services.db.transaction(caller.projectId, (tx) => db.selectArtifactUpload(tx, uuid));
  if (!row) throw notFound('upload', id);
  return row;
}

/** Its store gives an upload up when it is completed, aborted or expired in the middle of a request. */
function whileLive<T>(id: string, work: Promise<T>): Promise<T> {
  return work.catch((error) => {
    throw error instanceof UploadGone ? notFound('upload', id) : error;
  });
}

export async function getArtifactUpload(
  services: Services,
  caller: Caller,
  id: string,
): Promise<ArtifactUpload> {
  return whileLive(id, render(services, await findUpload(services, caller, id)));
}

/** @throws Problem not_found for the upload or the part, unprocessable for another size than the part has */
export async function putUploadPart(
  services: Services,
  caller: Caller,
  id: string,
  part: number,
  source: AsyncIterable<Uint8Array>,
): Promise<void> {
  const row = await findUpload(services, caller, id);
  if (part > partCount(row))
    throw new Problem('not_found', `The upload has ${partCount(row)} parts; there is no part ${part}.`);
  const { bytes } = partOf(row, part);
  const content = Buffer.allocUnsafe(bytes);
  let received = 0;
  for await (const chunk of source) {
    if (received + chunk.length > bytes) throw wrongSize(part, bytes, 'more');
    content.set(chunk, received);
    received += chunk.length;
  }
  if (received < bytes) throw wrongSize(part, bytes, String(received));
  await whileLive(id, services.artifacts.uploads.putPart(row, part, content));
}

const wrongSize = (part: number, bytes: number, received: string): Problem =>
  new Problem('unprocessable', `The part ${part} has ${bytes} bytes; ${received} came. Send it again.`);

const listedParts = 20;

/**
 * Makes the artifact visible.
 * @throws Problem not_found; unprocessable while parts are missing; digest_mismatch, after which the upload is gone
 */
export async function completeArtifactUpload(
  services: Services,
  caller: Caller,
  id: string,
): Promise<Artifact> {
  const row = await findUpload(services, caller, id);
  const { uploads } = services.artifacts;
  const missing = await missingParts(services, row).catch((error) => {
    // joined already, by a request that ended before it could answer
    if (error instanceof UploadGone) return [];
    throw error;
  });
  if (missing.length > 0) {
    const listed = missing.slice(0, listedParts).map(({ part }) => part);
    const more = missing.length > listedParts ? ` and ${missing.length - listedParts} more` : '';
    throw new Problem('unprocessable', `Of the parts, ${listed.join(', ')}${more} have not come yet.`);
  }
  const remove = (tx: Parameters<typeof db.deleteArtifactUpload>[0]) => db.deleteArtifactUpload(tx, row.id);
  const { digest, bytes, media_type: mediaType } = row;
  if (!(await whileLive(id, uploads.assemble(row, { digest, bytes })))) {
    await services.db.transaction(caller.projectId, remove);
    await uploads.discard(row);
    throw new Problem(
      'digest_mismatch',
      `The parts together are not ${digest}. Nothing was stored, and the upload is gone: begin a new one.`,
    );
  }
  const artifact = await nameArtifact(services, caller, { digest, bytes, mediaType }, remove);
  await uploads.discard(row);
  return artifact;
}

/** What has arrived is given up. @throws Problem not_found */
export async function abortArtifactUpload(services: Services, caller: Caller, id: string): Promise<void> {
  const row = await findUpload(services, caller, id);
  await services.db.transaction(caller.projectId, (tx) => db.deleteArtifactUpload(tx, row.id));
  await services.artifacts.uploads.discard(row);
}
