// The trials on the tuning draw, of which nothing is reported as a result: how each arm is set, and which recipe of
// fine-grained PPO is the candidate. Judged by the best checkpoint on the validation prompts.
import { type Checkpoint, chooseCheckpoint, mean } from '../loop/frontier.ts';
import { yardstickOf } from '../loop/plan.ts';
import { dpoRun, inTwoRounds, type Pipeline, policyRun, ppoRun, sftRun, type Workplace } from './arms.ts';
import { dpoTrials, type Loss, longSft, ppoVariants, tuningBeta } from './plan.ts';

export interface Trial {
  arm: string;
  settings: object;
  /** over careful writers, validation prompts, best checkpoint */
  value: number;
  klToStart: number;
  /** the same of the last checkpoint */
  last: { value: number; klToStart: number };
}

const losses: Loss[] = ['survival', 'seq_edits'];
const nameOf = { survival: 'fine-grained PPO', seq_edits: 'sequence PPO' } as const;
const ppo = (loss: Loss, changes: object) => ppoRun('edits', loss, { beta: tuningBeta, ...changes });

/** In the order of what is wanted soonest. */
const trials: [arm: string, run: Pipeline][] = [
  ['SFT on edits', policyRun('edits')],
  [nameOf.survival, ppo('survival', {})],
  ...dpoTrials.map((trial) => ['DPO from SFT on edits', dpoRun('edits', trial)] as [string, Pipeline]),
  ['SFT on edits, longer', sftRun(longSft)],
  [`DPO, ${nameOf.survival}`, ppoRun('dpo', 'survival', { beta: tuningBeta })],
  ...Object.entries(ppoVariants).map(
    ([variant, changes]) =>
      [`${nameOf.survival}, ${variant}`, ppo('survival', changes)] as [string, Pipeline],
  ),
  [nameOf.seq_edits, ppo('seq_edits', {})],
  [`DPO, ${nameOf.seq_edits}`, ppoRun('dpo', 'seq_edits', { beta: tuningBeta })],
  ...Object.entries(ppoVariants).map(
    ([variant, changes]) =>
      [`${nameOf.seq_edits}, ${variant}`, ppo('seq_edits', changes)] as [string, Pipeline],
  ),
  ...dpoTrials.map((trial) => ['DPO from the starting policy', dpoRun('start', trial)] as [string, Pipeline]),
  ['SFT on edits, two rounds', inTwoRounds(policyRun('edits'))],
  ...losses.map((loss) => [`${nameOf[loss]}, two rounds`, inTwoRounds(ppo(loss, {}))] as [string, Pipeline]),
];

const yardstick = yardstickOf['SFT on edits'];

export async function tune(place: Workplace, add: (trial: Trial) => Promise<void>): Promise<void> {
  for (const [arm, run] of trials) {
    const { settings, curve } = await run(place);
    const { at } = chooseCheckpoint([curve], yardstick);
    const figures = ({ validation }: Checkpoint) => ({
      value: mean(validation[yardstick]),
      klToStart: mean(validation.klToStart),
    });
    await add({ arm, settings, ...figures(curve[at]!), last: figures(curve.at(-1)!) });
  }
}
