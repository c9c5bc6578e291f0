// Edits in two rounds at the price of one: half of the pairs is edited as ever; of the other half the prompts are answered
// by the policy that was fine-tuned on those edits, and its answers are edited. Rewards and fine-tuning then know the
// mistakes that the policy makes, not only those of the writers of the pairs.
import { edit } from '../../examples/world/annotators.ts';
import { createRandom } from '../../examples/world/random.ts';
import type { SnapshotRow } from '../../src/services/snapshot-content.ts';
import { type Draw, drawOf, editor } from '../loop/draw.ts';
import { ppo } from '../loop/plan.ts';
import { modelOf, type TrainerSteps } from '../loop/trainer-steps.ts';

/** A draw with the same start, prompts and number of edited prompts. An answer that needs no edit has none. */
export async function makeTwoRounds(steps: TrainerSteps, draw: Draw): Promise<Draw> {
  const { seed, pairs } = draw;
  const inFirst = (place: number): boolean => place % 2 === 0;
  const name = `draw ${seed}, round`;
  const first = await drawOf(
    steps,
    seed,
    `${name} 1`,
    pairs.map((row, place) => (inFirst(place) ? row : { ...row, edits: [] })),
  );
  const asked = pairs.filter((_, place) => !inFirst(place));
  const answered = await steps.run('generate', `${name} 2: answers to edit`, {
    seed: seed + 4,
    model: modelOf(first.sftOnEdits),
    data: {
      prompts: await steps.rows(
        `round-${seed}`,
        asked.map(({ key, prompt }) => ({ id: key, prompt })),
      ),
    },
    hyperparameters: { batch_size: 100, max_new_tokens: ppo.max_new_tokens },
  });
  const answers = new Map(
    (await steps.read(answered, 'responses.ndjson')).map(({ id, response }) => [id, response as string]),
  );
  return drawOf(
    steps,
    seed,
    `${name} 2`,
    pairs.map((row, place) => (inFirst(place) ? row : editedAnswer(seed, row, answers.get(row.key)!))),
  );
}

function editedAnswer(seed: number, row: SnapshotRow, answer: string): SnapshotRow {
  const edited_response = edit(row.prompt as string, answer, createRandom(`${seed}/round/${row.key}`));
  return {
    ...row,
    response_a: answer,
    response_b: edited_response,
    preference: null,
    edits: edited_response === answer ? [] : [{ side: 'a', edited_response, editor }],
  };
}
