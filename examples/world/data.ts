// The rows that the demo works on, as the API and the trainer take them. Row i of a seed is the same whatever the
// count, and rows of different purposes never share a random sequence.

import { edit, majority, type Votes, vote } from './annotators.ts';
import { createRandom, type Random } from './random.ts';
import { score } from './scorer.ts';
import { drawSlots, renderPrompt, writeDemonstration } from './world.ts';

export type PairRow = {
  external_id: string;
  prompt: string;
  response_a: string;
  response_b: string;
  preference: 'a' | 'b' | null;
  metadata: { votes: Votes };
};

export type DemonstrationRow = { id: string; prompt: string; response: string };

export type PromptRow = { id: string; prompt: string };

/** An edit as `POST /v1/edits` takes it, but for the id of the pair or of its dataset. */
export type EditRow = {
  pair_external_id: string;
  side: 'a' | 'b';
  edited_response: string;
  editor: { kind: 'program'; name: string };
};

/** How careless writers are: a factor on all error rates, drawn evenly from a range for each response. */
const carelessness = { careful: [0.1, 0.5], hasty: [0.8, 1.4], any: [0.2, 1.8] } as const;

/** An odd number, so that votes never tie. */
const annotatorsPerPair = 5;

/**
 * Pairs of responses, one by a careful and one by a hasty writer in random order, with votes; `preference` is
 * their majority. The labels stay noisy: they agree with the hidden score in 91 % of pairs (equal scores, 8 % of
 * all, count one half), which is the most that a perfect reward model can reach on them.
 */
export function pairRows(seed: number, count: number): PairRow[] {
  return rows(`${seed}/pairs`, count, (random, number) => {
    const slots = drawSlots(random);
    const prompt = renderPrompt(slots);
    const [response_a, response_b] = random
      .shuffle(['careful', 'hasty'] as const)
      .map((writer) => writeDemonstration(slots, random, drawCarelessness(random, writer)).text) as [
      string,
      string,
    ];
    const difference = score(prompt, response_a) - score(prompt, response_b);
    const votes = vote(difference, annotatorsPerPair, random);
    return {
      external_id: `pair-${number}`,
      prompt,
      response_a,
      response_b,
      preference: majority(votes),
      metadata: { votes },
    };
  });
}

/** The simulated editor's edit of the less-preferred response; absent if there is none, or nothing to change. */
export function editRow(
  seed: number,
  pair: Pick<PairRow, 'external_id' | 'prompt' | 'response_a' | 'response_b' | 'preference'>,
): EditRow | undefined {
  if (pair.preference === null) return undefined;
  const side = pair.preference === 'a' ? 'b' : 'a';
  const response = side === 'a' ? pair.response_a : pair.response_b;
  const edited_response = edit(pair.prompt, response, createRandom(`${seed}/edits/${pair.external_id}`));
  if (edited_response === response) return undefined;
  const editor = { kind: 'program', name: 'demo-world' } as const;
  return { pair_external_id: pair.external_id, side, edited_response, editor };
}

/** Demonstrations to learn the task from, by writers of all kinds. */
export function demonstrationRows(seed: number, count: number): DemonstrationRow[] {
  return rows(`${seed}/demonstrations`, count, (random, number) => {
    const slots = drawSlots(random);
    const { text } = writeDemonstration(slots, random, drawCarelessness(random, 'any'));
    return { id: `demonstration-${number}`, prompt: renderPrompt(slots), response: text };
  });
}

/** Prompts alone; `purpose` names an independent set, such as `training` or `evaluation`. */
export function promptRows(seed: number, count: number, purpose: string): PromptRow[] {
  return rows(`${seed}/prompts/${purpose}`, count, (random, number) => ({
    id: `${purpose}-${number}`,
    prompt: renderPrompt(drawSlots(random)),
  }));
}

/** What careful writers say to the prompts of the same seed and purpose: a yardstick that no policy here learns from. */
export function carefulRows(seed: number, count: number, purpose: string): DemonstrationRow[] {
  return rows(`${seed}/prompts/${purpose}`, count, (random, number) => {
    const slots = drawSlots(random);
    const { text } = writeDemonstration(slots, random, drawCarelessness(random, 'careful'));
    return { id: `${purpose}-${number}`, prompt: renderPrompt(slots), response: text };
  });
}

function rows<Row>(name: string, count: number, make: (random: Random, number: string) => Row): Row[] {
  return Array.from({ length: count }, (_, index) =>
    make(createRandom(`${name}/${index}`), String(index + 1).padStart(5, '0')),
  );
}

function drawCarelessness(random: Random, writer: keyof typeof carelessness): number {
  const [least, most] = carelessness[writer];
  return least + random.next() * (most - least);
}
