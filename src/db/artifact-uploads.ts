// Statements on uploads of artifacts in parts.
import type { Transaction } from './pool.ts';

export interface ArtifactUploadRow {
  id: string;
  digest: string;
  bytes: number;
  part_bytes: number;
  media_type: string;
  reference: string | null;
  created_at: Date;
  expires_at: Date;
}

const columns = 'id, digest, bytes, part_bytes, media_type, reference, created_at, expires_at';

export async function insertArtifactUpload(
  tx: Transaction,
  upload: {
    projectId: string;
    id: string;
    digest: string;
    bytes: number;
    partBytes: number;
    mediaType: string;
    reference: string | null;
    liveSeconds: number;
  },
): Promise<ArtifactUploadRow> {
  const rows = await tx.query<ArtifactUploadRow>(
    `insert into finegrain.artifact_uploads (project_id, id, digest, bytes, part_bytes, media_type, reference, expires_at)
     values ($1, $2, $3, $4, $5, $6, $7, clock_timestamp() + make_interval(secs => $8)) returning ${columns}`,
    [
      upload.projectId,
      upload.id,
      upload.digest,
      upload.bytes,
      upload.partBytes,
      upload.mediaType,
      upload.reference,
      upload.liveSeconds,
    ],
  );
  return rows[0]!;
}

/** Undefined when it has expired as well. */
export async function selectArtifactUpload(
  tx: Transaction,
  id: string,
): Promise<ArtifactUploadRow | undefined> {
  return (
    await tx.query<ArtifactUploadRow>(
      `select ${columns} from finegrain.artifact_uploads where id = $1 and expires_at > clock_timestamp()`,
      [id],
    )
  )[0];
}

export async function deleteArtifactUpload(tx: Transaction, id: string): Promise<void> {
  await tx.query('delete from finegrain.artifact_uploads where id = $1', [id]);
}

type Discarded = Pick<ArtifactUploadRow, 'id' | 'reference'>;

/** Of every project: for the role finegrain_system. */
export function expireUploads(tx: Transaction): Promise<Discarded[]> {
  return tx.query<Discarded>(
    'delete from finegrain.artifact_uploads where expires_at <= clock_timestamp() returning id, reference',
  );
}

/** As above. */
export async function liveUploads(tx: Transaction): Promise<string[]> {
  return (await tx.query<{ id: string }>('select id from finegrain.artifact_uploads')).map(({ id }) => id);
}
