// What one must know to speak to a model: finegrain.json, or for any other Hugging Face folder its config.json.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Static, Type } from 'typebox';
import type { PromptFormat } from '../domain/prompt-format.ts';
import { isModelFilePath } from '../storage/model-folder.ts';
import { ModelRefused, readModelJson } from './model-json.ts';
import type { RewardGraphFile } from './reward-graph.ts';

const TokenId = Type.Integer({ minimum: 0 });
const Count = Type.Integer({ minimum: 1, maximum: 2 ** 16 });
const RoleFormat = Type.Object({ prefix: Type.Array(TokenId), suffix: Type.Array(TokenId) });

const Finegrain = Type.Object({
  format: Type.Literal(1),
  role: Type.Enum(['policy', 'token_reward', 'sequence_reward']),
  vocab_size: Type.Integer({ minimum: 1 }),
  context_length: Type.Integer({ minimum: 1 }),
  eos_token_id: TokenId,
  prompt_format: Type.Object({
    bos: Type.Array(TokenId),
    roles: Type.Object({ system: RoleFormat, user: RoleFormat, assistant: RoleFormat }),
    generation_prefix: Type.Array(TokenId),
  }),
  /** of token rewards: what is made of the head's numbers, where that is done here */
  reward: Type.Optional(
    Type.Object({
      loss: Type.String(),
      clip: Type.Optional(Type.Number()),
      heads: Type.Optional(Type.Integer({ minimum: 1 })),
    }),
  ),
  http: Type.Optional(
    Type.Object({
      base_url: Type.String({ minLength: 1, maxLength: 2000 }),
      model: Type.String({ minLength: 1, maxLength: 200 }),
      /** of the project, by name */
      secret: Type.Optional(Type.String({ minLength: 1, maxLength: 200 })),
      gives: Type.Enum(['logits', 'rewards']),
    }),
  ),
  onnx: Type.Optional(
    Type.Object({
      file: Type.String(),
      input: Type.String(),
      output: Type.String(),
      past: Type.Optional(Type.Object({ layers: Count, key_value_heads: Count, head_size: Count })),
      /** the same with products of integers; a file that is null: tried, and not good enough */
      int8: Type.Optional(Type.Object({ file: Type.Union([Type.String(), Type.Null()]) })),
    }),
  ),
});

const Length = Type.Integer({ minimum: 1 });
const HuggingFace = Type.Object({
  max_position_embeddings: Type.Optional(Length),
  n_positions: Type.Optional(Length), // GPT-2 and its kin
  bos_token_id: Type.Optional(Type.Union([TokenId, Type.Null()])),
  eos_token_id: Type.Union([TokenId, Type.Array(TokenId, { minItems: 1 })]),
});

export interface ModelManifest {
  /** as finegrain.json says; null without it */
  role: 'policy' | 'token_reward' | 'sequence_reward' | null;
  /** prompt and response together, in tokens */
  contextLength: number;
  eosTokenId: number;
  /** `plain`: BOS if the model has one, and an empty line after each message */
  promptFormat: PromptFormat | { plain: { bos: number[] } };
  /** the graphs that give token rewards, their files within the folder; none for models that cannot score */
  graphs: Partial<Record<Precision, RewardGraphFile>>;
  /** that gives token rewards in the place of graphs */
  server: ModelServer | null;
}

/** Where a model is served that is not held here. */
export interface ModelServer {
  baseUrl: string;
  /** as the server calls it */
  model: string;
  /** the secret of the project with the server's key */
  secret: string | null;
  /** its numbers are logits z, and rewards log(1 - sigmoid(z)), not below this; null: its numbers are the rewards */
  clip: number | null;
}

/** `int8`: faster, of nearly the same rewards; for models whose trainer found that it ranks tokens as `fp32` does. */
export const precisions = ['fp32', 'int8'] as const;
export type Precision = (typeof precisions)[number];

/** @throws ModelRefused */
export async function readModelManifest(folder: string): Promise<ModelManifest> {
  if (!existsSync(join(folder, 'finegrain.json'))) return fromHuggingFace(folder);
  const card = await readModelJson(folder, 'finegrain.json', Finegrain);
  const { role, context_length, eos_token_id, prompt_format, onnx, http } = card;
  if (onnx && http) throw new ModelRefused('finegrain.json has both onnx and http: a model has one of them');
  const graphs = onnx ? graphsOf(onnx) : {};
  for (const [precision, { file }] of Object.entries(graphs)) {
    const pointer = precision === 'fp32' ? '/onnx/file' : '/onnx/int8/file';
    if (!isModelFilePath(file))
      throw new ModelRefused(`finegrain.json at ${pointer}: is not a file of the folder`);
  }
  return {
    role,
    contextLength: context_length,
    eosTokenId: eos_token_id,
    promptFormat: prompt_format,
    graphs,
    server: http ? serverOf(http, card.reward) : null,
  };
}

function graphsOf({ int8, ...fp32 }: NonNullable<Static<typeof Finegrain>['onnx']>): ModelManifest['graphs'] {
  return { fp32, ...(int8?.file && { int8: { ...fp32, file: int8.file } }) };
}

/** @throws ModelRefused */
function serverOf(
  { base_url, model, secret, gives }: NonNullable<Static<typeof Finegrain>['http']>,
  reward: Static<typeof Finegrain>['reward'],
): ModelServer {
  const server: ModelServer = { baseUrl: base_url, model, secret: secret ?? null, clip: null };
  if (gives === 'rewards') return server;
  if (!reward)
    throw new ModelRefused('finegrain.json at /reward: is missing, and says what rewards are made of logits');
  if ((reward.heads ?? 1) > 1)
    throw new ModelRefused(
      'finegrain.json at /http/gives: logits of several heads are not joined here, only rewards are taken',
    );
  if (reward.loss !== 'survival') return server; // trained as rewards
  if (reward.clip === undefined) throw new ModelRefused('finegrain.json at /reward/clip: is missing');
  return { ...server, clip: reward.clip };
}

async function fromHuggingFace(folder: string): Promise<ModelManifest> {
  const config = await readModelJson(folder, 'config.json', HuggingFace);
  const { bos_token_id: bos, eos_token_id: eos } = config;
  const contextLength = config.max_position_embeddings ?? config.n_positions;
  if (contextLength === undefined) throw new ModelRefused('config.json: max_position_embeddings is missing');
  return {
    role: null,
    contextLength,
    eosTokenId: Array.isArray(eos) ? eos[0]! : eos,
    promptFormat: { plain: { bos: bos == null ? [] : [bos] } },
    graphs: {},
    server: null,
  };
}
