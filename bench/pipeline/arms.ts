// The pipelines that are compared: from the same demonstrations and the same number of edits to a policy. A run of an arm is one
// way to set it; those that differ in β (or in n) make its KL frontier.
import type { Draw, Scenario } from '../loop/draw.ts';
import { modelOf, type Step, type TrainerSteps } from '../loop/trainer-steps.ts';
import { bestOfN } from './best-of-n.ts';
import { bestOf, dpoSettings, evaluateEvery, type Loss, ppoSettings, rewardSettings } from './plan.ts';
import { makeTwoRounds } from './rounds.ts';
import type { Run } from './stored.ts';

export interface Workplace {
  steps: TrainerSteps;
  scenario: Scenario;
  draw: Draw;
}

/** A pipeline with its settings. */
export type Pipeline = (place: Workplace) => Promise<Run>;

/** What a run starts from: the starting policy, what fine-tuning on the edits made of it, or what DPO made of that. */
export type Start = 'start' | 'edits' | 'dpo';

async function policyOf(place: Workplace, from: Start): Promise<Step> {
  const { draw } = place;
  if (from === 'dpo') return trainDpo(place, 'edits', dpoSettings.edits[0]);
  return from === 'edits' ? draw.sftOnEdits : draw.start;
}

export const rewardModelOf = (draw: Draw, loss: Loss): Promise<Step> =>
  draw.rewardModel(loss, rewardSettings[loss]);

export const ppoRun =
  (from: Start, loss: Loss, changes: object): Pipeline =>
  async (place) => {
    const { draw } = place;
    const hyperparameters = { ...ppoSettings[loss], ...changes };
    const rewardModel = rewardModelOf(draw, loss);
    const curve = await draw.ppo(await policyOf(place, from), rewardModel, hyperparameters, evaluateEvery);
    return { settings: changes, curve };
  };

async function trainDpo(
  place: Workplace,
  from: Start,
  hyperparameters: object,
  pairs = 'edits',
): Promise<Step> {
  const { steps, draw } = place;
  return steps.run(
    'dpo',
    `draw ${draw.seed}: DPO on ${pairs} from ${from} ${JSON.stringify(hyperparameters)}`,
    {
      seed: draw.seed + 3,
      policy: modelOf(await policyOf(place, from)),
      pairs,
      data: { labels: draw.labels },
      hyperparameters,
    },
  );
}

/** DPO on (y^e, y^l), or on the preferences; the first checkpoint is the policy that it starts from. */
export const dpoRun =
  (from: Start, hyperparameters: object, pairs?: 'edits' | 'preferences'): Pipeline =>
  async (place) => {
    const before = await place.draw.evaluate(`${from} as it is`, await policyOf(place, from));
    const trained = await trainDpo(place, from, hyperparameters, pairs);
    const after = await place.draw.evaluate('after DPO', trained);
    return { settings: hyperparameters, curve: [...before, ...after.map((one) => ({ ...one, step: 1 }))] };
  };

/** Fine-tuning on the edits anew, with other hyperparameters. */
export const sftRun =
  (hyperparameters: object): Pipeline =>
  async ({ steps, draw }) => {
    const trained = await steps.run(
      'sft',
      `draw ${draw.seed}: SFT on edits ${JSON.stringify(hyperparameters)}`,
      {
        seed: draw.seed + 1,
        base_model: modelOf(draw.start),
        data: { examples: draw.editedResponses },
        hyperparameters,
      },
    );
    return { settings: hyperparameters, curve: await draw.evaluate('longer SFT on edits', trained) };
  };

/** A curve over n, from a single response on. */
export const bestOfRun =
  (loss: Loss): Pipeline =>
  async ({ steps, draw }) => {
    const model = await rewardModelOf(draw, loss);
    const best = await bestOfN(steps, draw, draw.sftOnEdits, model, [1, ...bestOf]);
    return { settings: { n: bestOf }, curve: best.map((checkpoint, step) => ({ ...checkpoint, step })) };
  };

/** Without further training. */
export const policyRun =
  (from: Start): Pipeline =>
  async (place) => {
    const curve = await place.draw.evaluate(`${from} as it is`, await policyOf(place, from));
    return { settings: {}, curve };
  };

const twoRounds = new Map<number, Promise<Draw>>();

/** The same run where the edits are made in two rounds (rounds.ts). */
export const inTwoRounds =
  (run: Pipeline): Pipeline =>
  async ({ steps, scenario, draw }) => {
    const made = twoRounds.get(draw.seed) ?? makeTwoRounds(steps, draw);
    twoRounds.set(draw.seed, made);
    return run({ steps, scenario, draw: await made });
  };
