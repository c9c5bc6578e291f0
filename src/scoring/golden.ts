// golden.json: what the trainer's own program computed for a few texts. A model that does not give the same here is
// refused, because with other tokens or other rewards every answer would be silently wrong.
import { Type } from 'typebox';
import { messageRoles } from '../domain/prompt-format.ts';
import { ModelRefused, readModelJson } from './model-json.ts';
import type { ModelTokenizer } from './tokenizer.ts';

const TokenIds = Type.Array(Type.Integer({ minimum: 0 }));

const Golden = Type.Object({
  tolerance: Type.Number({ exclusiveMinimum: 0 }),
  items: Type.Array(
    Type.Object({
      prompt: Type.Union([
        Type.String(),
        Type.Array(Type.Object({ role: Type.Enum([...messageRoles]), content: Type.String() })),
      ]),
      response: Type.String(),
      prompt_token_ids: TokenIds,
      /** with EOS at the end */
      token_ids: TokenIds,
      rewards: Type.Array(Type.Number()),
    }),
    { minItems: 1 },
  ),
});

/** @throws ModelRefused when the folder's tokenizer gives other ids than the trainer's */
export async function checkGoldenTokens(folder: string, tokenizer: ModelTokenizer): Promise<void> {
  const { items } = await readModelJson(folder, 'golden.json', Golden);
  for (const [position, item] of items.entries()) {
    const prompt = await tokenizer.encodePrompt(item.prompt);
    const response = [...(await tokenizer.encodeResponse(item.response)).tokenIds, tokenizer.eosTokenId];
    for (const [field, ours, theirs] of [
      ['prompt_token_ids', prompt, item.prompt_token_ids],
      ['token_ids', response, item.token_ids],
    ] as const) {
      if (ours.join() !== theirs.join())
        throw new ModelRefused(
          `golden.json at /items/${position}/${field}: the tokenizer gives other ids here`,
        );
    }
  }
}

/**
 * Scores the golden texts and returns the largest difference.
 * @throws ModelRefused naming it, when it is above the tolerance that golden.json states
 */
export async function checkGoldenRewards(
  folder: string,
  score: (tokenIds: number[], promptLength: number) => Promise<Float32Array>,
): Promise<number> {
  const { items, tolerance } = await readModelJson(folder, 'golden.json', Golden);
  let largest = 0;
  let where = '';
  for (const [position, { prompt_token_ids, token_ids, rewards }] of items.entries()) {
    const pointer = `/items/${position}/rewards`;
    if (rewards.length !== token_ids.length)
      throw new ModelRefused(
        `golden.json at ${pointer}: ${rewards.length} rewards for ${token_ids.length} tokens`,
      );
    const ours = await score([...prompt_token_ids, ...token_ids], prompt_token_ids.length).catch(
      (error: Error) => {
        throw new ModelRefused(`golden.json at ${pointer}: cannot be computed: ${error.message}`);
      },
    );
    for (const [token, reward] of rewards.entries()) {
      const difference = Math.abs(ours[token]! - reward);
      if (difference <= largest) continue;
      largest = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
      where = `${pointer}/${token}: the graph gives ${ours[token]}, the trainer gave ${reward}`;
    }
  }
  if (largest > tolerance) {
    throw new ModelRefused(
      `golden.json at ${where}; the largest difference is ${largest.toPrecision(3)}, the tolerance ${tolerance}`,
    );
  }
  return largest;
}
