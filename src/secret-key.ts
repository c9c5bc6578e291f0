// The key that secrets are encrypted with: FINEGRAIN_SECRET_KEY; with the embedded database, one made once and kept in the
// data folder. Whoever has the database but not this key reads no secret, so the two are backed up apart.
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { type Config, readSecretKey } from './config.ts';
import { readKept } from './kept-file.ts';

/** base64 of 32 bytes; null when there is none, and then no secret can be stored */
export async function findSecretKey({ secretKey, databaseUrl, dataDir }: Config): Promise<Buffer | null> {
  if (secretKey !== null || databaseUrl !== null) return secretKey;
  const file = join(dataDir, 'secret-key');
  return readSecretKey(file, await readKept(file, () => randomBytes(32).toString('base64')));
}
