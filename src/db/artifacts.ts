// Statements on the artifacts that a project can see.
import type { Transaction } from './pool.ts';

export interface ArtifactRow {
  digest: string;
  bytes: number;
  media_type: string;
  created_at: Date;
}

/** A digest that is there already keeps its first media type. */
export async function insertArtifact(
  tx: Transaction,
  artifact: { projectId: string; digest: string; bytes: number; mediaType: string },
): Promise<ArtifactRow> {
  await tx.query(
    'insert into finegrain.artifacts (project_id, digest, bytes, media_type) values ($1, $2, $3, $4) on conflict do nothing',
    [artifact.projectId, artifact.digest, artifact.bytes, artifact.mediaType],
  );
  return (await selectArtifact(tx, artifact.digest))!;
}

export async function selectArtifact(tx: Transaction, digest: string): Promise<ArtifactRow | undefined> {
  return (
    await tx.query<ArtifactRow>(
      'select digest, bytes, media_type, created_at from finegrain.artifacts where digest = $1',
      [digest],
    )
  )[0];
}

/** Those of the digests that the project can see, in any order. */
export function selectArtifacts(tx: Transaction, digests: string[]): Promise<ArtifactRow[]> {
  return tx.query<ArtifactRow>(
    'select digest, bytes, media_type, created_at from finegrain.artifacts where digest = any ($1)',
    [digests],
  );
}
