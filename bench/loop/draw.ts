// One draw of the demo world: its data, its starting policy, its reward models, and its PPO runs with what a judge says
// of their checkpoints. A scenario changes what the annotators do or what the hidden score is (controls.ts).
import { edit, judgeScores, majority, vote } from '../../examples/world/annotators.ts';
import type { DemonstrationRow, PairRow, PromptRow } from '../../examples/world/data.ts';
import * as letters from '../../examples/world/data.ts';
import { createRandom } from '../../examples/world/random.ts';
import { score as hiddenScore } from '../../examples/world/scorer.ts';
import { loadModelTokenizer } from '../../src/scoring/tokenizer.ts';
import { type LabelRow, labelRows } from '../../src/services/label-rows.ts';
import { type SnapshotRow, splitOf } from '../../src/services/snapshot-content.ts';
import { type Checkpoint, type Curve, type PromptSet, promptSets } from './frontier.ts';
import { evaluateEvery, ppo, sft, sftOnEdits, sizes } from './plan.ts';
import { modelOf, type Reference, type Step, type TrainerSteps } from './trainer-steps.ts';

/** Two responses of which one is less preferred, with what an editor goes by. */
export type DrawnPair = Omit<PairRow, 'metadata'>;

/** What people and policies of a domain write; every row is a function of the seed. */
export interface World {
  demonstrationRows(seed: number, count: number): DemonstrationRow[];
  pairRows(seed: number, count: number): Omit<DrawnPair, 'preference'>[];
  /** @param purpose names an independent set */
  promptRows(seed: number, count: number, purpose: string): PromptRow[];
  /** what careful writers say to the same prompts */
  carefulRows(seed: number, count: number, purpose: string): DemonstrationRow[];
}

export interface Scenario {
  name: string;
  world: World;
  /** of every model, from scratch */
  shape: object;
  /** what annotators and judge go by; training never sees it */
  score: (prompt: string, response: string) => number;
  /** share of votes that are cast for the other response */
  flipRate: number;
  /** the edit of the less-preferred response; the same text when there is nothing to change */
  edit: (pair: DrawnPair, response: string, seed: number) => string;
  /** what happens to the label rows before training */
  labels?: (rows: LabelRow[], seed: number) => LabelRow[];
}

export const plainScenario: Scenario = {
  name: 'plain',
  world: letters,
  shape: sft.base_model,
  score: hiddenScore,
  flipRate: 0.1,
  edit: (pair, response, seed) =>
    edit(pair.prompt, response, createRandom(`${seed}/edits/${pair.external_id}`)),
};

export interface Draw {
  seed: number;
  start: Step;
  sftOnEdits: Step;
  rewardModel(loss: string, hyperparameters: object): Promise<Step>;
  /** PPO from a policy; its learning curve as the judge sees it, with a checkpoint every so many steps. */
  ppo(policy: Step, rewardModel: Promise<Step>, hyperparameters: object, every?: number): Promise<Curve>;
  /** A policy without further training: a curve of one checkpoint. */
  evaluate(name: string, policy: Step): Promise<Curve>;
  /** What the judge says of a response to each of the evaluation prompts, in their order. */
  judge(step: number, samples: number, responses: EvaluatedResponse[]): Checkpoint;
  /** What the judge compares with on each of them: hidden scores. */
  opponents: { start: number; careful: number }[];
  evaluationPrompts: PromptRow[];
  pairs: SnapshotRow[];
  labels: Reference;
  editedResponses: Reference;
  edits: number;
}

export function makeDraw(
  steps: TrainerSteps,
  seed: number,
  scenario: Scenario = plainScenario,
): Promise<Draw> {
  const name = scenario.name === 'plain' ? `draw ${seed}` : `${scenario.name}, draw ${seed}`;
  return drawOf(steps, seed, name, snapshotOf(seed, scenario), scenario);
}

