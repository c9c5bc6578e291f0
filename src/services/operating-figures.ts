// Counts of runs and jobs for /metrics: read at most once a second however often they are asked for, and without
// waiting long for a database that does not answer.
import { type OperatingFigures, selectOperatingFigures } from '../db/operating-figures.ts';
import type { Database } from '../db/pool.ts';

export type { OperatingFigures } from '../db/operating-figures.ts';

const freshMs = 1_000;
const waitMs = 2_000;

/** @returns a reader that answers null while the database does not */
export function operatingFigures(db: Database): () => Promise<OperatingFigures | null> {
  let readAt = Number.NEGATIVE_INFINITY;
  let latest: OperatingFigures | null = null;
  let reading: Promise<void> | null = null;

  async function read(): Promise<void> {
    try {
      latest = await db.transaction(null, selectOperatingFigures);
    } catch {
      latest = null; // that it cannot be reached is what a reader wants to know
    } finally {
      readAt = performance.now();
      reading = null;
    }
  }

  return async () => {
    if (performance.now() - readAt < freshMs) return latest;
    reading ??= read();
    let overdue: NodeJS.Timeout | undefined;
    const limit = new Promise<'overdue'>((resolve) => {
      overdue = setTimeout(resolve, waitMs, 'overdue');
    });
    const outcome = await Promise.race([reading, limit]);
    clearTimeout(overdue);
    return outcome === 'overdue' ? null : latest;
  };
}
