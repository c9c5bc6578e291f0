// Models that a server elsewhere holds: how the engine gets there, and what is checked when one is registered.
import { selectSealedSecret } from '../db/secrets.ts';
import { Problem } from '../errors.ts';
import { OutgoingError } from '../outgoing/errors.ts';
import type { ServerAccess } from '../scoring/engine.ts';
import { poolingUrl } from '../scoring/http-scorer.ts';
import { ModelRefused } from '../scoring/model-json.ts';
import type { ModelServer } from '../scoring/model-manifest.ts';
import { type Caller, requireScope, type Services } from './context.ts';
import { readKey } from './secrets.ts';

export function modelServerAccess(services: Pick<Services, 'db' | 'secretKeys' | 'outgoing'>): ServerAccess {
  return {
    outgoing: services.outgoing,
    async readKey(projectId, secret) {
      const read = await readKey(services, projectId, secret);
      if ('key' in read) return read.key;
      throw new Problem('unprocessable', `The model cannot be served: ${read.fault}`);
    },
  };
}

/**
 * What can be told without asking the server.
 * @throws ModelRefused; Problem missing_scope, as whoever names a server for a secret could read it there
 */
export async function examineServer(
  { db, outgoing, secretKeys }: Pick<Services, 'db' | 'secretKeys' | 'outgoing'>,
  caller: Caller,
  server: ModelServer,
): Promise<void> {
  try {
    outgoing.check(poolingUrl(server));
  } catch (error) {
    if (!(error instanceof OutgoingError)) throw error;
    throw new ModelRefused(`finegrain.json at /http/base_url: cannot be used. ${error.message}`);
  }
  const { secret } = server;
  if (secret === null) return;
  requireScope(caller, 'admin');
  if (secretKeys === null)
    throw new ModelRefused(
      'finegrain.json at /http/secret: cannot be read, as the operator of this service has set no FINEGRAIN_SECRET_KEY',
    );
  const known = await db.transaction(caller.projectId, (tx) =>
    selectSealedSecret(tx, caller.projectId, secret),
  );
  if (!known)
    throw new ModelRefused(
      `finegrain.json at /http/secret: names no secret of this project; PUT /v1/secrets/${secret} sets it`,
    );
}
