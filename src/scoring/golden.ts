// golden.json: what the trainer's own program computed for a few texts. A model that does not give the same here is
// refused, because with other tokens or other rewards every answer would be silently wrong.
import { type Static, Type } from 'typebox';
import { messageRoles } from '../domain/prompt-format.ts';
import { ModelRefused, readModelJson } from './model-json.ts';
import type { Precision } from './model-manifest.ts';
import type { Sequence, SequenceScore } from './scorer.ts';
import type { ModelTokenizer } from './tokenizer.ts';

const TokenIds = Type.Array(Type.Integer({ minimum: 0 }));
const Message = Type.Object({ role: Type.Enum([...messageRoles]), content: Type.String() });

const Golden = Type.Object({
  tolerance: Type.Number({ exclusiveMinimum: 0 }),
  items: Type.Array(
    Type.Object({
      prompt: Type.Union([Type.String(), Type.Array(Message)]),
      response: Type.String(),
      prompt_token_ids: TokenIds,
      /** with EOS at the end */
      token_ids: TokenIds,
      rewards: Type.Array(Type.Number()),
    }),
    { minItems: 1 },
  ),
  /** what the trainer's machine gave in this mode, item by item */
  int8: Type.Optional(
    Type.Object({
      tolerance: Type.Number({ exclusiveMinimum: 0 }),
      rewards: Type.Array(Type.Array(Type.Number())),
    }),
  ),
});

export type Golden = Static<typeof Golden>;

/** @throws ModelRefused */
export function readGolden(folder: string): Promise<Golden> {
  return readModelJson(folder, 'golden.json', Golden);
}

/** @throws ModelRefused when the tokenizer gives other ids than the trainer's */
export async function checkGoldenTokens({ items }: Golden, tokenizer: ModelTokenizer): Promise<void> {
  for (const [position, { prompt, response, prompt_token_ids, token_ids }] of items.entries()) {
    const promptIds = await tokenizer.encodePrompt(prompt);
    const responseIds = (await tokenizer.encodeResponse(response)).tokenIds;
    for (const [field, ours, theirs] of [
      ['prompt_token_ids', promptIds, prompt_token_ids],
      ['token_ids', [...responseIds, tokenizer.eosTokenId], token_ids],
    ] as const) {
      if (ours.join() !== theirs.join()) {
        throw new ModelRefused(
          `golden.json at /items/${position}/${field}: the tokenizer gives other ids here`,
        );
      }
    }
  }
}

/**
 * Scores the golden texts.
 * @throws ModelRefused naming the largest difference, when it is above the tolerance that golden.json states
 */
export async function checkGoldenRewards(
  { items, int8, ...exact }: Golden,
  precision: Precision,
  score: (sequence: Sequence) => Promise<SequenceScore>,
): Promise<void> {
  if (precision === 'int8' && !int8) throw new ModelRefused('golden.json at /int8: is missing');
  const { tolerance } = precision === 'int8' ? int8! : exact;
  let largest = 0;
  let where = '';
  for (const [position, item] of items.entries()) {
    const { prompt_token_ids, token_ids } = item;
    const [pointer, rewards = []] =
      precision === 'int8'
        ? [`/int8/rewards/${position}`, int8!.rewards[position]]
        : [`/items/${position}/rewards`, item.rewards];
    if (rewards.length !== token_ids.length) {
      throw new ModelRefused(
        `golden.json at ${pointer}: ${rewards.length} rewards for ${token_ids.length} tokens`,
      );
    }
    const ours = await score({ promptIds: prompt_token_ids, responseIds: token_ids });
    if ('error' in ours) throw new ModelRefused(`golden.json at ${pointer}: ${ours.error.detail}`);
    for (const [token, reward] of rewards.entries()) {
      const difference = Math.abs(ours.rewards[token]! - reward);
      if (difference <= largest) continue;
      largest = difference;
      where = `${pointer}/${token}: the model gives ${ours.rewards[token]} here, the trainer gave ${reward}`;
    }
  }
  if (largest > tolerance) {
    throw new ModelRefused(
      `golden.json at ${where}; the largest difference is ${largest.toPrecision(3)}, the tolerance ${tolerance}`,
    );
  }
}
