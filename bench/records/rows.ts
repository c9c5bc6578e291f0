// The rows that bench:pipeline works on, of the second domain; as examples/world/data.ts gives those of the first.
import { createRandom, type Random } from '../../examples/world/random.ts';
import { drawTask, renderPrompt, type Task, writeRecord } from './records.ts';

const carelessness = { careful: [0.1, 0.5], hasty: [0.8, 1.4], any: [0.2, 1.8] } as const;

export function pairRows(seed: number, count: number) {
  return rows(`${seed}/records/pairs`, count, (random, number, task, prompt) => {
    const [response_a, response_b] = random
      .shuffle(['careful', 'hasty'] as const)
      .map((writer) => write(task, random, writer)) as [string, string];
    return { external_id: `record-${number}`, prompt, response_a, response_b };
  });
}

export function demonstrationRows(seed: number, count: number) {
  return rows(`${seed}/records/demonstrations`, count, (random, number, task, prompt) => ({
    id: `demonstration-${number}`,
    prompt,
    response: write(task, random, 'any'),
  }));
}

/** @param purpose names an independent set */
export function promptRows(seed: number, count: number, purpose: string) {
  return rows(`${seed}/records/prompts/${purpose}`, count, (_, number, __, prompt) => ({
    id: `${purpose}-${number}`,
    prompt,
  }));
}

/** What careful writers say to the prompts of the same seed and purpose. */
export function carefulRows(seed: number, count: number, purpose: string) {
  return rows(`${seed}/records/prompts/${purpose}`, count, (random, number, task, prompt) => ({
    id: `${purpose}-${number}`,
    prompt,
    response: write(task, random, 'careful'),
  }));
}

function rows<Row>(
  name: string,
  count: number,
  make: (random: Random, number: string, task: Task, prompt: string) => Row,
): Row[] {
  return Array.from({ length: count }, (_, index) => {
    const random = createRandom(`${name}/${index}`);
    const task = drawTask(random);
    return make(random, String(index + 1).padStart(5, '0'), task, renderPrompt(task));
  });
}

function write(task: Task, random: Random, writer: keyof typeof carelessness): string {
  const [least, most] = carelessness[writer];
  return writeRecord(task, random, least + random.next() * (most - least));
}
