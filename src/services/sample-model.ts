// The token reward model that ships in the repository, made by examples/sample-model.ts. Every project reads it, and no
// table has it: it cannot drift from its files, and a new project has it at once. A copy without its folder has none.
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { Type } from 'typebox';
import type { ModelRow } from '../db/models.ts';
import { parseId } from '../domain/ids.ts';
import { Problem } from '../errors.ts';
import { readModelJson } from '../scoring/model-json.ts';
import type { ArtifactStore } from '../storage/artifact-store.ts';

export interface SampleModel {
  row: ModelRow;
  /** Brings its files into the artifact store, where scorers and runners look for them. @throws Problem unavailable */
  store(): Promise<void>;
}

export const shippedSampleFolder = fileURLToPath(
  new URL('../../models/token-reward-sample', import.meta.url),
);

const Registration = Type.Object({
  id: Type.String({ pattern: '^model_[0-9a-f]{32}$' }),
  name: Type.String(),
  role: Type.Literal('token_reward'),
  digest: Type.String(),
  tokenizer_digest: Type.String(),
  files: Type.Array(Type.Object({ path: Type.String(), digest: Type.String(), bytes: Type.Integer() })),
  metrics: Type.Record(Type.String(), Type.Unknown()),
  created_at: Type.String(),
});

/**
 * Reads `model.json` only, so that a start costs nothing; the files follow when they are first needed.
 * @throws ModelRefused when model.json is not what the script writes
 */
export async function openSampleModel(folder: string, artifacts: ArtifactStore): Promise<SampleModel | null> {
  if (!existsSync(join(folder, 'model.json'))) return null;
  const { id, created_at, ...model } = await readModelJson(folder, 'model.json', Registration);
  let stored: Promise<void> | null = null;
  return {
    row: {
      ...model,
      project_id: null,
      id: parseId('model', id)!,
      run_id: null,
      created_at: new Date(created_at),
    },
    store() {
      stored ??= storeFiles(folder, model.files, artifacts).catch((error) => {
        stored = null; // the next one tries again
        throw error;
      });
      return stored;
    },
  };
}

async function storeFiles(folder: string, files: ModelRow['files'], artifacts: ArtifactStore): Promise<void> {
  for (const { path, digest } of files) {
    if (await artifacts.has(digest)) continue;
    const content = await readFile(join(folder, path)).catch(() => null);
    if (content === null || `sha256:${createHash('sha256').update(content).digest('hex')}` !== digest)
      throw new Problem(
        'unavailable',
        `The file ${path} of the shipped sample is not the one that its model.json lists. Restore the folder models/ of this installation, or name another model.`,
      );
    await artifacts.put(Readable.from([content]));
  }
}
