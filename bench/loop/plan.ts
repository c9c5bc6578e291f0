// What the benchmark compares and how much it spends: decided before the first reported draw was made, and equal for
// every arm. Sizes and sft hyperparameters are the demo's (examples/recipe.ts).
import { fullRecipe } from '../../examples/recipe.ts';
import type { Yardstick } from './frontier.ts';

/** A draw makes everything new: demonstrations, pairs, edits, prompts, starting policy, reward models, PPO's noise. */
export const reportedDraws = [202, 203, 204];
/**
 * Tuning sees this draw alone, and nothing of it is reported as a result. (Draw 201 was measured before the reward models'
 * training was tuned: docs/experiments.md.)
 */
export const tuningDraw = 200;

export const sizes = {
  demonstrations: fullRecipe.demonstrations,
  pairs: fullRecipe.pairs,
  /** prompts that checkpoints and β are chosen on */
  validationPrompts: 250,
  /** prompts that are reported on */
  testPrompts: 400,
};

export const sft = fullRecipe.sft;
/** Fine-tuning on the edited responses. */
export const sftOnEdits = fullRecipe.sftOnEdits.hyperparameters;

export const ppo: Record<string, number | string> = { ...fullRecipe.ppo.hyperparameters, steps: 40 };
export const evaluateEvery = 4;

export const arms = ['fine-grained', 'sequence'] as const;
export type Arm = (typeof arms)[number];
/** Which reward model an arm is paid by. */
export const lossOf = { 'fine-grained': 'survival', sequence: 'seq_edits' } as const satisfies Record<
  Arm,
  string
>;

/** What is tuned for each arm: PPO, and how its reward model is trained. */
export interface Settings {
  ppo: { critic: string; learning_rate: number };
  reward: { epochs: number; batch_size: number; learning_rate: number };
}

/** From the fine-tuned policy of the tuning draw, for each arm: six trials of PPO with the first of the reward settings … */
export const ppoGrid: Settings['ppo'][] = ['shared', 'separate'].flatMap((critic) =>
  [2.5e-4, 5e-4, 1e-3].map((learning_rate) => ({ critic, learning_rate })),
);
/** … and then one with each of the others. */
export const rewardGrid: Settings['reward'][] = [3, 6].flatMap((epochs) =>
  [1.5e-3, 3e-3].map((learning_rate) => ({ epochs, batch_size: 8, learning_rate })),
);
export const tuningBeta = 0.1;

/** Starting points of PPO, with the price of KL that makes the frontier of each arm. */
export const starts = {
  'SFT on edits': [0.05, 0.1, 0.2, 0.4],
  'starting policy': [0.1, 0.2],
} as const;
export type Start = keyof typeof starts;

/**
 * What arms are compared by: a yardstick that is neither near 0 nor near 1 there. The starting policy wins seldom over
 * careful writers, and a policy that was fine-tuned on the edits nearly always over the starting policy.
 */
export const yardstickOf = {
  'SFT on edits': 'overCareful',
  'starting policy': 'overStart',
} as const satisfies Record<Start, Yardstick>;
