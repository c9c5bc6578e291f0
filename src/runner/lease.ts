// Keeps the lease of a run. Whoever cannot renew it in time must assume that another runner has the run already.
import { setTimeout as sleep } from 'node:timers/promises';

export interface LeaseOptions {
  leaseSeconds: number;
  /** answers the desired state of the run; null: the run belongs to another attempt */
  heartbeat: () => Promise<string | null>;
  onDesiredState: (state: string) => void;
  /** called once, when the run is held no longer or could not be renewed for the length of a lease */
  onLost: (why: string) => void;
  onError: (error: Error) => void;
}

/** Renews every quarter of the lease, counted from when each renewal was sent. Returns what ends it. */
export function holdLease({
  leaseSeconds,
  heartbeat,
  onDesiredState,
  onLost,
  onError,
}: LeaseOptions): () => void {
  const leaseMs = leaseSeconds * 1000;
  const ended = new AbortController();
  const lose = (why: string): void => {
    if (ended.signal.aborted) return;
    release();
    onLost(why);
  };
  const watch = (ms: number) =>
    setTimeout(() => lose(`the lease could not be renewed for ${leaseSeconds} s`), ms);
  let watchdog = watch(leaseMs);
  const release = (): void => {
    clearTimeout(watchdog);
    ended.abort();
  };

  const beat = async (): Promise<void> => {
    const sentAt = performance.now();
    try {
      const desired = await heartbeat();
      if (ended.signal.aborted) return;
      if (desired === null) return lose('another attempt holds the run');
      clearTimeout(watchdog);
      watchdog = watch(Math.max(0, leaseMs - (performance.now() - sentAt)));
      onDesiredState(desired);
    } catch (error) {
      if (!ended.signal.aborted) onError(error as Error);
    }
  };
  void (async () => {
    while (!ended.signal.aborted) {
      await sleep(leaseMs / 4, undefined, { signal: ended.signal }).catch(() => {}); // aborted: the lease ended
      if (!ended.signal.aborted) await beat();
    }
  })();
  return release;
}
