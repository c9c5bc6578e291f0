// How large the demo is and how it trains: sizes of the world and hyperparameters of each run, tuned by hand.
// What was tried, and the figures per seed: docs/experiments.md. Keys of `hyperparameters` are the trainer's own;
// what is not named here is the trainer's default.

export type Recipe = {
  /** Pairs to import; the simulated editor edits the less-preferred response of each. */
  pairs: number;
  /** Demonstrations that the starting policy learns from. */
  demonstrations: number;
  /** Prompts that the starting and the trained policy are compared on. */
  evaluationPrompts: number;
  /** Shares of the snapshot's prompts. The gate reads the test split. */
  split: { train: number; validation: number; test: number };
  sft: { base_model: { scratch: ScratchModel }; hyperparameters: Hyperparameters };
  sftOnEdits: { hyperparameters: Hyperparameters };
  dpo: { hyperparameters: Hyperparameters };
  /** of every arm */
  ppo: { hyperparameters: Hyperparameters };
  /** what each arm was tuned to, with as many trials (bench/RESULTS.md) */
  fineGrained: { reward: Hyperparameters; ppo: Hyperparameters };
  sequence: { reward: Hyperparameters; ppo: Hyperparameters };
  generate: { hyperparameters: Hyperparameters };
  /** What this recipe does less of than the full one; empty for the full one. */
  leavesOut: string;
};

type ScratchModel = {
  hidden_size: number;
  num_layers: number;
  num_heads: number;
  vocab_size: number;
  context_length: number;
};

type Hyperparameters = Record<string, number | string>;

export const fullRecipe: Recipe = {
  pairs: 4000,
  demonstrations: 6000,
  evaluationPrompts: 300,
  split: { train: 0.8, validation: 0.05, test: 0.15 },
  sft: {
    // Two heads of 32 learn to copy the prompt's slots sooner than four of 16; a third layer or more width costs more
    // time than it brings. 640 entries keep responses short and leave words that are seldom right in pieces.
    base_model: {
      scratch: { hidden_size: 64, num_layers: 2, num_heads: 2, vocab_size: 640, context_length: 192 },
    },
    hyperparameters: { epochs: 4, batch_size: 16, learning_rate: 3e-3, warmup_steps: 100 },
  },
  sftOnEdits: { hyperparameters: { epochs: 4, batch_size: 32, learning_rate: 2e-3 } },
  dpo: { hyperparameters: { beta: 0.1, learning_rate: 5e-4 } },
  // Small batches: most edits change little, and many small steps find the rare tokens better than few large ones.
  fineGrained: {
    reward: { epochs: 6, batch_size: 8, learning_rate: 3e-3 },
    ppo: { critic: 'separate', learning_rate: 2.5e-4 },
  },
  sequence: {
    reward: { epochs: 6, batch_size: 8, learning_rate: 1.5e-3 },
    ppo: { critic: 'separate', learning_rate: 5e-4 },
  },
  ppo: {
    hyperparameters: {
      steps: 40,
      batch_size: 64,
      beta: 0.1,
      mu: 'batch',
      max_new_tokens: 88,
    },
  },
  generate: { hyperparameters: { batch_size: 100, max_new_tokens: 96 } },
  leavesOut: '',
};

export const quickRecipe: Recipe = {
  ...fullRecipe,
  pairs: 2400,
  demonstrations: 3200,
  evaluationPrompts: 200,
  ppo: { hyperparameters: { ...fullRecipe.ppo.hyperparameters, steps: 24 } },
  leavesOut:
    'about half of the pairs, demonstrations and training steps, so the figures are lower and their intervals wider',
};
