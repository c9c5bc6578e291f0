// The states of a run and the moves between them (DESIGN 6). Postgres enforces them; this is the table that it, the schemas
// and the documentation are held against.

export const runStates = [
  'queued',
  'starting',
  'running',
  'pausing',
  'paused',
  'succeeded',
  'failed',
  'cancelled',
] as const;
export type RunState = (typeof runStates)[number];

/** What moves a run on is in the comment above each line. */
const moves: Record<RunState, readonly RunState[]> = {
  // a runner claims it, or somebody pauses or cancels it before that
  queued: ['starting', 'paused', 'cancelled'],
  // the trainer reports; it ends or is asked to stop; or its attempt is lost, and it waits for the next one
  starting: ['running', 'pausing', 'succeeded', 'failed', 'cancelled', 'queued'],
  running: ['pausing', 'succeeded', 'failed', 'cancelled', 'queued'],
  // it stops at a checkpoint, or ends or is lost before that, or is resumed in time
  pausing: ['paused', 'running', 'succeeded', 'failed', 'cancelled', 'queued'],
  // somebody resumes or cancels it
  paused: ['queued', 'cancelled'],
  succeeded: [],
  failed: [],
  cancelled: [],
};

export function canMove(from: RunState, to: RunState): boolean {
  return moves[from].includes(to);
}

/** A run in this state has ended. */
export function isTerminal(state: RunState): boolean {
  return moves[state].length === 0;
}

export const terminalRunStates: readonly RunState[] = runStates.filter(isTerminal);
