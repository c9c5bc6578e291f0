// What the demo's report shows, as the API's answers give it. Rates and accuracies are fractions, 0..1; intervals are 95 %;
// spans count UTF-16 units; KL is in nats.
import type { Environment } from '../environment.ts';

export interface Estimate {
  value: number;
  low: number;
  high: number;
  /** Prompts, pairs or edits that it is over. */
  n: number;
}

export interface ReportData {
  /** The headline is about these two arms; `head_to_head` has them. */
  headline: { candidate: string; baseline: string };
  /** One or two sentences: what the judge is, and who sees it. */
  judge: string;
  /** In the order of the table; the first is the starting policy. Names: see `armColour` in examples/charts.ts. */
  arms: Arm[];
  /** One entry for each two arms, in either order. */
  head_to_head: { candidate: string; baseline: string; win_rate: Estimate }[];
  /** Of the arms that were evaluated while they trained, in the order of training; the others are drawn as points. */
  learning_curves: { arm: string; points: CurvePoint[] }[];
  /** What POST /v1/score says about responses to the same prompts. */
  heat_map: { prompt: string; responses: ScoredResponse[] }[];
  /** What POST /v1/score/compare says, in UTF-16 units. */
  edits: EditExample[];
  reward_models: RewardModelFigures[];
  /** Of the token reward model, as its run's result has it. */
  gate: { metric: string; value: number; minimum: number; passed: boolean }[];
  /** Sentences on how far the reward figures can be trusted, such as what a perfect model would reach on noisy labels. */
  reliability: string[];
  made: Making;
}

export interface Arm {
  name: string;
  /** How it was trained, in a few words. */
  description: string;
  /** Null for the starting policy. */
  win_rate_over_start: Estimate | null;
  /** Against responses by careful writers, a reference that no arm was trained on. */
  win_rate_over_writers: Estimate;
  /** To the starting policy, a response. */
  kl: number;
  /** Tokens a response. */
  mean_length: number;
  /** Responses sampled in training. */
  samples: number;
}

export interface CurvePoint {
  samples: number;
  kl: number;
  /** Over careful writers: over the starting policy all arms are soon near 100 %. */
  win_rate: Estimate;
}

/** `label` says whose response it is or what is wrong with it; the rest is one of `results` of POST /v1/score. */
export interface ScoredResponse {
  label: string;
  tokens: string[];
  rewards: number[];
  reward: number;
}

export interface RewardDifference {
  original_reward: number;
  edited_reward: number;
  difference: number;
}

export interface EditExample {
  prompt: string;
  original: string;
  edited: string;
  comparison: RewardDifference & {
    segments: (RewardDifference & {
      kind: 'keep' | 'replace' | 'insert' | 'delete';
      original: [start: number, end: number];
      edited: [start: number, end: number];
    })[];
    end: RewardDifference;
  };
}

/** On the snapshot's test split. */
export interface RewardModelFigures {
  name: string;
  loss: string;
  edit_accuracy: Estimate;
  pair_accuracy: Estimate;
  /** Null for a model that gives a response one reward. */
  bad_token_auc: Estimate | null;
}

export interface Making {
  date: Date;
  seed: number;
  /** Such as `full`; and what a smaller recipe leaves out, empty for the full one. */
  recipe: string;
  leaves_out: string;
  /** Such as pairs, edits, demonstrations, prompts. */
  sizes: Record<string, number>;
  /** By run. */
  hyperparameters: Record<string, Record<string, unknown>>;
  stages: { name: string; seconds: number }[];
  environment: Environment;
  /** Of the snapshot and of each model. */
  digests: Record<string, string>;
}
