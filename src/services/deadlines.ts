// A time limit that a request sets itself: past it, what it asked for is worth nothing to it.
import { Problem } from '../errors.ts';

export const maxDeadlineMs = 600_000;

export interface Deadline {
  /** Aborts as the signal it was made of, or when the time is over: then with the Problem deadline_exceeded. */
  signal: AbortSignal;
  /** Forgets the time. */
  close(): void;
}

/** @param ms null: there is no limit */
export function openDeadline(signal: AbortSignal, ms: number | null): Deadline {
  if (ms === null) return { signal, close() {} };
  const over = new AbortController();
  const timer = setTimeout(() => over.abort(exceeded(ms)), ms);
  return { signal: AbortSignal.any([signal, over.signal]), close: () => clearTimeout(timer) };
}

const exceeded = (ms: number): Problem =>
  new Problem(
    'deadline_exceeded',
    `Not everything was scored within ${ms} ms. Give it more time, or send less at a time.`,
  );

/** What `promise` gives, unless the signal aborts first; the work itself goes on. @throws the signal's reason */
export async function unlessAborted<T>(signal: AbortSignal, promise: Promise<T>): Promise<T> {
  let leave = (): void => {};
  const aborted = new Promise<never>((_resolve, reject) => {
    leave = () => reject(signal.reason);
    if (signal.aborted) leave();
    else signal.addEventListener('abort', leave);
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', leave);
  }
}
