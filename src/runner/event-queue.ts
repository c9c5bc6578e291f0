// Gathers what the trainer says and sends it in batches, at most four a second, in order. While the database is away
// events wait; when too many do, `add` waits too, and with it the reading of the trainer's output.
import { setTimeout as sleep } from 'node:timers/promises';

export interface RunEvent {
  type: string;
  [field: string]: unknown;
}

export interface EventQueue {
  /** Resolves when there is room for more. */
  add(event: RunEvent): Promise<void>;
  /** Resolves when everything has been sent, or the queue was closed. */
  drain(): Promise<void>;
  /** Drops what is left. */
  close(): void;
}

const intervalMs = 250;
const retryMs = 1000;
const roomFor = 2000;
const batchSize = 500;

/**
 * @param send gets the number of each batch, counted from 1, with it: a batch that is tried again keeps its number and its
 *   events, so that it can be told from a new one. false: the run is held no longer, and nothing more will be sent.
 */
export function openEventQueue(
  send: (events: RunEvent[], batch: number) => Promise<boolean>,
  onError: (error: Error) => void,
): EventQueue {
  let waiting: RunEvent[] = [];
  let batches = 0;
  let pump: Promise<void> | null = null;
  const closed = new AbortController();

  const run = async (): Promise<void> => {
    while (waiting.length > 0 && !closed.signal.aborted) {
      await sleep(intervalMs);
      const batch = newestProgressOnly(waiting.splice(0, batchSize));
      batches += 1;
      for (let sent = false; !sent && !closed.signal.aborted; ) {
        try {
          if (!(await send(batch, batches))) closed.abort();
          sent = true;
        } catch (error) {
          onError(error as Error);
          await sleep(retryMs);
        }
      }
    }
    pump = null;
  };
  const start = (): void => {
    pump ??= run();
  };
  return {
    async add(event) {
      if (closed.signal.aborted) return;
      waiting.push(event);
      start();
      if (waiting.length > roomFor) await pump;
    },
    async drain() {
      await pump;
    },
    close() {
      waiting = [];
      closed.abort();
    },
  };
}

function newestProgressOnly(events: RunEvent[]): RunEvent[] {
  const newest = events.findLast(({ type }) => type === 'progress');
  return events.filter((event) => event.type !== 'progress' || event === newest);
}
