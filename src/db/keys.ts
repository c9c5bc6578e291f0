// Statements on projects and API keys.
import type { Transaction } from './pool.ts';

export interface KeyRow {
  id: string;
  name: string;
  scopes: string[];
  created_at: Date;
  revoked_at: Date | null;
}

export interface ProjectRow {
  id: string;
  name: string;
  created_at: Date;
}

const keyColumns = 'id, name, scopes, created_at, revoked_at';

export async function authenticateKey(
  tx: Transaction,
  keySha256: Buffer,
): Promise<{ project_id: string; key_id: string; scopes: string[] } | undefined> {
  return (
    await tx.query<{ project_id: string; key_id: string; scopes: string[] }>(
      'select project_id, key_id, scopes from finegrain.authenticate($1)',
      [keySha256],
    )
  )[0];
}

export async function insertKey(
  tx: Transaction,
  key: { projectId: string; id: string; name: string; keySha256: Buffer; scopes: string[] },
): Promise<KeyRow> {
  const rows = await tx.query<KeyRow>(
    `insert into finegrain.api_keys (project_id, id, name, key_sha256, scopes) values ($1, $2, $3, $4, $5) returning ${keyColumns}`,
    [key.projectId, key.id, key.name, key.keySha256, key.scopes],
  );
  return rows[0]!;
}

export function selectKeys(
  tx: Transaction,
  page: { after: string | null; limit: number },
): Promise<KeyRow[]> {
  return tx.query<KeyRow>(
    `select ${keyColumns} from finegrain.api_keys where $1::uuid is null or id > $1 order by id limit $2`,
    [page.after, page.limit],
  );
}

export async function revokeKey(tx: Transaction, id: string): Promise<KeyRow | undefined> {
  const rows = await tx.query<KeyRow>(
    `update finegrain.api_keys set revoked_at = coalesce(revoked_at, now()) where id = $1 returning ${keyColumns}`,
    [id],
  );
  return rows[0];
}

export async function createProject(
  tx: Transaction,
  project: { id: string; name: string; keyId: string; keySha256: Buffer },
): Promise<ProjectRow> {
  const rows = await tx.query<ProjectRow>(
    'select id, name, created_at from finegrain.create_project($1, $2, $3, $4)',
    [project.id, project.name, project.keyId, project.keySha256],
  );
  return rows[0]!;
}

export function selectProjects(
  tx: Transaction,
  page: { after: string | null; limit: number },
): Promise<ProjectRow[]> {
  return tx.query<ProjectRow>('select id, name, created_at from finegrain.list_projects($1, $2)', [
    page.after,
    page.limit,
  ]);
}
