// Statements on projects and API keys.
import type { Transaction } from './pool.ts';

export type KeyState = 'active' | 'expired' | 'revoked';

export interface KeyRow {
  id: string;
  name: string;
  scopes: string[];
  created_at: Date;
  expires_at: Date | null;
  revoked_at: Date | null;
  last_used_at: Date | null;
  rotated_from: string | null;
  rotated_to: string | null;
  state: KeyState;
}

export interface ProjectRow {
  id: string;
  name: string;
  created_at: Date;
}

const keyColumns = `k.id, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at, k.last_used_at, k.rotated_from,
  (select s.id from finegrain.api_keys s where s.project_id = k.project_id and s.rotated_from = k.id) as rotated_to,
  finegrain.key_state(k.revoked_at, k.expires_at) as state`;

export interface AuthenticatedKey {
  project_id: string;
  key_id: string;
  scopes: string[];
  state: KeyState;
  ended_at: Date | null;
}

/** The key of a hash, an ended one too; notes its use, at most once a minute. */
export async function authenticateKey(
  tx: Transaction,
  keySha256: Buffer,
): Promise<AuthenticatedKey | undefined> {
  return (
    await tx.query<AuthenticatedKey>(
      'select project_id, key_id, scopes, state, ended_at from finegrain.authenticate($1)',
      [keySha256],
    )
  )[0];
}

/** Inserts nothing when it would have expired already. @throws DatabaseError 23503 when there is no such project */
export async function insertKey(
  tx: Transaction,
  key: {
    projectId: string;
    id: string;
    name: string;
    keySha256: Buffer;
    scopes: string[];
    expiresAt: Date | null;
  },
): Promise<KeyRow | undefined> {
  const rows = await tx.query<KeyRow>(
    `insert into finegrain.api_keys as k (project_id, id, name, key_sha256, scopes, expires_at)
     select $1::uuid, $2::uuid, $3, $4::bytea, $5::text[], $6::timestamptz
     where $6::timestamptz is null or $6::timestamptz > clock_timestamp()
     returning ${keyColumns}`,
    [key.projectId, key.id, key.name, key.keySha256, key.scopes, key.expiresAt],
  );
  return rows[0];
}

/** A key like another, for as long a life as that one had at its start. @throws DatabaseError 23505 for a second one */
export async function insertSuccessor(
  tx: Transaction,
  key: { id: string; rotatedFrom: string; keySha256: Buffer },
): Promise<KeyRow> {
  const rows = await tx.query<KeyRow>(
    `insert into finegrain.api_keys as k (project_id, id, name, key_sha256, scopes, rotated_from, expires_at)
     select o.project_id, $1::uuid, o.name, $3::bytea, o.scopes, o.id,
       clock_timestamp() + make_interval(secs => extract(epoch from o.expires_at - o.created_at)::double precision)
     from finegrain.api_keys o where o.id = $2
     returning ${keyColumns}`,
    [key.id, key.rotatedFrom, key.keySha256],
  );
  return rows[0]!;
}

/** Ends a key so many seconds from now, unless it ends earlier; answers when. */
export async function expireKeyIn(tx: Transaction, id: string, seconds: number): Promise<Date> {
  const rows = await tx.query<{ expires_at: Date }>(
    `update finegrain.api_keys set expires_at = least(expires_at, clock_timestamp() + make_interval(secs => $2))
     where id = $1 returning expires_at`,
    [id, seconds],
  );
  return rows[0]!.expires_at;
}

export async function selectKey(tx: Transaction, id: string): Promise<KeyRow | undefined> {
  const rows = await tx.query<KeyRow>(`select ${keyColumns} from finegrain.api_keys k where k.id = $1`, [id]);
  return rows[0];
}

/** Holds the key against another rotation or a revocation until the transaction ends. */
export async function lockKey(tx: Transaction, id: string): Promise<boolean> {
  return (
    (await tx.query('select id from finegrain.api_keys where id = $1 for no key update', [id])).length > 0
  );
}

export function selectKeys(
  tx: Transaction,
  page: { after: string | null; limit: number },
): Promise<KeyRow[]> {
  return tx.query<KeyRow>(
    `select ${keyColumns} from finegrain.api_keys k where $1::uuid is null or k.id > $1 order by k.id limit $2`,
    [page.after, page.limit],
  );
}

/** False when there was nothing to revoke. */
export async function revokeKey(tx: Transaction, id: string): Promise<boolean> {
  const rows = await tx.query(
    'update finegrain.api_keys set revoked_at = clock_timestamp() where id = $1 and revoked_at is null returning id',
    [id],
  );
  return rows.length > 0;
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

/** The project of this transaction. */
export async function selectOwnProject(tx: Transaction): Promise<ProjectRow> {
  return (await tx.query<ProjectRow>('select id, name, created_at from finegrain.projects'))[0]!;
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
