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

/** What a test changes of the files: other content, or null for a file that is missing. */
export type FileChanges = Record<string, ((text: string, bytes: Buffer) => string | Buffer) | null>;

export async function storeTinyModel(
  artifacts: ArtifactStore,
  changes: FileChanges = {},
): Promise<StoredModel> {
  const files: StoredModel['files'] = [];
  for (const path of (await readdir(tinyModelFolder)).sort()) {
    const change = changes[path];
    if (change === null) continue;
    const content = await readFile(new URL(path, tinyModelFolder));
    const changed = change ? change(content.toString(), content) : content;
    files.push({ path, ...(await artifacts.put(Readable.from([Buffer.from(changed)]))) });
  }
  return { digest: modelDigest(files), files };
}

export interface RegisterOptions {
  role?: 'policy' | 'token_reward' | 'sequence_reward';
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

/** The model with NaN in the embedding of one token, that of `text`, which its golden items do not have. */
export async function tinyModelWithNaN(): Promise<{ changes: FileChanges; tokenId: number; text: string }> {
  const [weights, golden, tokenizer] = await Promise.all(
    ['model.safetensors', 'golden.json', 'tokenizer.json'].map((name) =>
      readFile(new URL(name, tinyModelFolder)),
    ),
  );
  const used = new Set(
    JSON.parse(golden!.toString()).items.flatMap((item: Record<string, number[]>) => [
      ...item.prompt_token_ids!,
      ...item.token_ids!,
    ]),
  );
  const vocabulary: Record<string, number> = JSON.parse(tokenizer!.toString()).model.vocab;
  const [text, tokenId] = Object.entries(vocabulary).find(
    ([token, id]) => /^[A-Z]$/.test(token) && !used.has(id),
  )!;
  // safetensors: length of the header, header, tensors
  const headerLength = Number(weights!.readBigUInt64LE(0));
  const header = JSON.parse(weights!.toString('utf8', 8, 8 + headerLength));
  const { shape, data_offsets } = header['model.embed_tokens.weight'];
  const rowBytes = 4 * shape[1];
  const start = 8 + headerLength + data_offsets[0] + tokenId * rowBytes;
  const poison = (_text: string, graph: Buffer): Buffer => {
    const poisoned = Buffer.from(graph);
    poisoned.writeFloatLE(Number.NaN, graph.indexOf(weights!.subarray(start, start + rowBytes)));
    return poisoned;
  };
  return { changes: { 'reward.onnx': poison }, tokenId, text };
}
