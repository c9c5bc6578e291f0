// What the pipelines are, which settings each may choose from, and in which order they are run. Sizes, starting policy and
// reward models are those of bench:loop.
import { fullRecipe } from '../../examples/recipe.ts';
import { sftOnEdits } from '../loop/plan.ts';

export const tuningDraw = 200;
export const reportedDraws = [202, 203, 204, 205, 206];

/** The best of the fine-grained recipes, which every arm is compared with; where it was not run, the next. */
export const candidates = ['SFT, DPO, fine-grained PPO, 160 steps', 'SFT, DPO, fine-grained PPO'] as const;
/** Where fine-grained rewards are to gain ten points: over sequence rewards from the same start and for as long, and over the usual way. */
export const rivalries: [ours: string, theirs: string][] = [
  ['SFT, fine-grained PPO, 160 steps', 'SFT, sequence PPO, 160 steps'],
  ['SFT, fine-grained PPO', 'SFT, sequence PPO'],
  [candidates[0], 'SFT, DPO, sequence PPO, 160 steps'],
  ['SFT, DPO, fine-grained PPO', 'SFT, DPO, sequence PPO'],
  [candidates[0], 'SFT, sequence PPO, 160 steps'],
];

export const evaluateEvery = 10;

/** Reward models and PPO as bench:loop tuned them, nine trials for each. */
export const rewardSettings = {
  survival: fullRecipe.fineGrained.reward,
  seq_edits: fullRecipe.sequence.reward,
} as const;
export type Loss = keyof typeof rewardSettings;
export const ppoSettings: Record<Loss, object> = {
  survival: fullRecipe.fineGrained.ppo,
  seq_edits: fullRecipe.sequence.ppo,
};

/** How PPO may be changed: the same trials with either reward model, on the tuning draw. */
export const ppoVariants = {
  '160 steps': { steps: 160 },
  'leave-one-out': {
    advantage: 'leave_one_out',
    samples_per_prompt: 4,
    critic: 'shared',
    learning_rate: 5e-4,
  },
  'adaptive KL': { kl_target: 3 },
  'length-neutral zero': { mu: 'slope' },
} as const;
export const tuningBeta = 0.1;

/** As many trials of DPO, from either start. */
export const dpoTrials = [
  { beta: 0.1, learning_rate: 5e-4, nll_weight: 0 },
  { beta: 0.1, learning_rate: 1e-4, nll_weight: 0 },
  { beta: 0.1, learning_rate: 5e-4, nll_weight: 1 },
  { beta: 0.1, learning_rate: 5e-4, nll_weight: 4 },
  { beta: 0.3, learning_rate: 5e-4, nll_weight: 1 },
  { beta: 0.1, learning_rate: 1e-3, nll_weight: 1 },
];

/** Fine-tuning on the edits for longer than the four epochs of bench:loop. */
export const longSft = { ...sftOnEdits, epochs: 8 };

/** Values of n of best-of-n. */
export const bestOf = [4, 16] as const;

/** DPO as the trials set it (of two that were about equal both), from either start; PPO goes on from the first. */
export const dpoSettings = {
  edits: [
    { beta: 0.1, learning_rate: 5e-4, nll_weight: 1 },
    { beta: 0.1, learning_rate: 1e-3, nll_weight: 1 },
  ],
  start: [{ beta: 0.1, learning_rate: 1e-3, nll_weight: 1 }],
} as const;
