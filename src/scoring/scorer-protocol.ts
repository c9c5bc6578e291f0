// What the engine and a scorer process say to each other over the process channel (structured clone).
// Replies come in the order of the requests.

import type { RewardGraphFile } from './reward-graph.ts';

export type ScorerRequest =
  /** comes first; answered by `ready` or `refused` */
  | { type: 'load'; graph: RewardGraphFile; provider: string }
  | { type: 'score'; tokenIds: Int32Array; promptLength: number; sharesPrompt: boolean }
  /** no more work comes: finish, release the session, end */
  | { type: 'close' };

export type ScorerReply =
  | { type: 'ready' }
  /** the graph cannot be run, now or later */
  | { type: 'refused'; reason: string }
  /** one reward for each token of the response */
  | { type: 'scored'; rewards: Float32Array }
  | { type: 'failed'; code: 'not_finite' | 'model_failed'; detail: string };
