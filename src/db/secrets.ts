// Statements on secrets. Values are sealed before they come here (src/services/sealing.ts).
import type { Transaction } from './pool.ts';

export interface SecretRow {
  name: string;
  created_at: Date;
  updated_at: Date;
}

const columns = 'name, created_at, updated_at';

/** Sets or replaces. */
export async function upsertSecret(
  tx: Transaction,
  secret: { projectId: string; name: string; keyId: string; sealed: Buffer },
): Promise<SecretRow> {
  const rows = await tx.query<SecretRow>(
    `insert into finegrain.secrets (project_id, name, key_id, sealed) values ($1, $2, $3, $4)
     on conflict (project_id, name) do update set key_id = excluded.key_id, sealed = excluded.sealed, updated_at = now()
     returning ${columns}`,
    [secret.projectId, secret.name, secret.keyId, secret.sealed],
  );
  return rows[0]!;
}

/** By name, in the order of its bytes; a project has few. */
export function selectSecrets(tx: Transaction): Promise<SecretRow[]> {
  return tx.query<SecretRow>(`select ${columns} from finegrain.secrets order by name collate "C"`);
}

export interface SealedRow {
  key_id: string;
  sealed: Buffer;
}

/** Names the project itself, because the worker's role sees all of them. */
export async function selectSealedSecret(
  tx: Transaction,
  projectId: string,
  name: string,
): Promise<SealedRow | undefined> {
  return (
    await tx.query<SealedRow>(
      'select key_id, sealed from finegrain.secrets where project_id = $1 and name = $2',
      [projectId, name],
    )
  )[0];
}

export async function deleteSecret(tx: Transaction, name: string): Promise<boolean> {
  return (await tx.query('delete from finegrain.secrets where name = $1 returning name', [name])).length > 0;
}
