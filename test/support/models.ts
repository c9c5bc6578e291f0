// The model of test/fixtures as a registered model: its files in an artifact store, its row in the database.
import { readdir, readFile } from 'node:fs/promises';
import { Readable } from 'node:stream';
import pg from 'pg';
import { v7 as uuidv7 } from 'uuid';
import { formatId } from '../../src/domain/ids.ts';
import { modelDigest } from '../../src/domain/model-digest.ts';
import { defaultProjectId } from '../../src/services/keys.ts';
import type { ArtifactStore } from '../../src/storage/artifact-store.ts';
import type { StoredModel } from '../../src/storage/model-folder.ts';
import type { TestServer } from './server.ts';

export const tinyModelFolder = new URL('../fixtures/token-reward-tiny/', import.meta.url);

/** What a test changes of the files: another text, or null for a file that is missing. */
export type FileChanges = Record<string, ((text: string) => string) | null>;

export async function storeTinyModel(
  artifacts: ArtifactStore,
  changes: FileChanges = {},
): Promise<StoredModel> {
  const files: StoredModel['files'] = [];
  for (const path of (await readdir(tinyModelFolder)).sort()) {
    const change = changes[path];
    if (change === null) continue;
    const content = await readFile(new URL(path, tinyModelFolder));
    const changed = change ? Buffer.from(change(content.toString())) : content;
    files.push({ path, ...(await artifacts.put(Readable.from([changed]))) });
  }
  return { digest: modelDigest(files), files };
}

export interface RegisterOptions {
  role?: 'policy' | 'token_reward';
  alias?: string;
  changes?: FileChanges;
}

/** Registers the model in the default project, as the end of a run does; answers its id. */
export async function registerTinyModel(
  server: TestServer,
  { role = 'token_reward', alias, changes }: RegisterOptions = {},
): Promise<string> {
  const model = await storeTinyModel(server.services.artifacts, changes);
  const tokenizer = model.files.find(({ path }) => path === 'tokenizer.json');
  const id = uuidv7();
  const client = new pg.Client({ connectionString: server.database.superuserUrl });
  await client.connect();
  try {
    await client.query(
      `insert into finegrain.models (project_id, id, name, role, digest, tokenizer_digest, files, metrics)
       values ($1, $2, 'tiny', $3, $4, $5, $6, '{"pair_accuracy": 0.5}')`,
      [
        defaultProjectId,
        id,
        role,
        model.digest,
        tokenizer?.digest ?? `sha256:${'0'.repeat(64)}`,
        JSON.stringify(model.files),
      ],
    );
    if (alias) {
      await client.query('insert into finegrain.aliases (project_id, name, model_id) values ($1, $2, $3)', [
        defaultProjectId,
        alias,
        id,
      ]);
    }
  } finally {
    await client.end();
  }
  return formatId('model', id);
}
