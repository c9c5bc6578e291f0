// The bootstrap key: FINEGRAIN_API_KEY, or one made once and kept in the data folder. Several API processes that share a
// database but no folder need the variable.
import { join } from 'node:path';
import type { Config } from './config.ts';
import { readKept } from './kept-file.ts';
import { generateKey } from './services/keys.ts';

export interface BootstrapKey {
  key: string;
  /** what to tell at the start: a key that was made here, but never one that came from the environment */
  announced: string;
}

export async function readBootstrapKey({ apiKey, dataDir }: Config): Promise<BootstrapKey> {
  if (apiKey !== null) return { key: apiKey, announced: 'the one in FINEGRAIN_API_KEY' };
  const file = join(dataDir, 'api-key');
  const key = await readKept(file, generateKey);
  return { key, announced: `${key}   (kept in ${file})` };
}