/** A draw whose pairs and edits are given. */
export async function drawOf(
  steps: TrainerSteps,
  seed: number,
  name: string,
  rows: SnapshotRow[],
  scenario: Scenario = plainScenario,
): Promise<Draw> {
  const file = name.replaceAll(/\W+/g, '-');
  const { world } = scenario;
  const demonstrations = await steps.rows(
    `demonstrations-${seed}`,
    world.demonstrationRows(seed, sizes.demonstrations).map((row) => ({ ...row, split: 'train' })),
  );
  const start = await steps.run('sft', `draw ${seed}: starting policy`, {
    seed,
    base_model: scenario.shape,
    data: { examples: demonstrations },
    hyperparameters: sft.hyperparameters,
  });

  const edits = rows.reduce((count, row) => count + row.edits.length, 0);
  let labelled: LabelRow[] = [];
  for await (const row of labelRows(
    asyncRows(rows),
    await loadModelTokenizer(modelOf(start).path.path),
    'mix',
  ))
    labelled.push(row);
  if (scenario.labels) labelled = scenario.labels(labelled, seed);
  const labels = await steps.rows(`${file}-labels`, labelled);
  const trainingPrompts = await steps.rows(
    `prompts-${seed}`,
    rows.filter(({ split }) => split === 'train').map(({ key, prompt }) => ({ id: key, prompt })),
  );
  const editedResponses = await steps.rows(
    `${file}-edited`,
    rows.flatMap(({ key, prompt, split, edits }) =>
      edits.map(({ edited_response }) => ({ id: key, prompt, response: edited_response, split })),
    ),
  );
  const evaluationPrompts = promptSets.flatMap((set) => world.promptRows(seed, sizes[`${set}Prompts`], set));
  const evaluation = await steps.rows(`evaluation-${seed}`, evaluationPrompts);

  const tuned = await steps.run('sft', `${name}: SFT on edits`, {
    seed: seed + 1,
    base_model: modelOf(start),
    data: { examples: editedResponses },
    hyperparameters: sftOnEdits,
  });
  const sample = (label: string, policy: Step, sampleSeed: number): Promise<Step> =>
    steps.run('generate', `${name}: ${label}`, {
      seed: sampleSeed,
      model: modelOf(policy),
      kl_reference: modelOf(start),
      data: { prompts: evaluation },
      hyperparameters: { batch_size: 100, max_new_tokens: ppo.max_new_tokens },
    });

  // Opponents: another sample of the starting policy, and careful writers.
  const starting = await steps.read(await sample('opponents', start, seed + 2), 'responses.ndjson');
  const careful = promptSets.flatMap((set) => world.carefulRows(seed, sizes[`${set}Prompts`], set));
  const opponents = evaluationPrompts.map(({ prompt }, index) => ({
    start: scenario.score(prompt, starting[index].response),
    careful: scenario.score(prompt, careful[index]!.response),
  }));

  const checkpoint = (step: number, samples: number, responses: EvaluatedResponse[]): Checkpoint => {
    const of = (set: PromptSet) => {
      const first = set === 'validation' ? 0 : sizes.validationPrompts;
      const part = responses.slice(first, first + sizes[`${set}Prompts`]);
      const scores = part.map(({ prompt, response }) => scenario.score(prompt, response));
      return {
        kl: part.map(({ kl }) => kl),
        klToStart: part.map(({ kl, kl_to_reference }) => kl_to_reference ?? kl),
        length: part.map(({ token_ids }) => token_ids.length),
        score: scores,
        overStart: scores.map((score, index) => judgeScores(score, opponents[first + index]!.start)),
        overCareful: scores.map((score, index) => judgeScores(score, opponents[first + index]!.careful)),
      };
    };
    return { step, samples, validation: of('validation'), test: of('test') };
  };

  const rewardModel = (loss: string, hyperparameters: object): Promise<Step> =>
    steps.run('reward', `${name}: ${loss} ${JSON.stringify(hyperparameters)}`, {
      seed,
      base_model: modelOf(start),
      loss,
      data: { labels },
      hyperparameters,
    });

  return {
    seed,
    start,
    sftOnEdits: tuned,
    judge: checkpoint,
    opponents,
    evaluationPrompts,
    pairs: rows,
    labels,
    editedResponses,
    edits,
    rewardModel,
    async ppo(policy, rewarded, hyperparameters, every = evaluateEvery) {
      const rewards = await rewarded;
      const label = `${policy === start ? 'start' : 'SFT'} + ${rewards.result.loss} ${JSON.stringify(hyperparameters)}`;
      const step = await steps.run('ppo', `${name}: ${label}`, {
        seed: seed + 3,
        policy: modelOf(policy),
        reward_model: modelOf(rewards),
        data: { prompts: trainingPrompts },
        evaluation: { prompts: evaluation, every, kl_reference: modelOf(start) },
        hyperparameters: { ...ppo, ...hyperparameters },
      });
      const evaluated: EvaluatedRow[] = await steps.read(step, 'evaluations.ndjson');
      const curve: Curve = [];
      for (let first = 0; first < evaluated.length; first += evaluationPrompts.length) {
        const { step: at, samples } = evaluated[first]!;
        curve.push(checkpoint(at, samples, evaluated.slice(first, first + evaluationPrompts.length)));
      }
      return curve;
    },
    async evaluate(label, policy) {
      const responses = await steps.read(await sample(label, policy, seed + 3), 'responses.ndjson');
      return [checkpoint(0, 0, responses)];
    },
  };
}

export type EvaluatedResponse = {
  prompt: string;
  response: string;
  kl: number;
  kl_to_reference?: number;
  token_ids: number[];
};
type EvaluatedRow = EvaluatedResponse & { step: number; samples: number };

export const editor = { kind: 'program', name: 'demo-world' };

/** The pairs of a seed with their votes and edits, split as a snapshot splits them. */
function snapshotOf(seed: number, { world, score, flipRate, edit }: Scenario): SnapshotRow[] {
  return world.pairRows(seed, sizes.pairs).map((pair): SnapshotRow => {
    const random = createRandom(`${seed}/votes/${pair.external_id}`);
    const votes = vote(
      score(pair.prompt, pair.response_a) - score(pair.prompt, pair.response_b),
      5,
      random,
      flipRate,
    );
    const preference = majority(votes)!; // an odd number of votes
    const side = preference === 'a' ? 'b' : 'a';
    const original = side === 'a' ? pair.response_a : pair.response_b;
    const edited_response = edit({ ...pair, preference }, original, seed);
    return {
      ...pair,
      preference,
      metadata: {},
      key: pair.external_id,
      split: splitOf(pair.prompt, { seed, train: 0.8, validation: 0.05, test: 0.15 }),
      edits: edited_response === original ? [] : [{ side, edited_response, editor }],
    };
  });
}

async function* asyncRows<T>(rows: T[]): AsyncGenerator<T> {
  yield* rows;
}
