// The pipelines that are compared: from the same demonstrations and the same number of edits to a policy. A run of an arm is one
// way to set it; those that differ in β (or in n) make its KL frontier.
import type { Draw, Scenario } from '../loop/draw.ts';
import type { Curve } from '../loop/frontier.ts';
import { modelOf, type Step, type TrainerSteps } from '../loop/trainer-steps.ts';
import { bestOfN } from './best-of-n.ts';
import { bestOf, evaluateEvery, type Loss, ppoSettings, rewardSettings } from './plan.ts';
import { makeTwoRounds } from './rounds.ts';
import type { Run } from './stored.ts';

export interface Workplace {
  steps: TrainerSteps;
  scenario: Scenario;
  draw: Draw;
}

/** A pipeline with its settings. */
export type Pipeline = (place: Workplace) => Promise<Run>;

/** What a run starts from: the starting policy, or what fine-tuning on the edits made of it. */
export type Start = 'start' | 'edits';

const policyOf = (draw: Draw, from: Start): Step => (from === 'edits' ? draw.sftOnEdits : draw.start);

export const rewardModelOf = (draw: Draw, loss: Loss): Promise<Step> =>
  draw.rewardModel(loss, rewardSettings[loss]);

export const ppoRun =
  (from: Start, loss: Loss, changes: object): Pipeline =>
  async ({ draw }) => {
    const hyperparameters = { ...ppoSettings[loss], ...changes };
    const rewardModel = rewardModelOf(draw, loss);
    const curve = await draw.ppo(policyOf(draw, from), rewardModel, hyperparameters, evaluateEvery);
    return { settings: changes, curve };
  };

/** DPO on (y^e, y^l); the first checkpoint is the policy that it starts from. */
export const dpoRun =
  (from: Start, hyperparameters: object): Pipeline =>
  async ({ steps, draw }) => {
    const policy = policyOf(draw, from);
    const label = `DPO from ${from} ${JSON.stringify(hyperparameters)}`;
    const trained = await steps.run('dpo', `draw ${draw.seed}: ${label}`, {
      seed: draw.seed + 3,
      policy: modelOf(policy),
      pairs: 'edits',
      data: { labels: draw.labels },
      hyperparameters,
    });
    const before = await draw.evaluate(`${from} as it is`, policy);
    const after = await draw.evaluate(label, trained);
    return { settings: hyperparameters, curve: [...before, ...after.map((one) => ({ ...one, step: 1 }))] };
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
  async ({ draw }) => {
    const curve: Curve = await draw.evaluate(`${from} as it is`, policyOf(draw, from));
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
