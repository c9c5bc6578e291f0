// What the engine and a scorer process say to each other over the process channel (structured clone).

export type ScorerRequest =
  | { type: 'score'; id: number; tokenIds: Int32Array; promptLength: number }
  /** no more work comes: finish, release the session, end */
  | { type: 'close' };

export type ScorerReply =
  | { type: 'ready' }
  /** the graph cannot be run, now or later */
  | { type: 'refused'; reason: string }
  /** one reward for each token of the response */
  | { type: 'scored'; id: number; rewards: Float32Array }
  | { type: 'failed'; id: number; code: 'not_finite' | 'model_failed'; detail: string };
