// Counts of runs and jobs over all projects (migrations 0008 and 0013).
import type { Transaction } from './pool.ts';

export interface OperatingFigures {
  /** A queued one that waits for others has the state `waiting`. `oldest_seconds`: since the oldest queued one was made; null for other states */
  runs: { kind: string; hardware: string; state: string; runs: number; oldest_seconds: number | null }[];
  /** that live; `hardware`: all classes of a runner, with commas */
  runners: { hardware: string; state: 'idle' | 'busy'; runners: number }[];
  /** `oldest_seconds`: since the oldest waiting one was due; null for other states */
  jobs: { task: string; state: string; jobs: number; oldest_seconds: number | null }[];
}

export async function selectOperatingFigures(tx: Transaction): Promise<OperatingFigures> {
  const rows = await tx.query<{ figures: OperatingFigures }>(
    'select finegrain.operating_figures() as figures',
  );
  return rows[0]!.figures;
}
