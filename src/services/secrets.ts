// Secrets of a project, such as the keys of its LLM endpoints: written here, used by the service, never shown again.
import type { Transaction } from '../db/pool.ts';
import * as db from '../db/secrets.ts';
import { notFound } from '../errors.ts';
import { recordAct } from './audit.ts';
import type { Caller, Services } from './context.ts';
import { seal, UnreadableSecret, unseal } from './sealing.ts';

export interface Secret {
  name: string;
  created_at: string;
  updated_at: string;
}

const render = (row: db.SecretRow): Secret => ({
  name: row.name,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
});

/** Sets or replaces. @throws Problem unprocessable when the operator gave no key to encrypt with */
export function putSecret(
  { db: database, secretKeys }: Services,
  caller: Caller,
  name: string,
  value: string,
): Promise<Secret> {
  const { projectId } = caller;
  const { keyId, bytes } = seal(secretKeys, { projectId, name }, value);
  return database.transaction(projectId, async (tx) => {
    const row = await db.upsertSecret(tx, { projectId, name, keyId, sealed: bytes });
    await recordAct(tx, caller, { action: 'secret.set', subject: name, detail: {} });
    return render(row);
  });
}

export function listSecrets({ db: database }: Services, caller: Caller): Promise<{ items: Secret[] }> {
  return database.transaction(caller.projectId, async (tx) => ({
    items: (await db.selectSecrets(tx)).map(render),
  }));
}

/** @throws Problem not_found */
export function deleteSecret({ db: database }: Services, caller: Caller, name: string): Promise<void> {
  return database.transaction(caller.projectId, async (tx) => {
    if (!(await db.deleteSecret(tx, name))) throw notFound('secret', name);
    await recordAct(tx, caller, { action: 'secret.removed', subject: name, detail: {} });
  });
}

/**
 * The value, for the service's own calls: it goes into no answer, log, event or error. undefined when the project has no
 * such secret. @throws UnreadableSecret when its key is not configured
 */
export async function readSecret(
  { secretKeys }: Pick<Services, 'secretKeys'>,
  tx: Transaction,
  projectId: string,
  name: string,
): Promise<string | undefined> {
  const row = await db.selectSealedSecret(tx, projectId, name);
  return row && unseal(secretKeys, { projectId, name }, { keyId: row.key_id, bytes: row.sealed });
}

/** A secret as the key of an Authorization header, or what is wrong with it. */
export async function readKey(
  services: Pick<Services, 'db' | 'secretKeys'>,
  projectId: string,
  name: string,
): Promise<{ key: string } | { fault: string }> {
  try {
    const key = await services.db.transaction(projectId, (tx) => readSecret(services, tx, projectId, name));
    if (key === undefined)
      return { fault: `There is no secret "${name}" any more: PUT /v1/secrets/${name} sets it.` };
    if (!/^[\x21-\x7e]+$/.test(key))
      return {
        fault: `The secret "${name}" holds something that no header can carry, a space or a line break perhaps: set it again.`,
      };
    return { key };
  } catch (error) {
    if (!(error instanceof UnreadableSecret)) throw error;
    return {
      fault: `The secret "${name}" was encrypted with a key that this service does not have: set it again.`,
    };
  }
}
