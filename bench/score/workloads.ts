// What is scored: texts of so many tokens, cut at random from a corpus; no text comes twice, as prompts that do are kept.

import type { Tokenizer } from 'tokenizers';
import { createRandom } from '../../examples/world/random.ts';
import type { ScoreItem } from '../../src/services/scoring.ts';

export interface Workloads {
  /** 60 + 60 tokens */
  short: ScoreItem[];
  /** 20 to 512 tokens, half of them the prompt's */
  mixed: ScoreItem[];
  /** 16 responses of 60 tokens to a prompt of 300 */
  bestOf: ScoreItem[][];
}

export type Draw = () => Promise<Workloads>;

/**
 * @param share of the usual number of requests and items, for a model that takes longer
 * @returns what gives other texts each time, in the same order on every machine
 */
export async function openTexts(tokenizer: Tokenizer, corpus: string, share = 1): Promise<Draw> {
  const ids = (await tokenizer.encode(corpus, null, { addSpecialTokens: false })).getIds();
  const random = createRandom('bench/score');
  const between = (low: number, high: number): number => low + random.integer(high - low + 1);
  const text = (tokens: number): Promise<string> => {
    const start = between(0, ids.length - tokens - 1);
    return tokenizer.decode(ids.slice(start, start + tokens), false);
  };
  const item = async (prompt: number, response: number): Promise<ScoreItem> => ({
    prompt: await text(prompt),
    response: await text(response),
  });
  const times = <T>(count: number, make: () => Promise<T>): Promise<T[]> =>
    Promise.all(Array.from({ length: count }, make));
  return async () => ({
    short: await times(64 * share, () => item(60, 60)),
    mixed: await times(256 * share, () => {
      const tokens = between(20, 512);
      const prompt = Math.max(5, tokens >> 1);
      return item(prompt, tokens - prompt);
    }),
    bestOf: await times(Math.ceil(2 * share), async () => {
      const prompt = await text(300);
      const responses = await times(16, () => text(60));
      return responses.map((response) => ({ prompt, response }));
    }),
  });
}
