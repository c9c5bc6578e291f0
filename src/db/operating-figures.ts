// Counts of runs and jobs over all projects (migration 0008).
import type { Transaction } from './pool.ts';

export interface OperatingFigures {
  /** `oldest_seconds`: since the oldest queued one was made; null for other states */
  runs: { kind: string; hardware: string; state: string; runs: number; oldest_seconds: number | null }[];
  /** that hold a run under a lease that is not over */
  busy_runners: number;
  /** `oldest_seconds`: since the oldest waiting one was due; null for other states */
  jobs: { task: string; state: string; jobs: number; oldest_seconds: number | null }[];
}

export async function selectOperatingFigures(tx: Transaction): Promise<OperatingFigures> {
  const rows = await tx.query<{ figures: OperatingFigures }>(
    'select finegrain.operating_figures() as figures',
  );
  return rows[0]!.figures;
}
