// The states of a run and the moves between them (DESIGN 6): the table that Postgres enforces (finegrain.run_moves in
// migration 0009, held equal by a test), and that the API's document is held against.

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
export const runMoves: Record<RunState, readonly RunState[]> = {
  // a runner claims it; somebody pauses or cancels it before that, or a run that it waits for fails
  queued: ['starting', 'paused', 'failed', 'cancelled'],
  // the trainer reports; it ends or is asked to stop; or its attempt is interrupted or lost, and it waits for the next one
  starting: ['running', 'pausing', 'queued', 'succeeded', 'failed', 'cancelled'],
  running: ['pausing', 'queued', 'succeeded', 'failed', 'cancelled'],
  // its trainer stops after a checkpoint; or ends or is lost before that; or the run is resumed in time
  pausing: ['running', 'paused', 'queued', 'succeeded', 'failed', 'cancelled'],
  // somebody resumes or cancels it, or a run that it waits for fails
  paused: ['queued', 'failed', 'cancelled'],
  succeeded: [],
  // somebody retries it
  failed: ['queued'],
  cancelled: ['queued'],
};

export function canMove(from: RunState, to: RunState): boolean {
  return runMoves[from].includes(to);
}

/** The states of a run that has ended; only somebody who retries it brings it back. */
export const endedRunStates = ['succeeded', 'failed', 'cancelled'] as const satisfies readonly RunState[];

export function hasEnded(state: RunState): boolean {
  return endedRunStates.some((ended) => ended === state);
}

/** What somebody may ask of a run. */
export type RunRequest = 'cancel' | 'pause' | 'resume' | 'retry';

export interface RunStanding {
  state: RunState;
  /** what its runner should bring it to */
  desired_state: 'running' | 'paused' | 'cancelled';
}

/**
 * Where a request leaves a run; equal to `run` when that is what was asked for already, null when it cannot be had. A run
 * that a runner holds changes its state when the runner has heard of it.
 */
export function standingAfter(run: RunStanding, request: RunRequest): RunStanding | null {
  const { state, desired_state } = run;
  const waits = state === 'queued' || state === 'paused';
  switch (request) {
    case 'cancel':
      if (hasEnded(state)) return null;
      return { state: waits ? 'cancelled' : state, desired_state: 'cancelled' };
    case 'pause':
      if (hasEnded(state) || desired_state === 'cancelled') return null;
      return { state: waits ? 'paused' : 'pausing', desired_state: 'paused' };
    case 'resume':
      if (hasEnded(state) || desired_state === 'cancelled') return null;
      if (desired_state === 'running') return run;
      return { state: waits ? 'queued' : 'running', desired_state: 'running' };
    case 'retry':
      return canMove(state, 'queued') && hasEnded(state)
        ? { state: 'queued', desired_state: 'running' }
        : null;
  }
}
