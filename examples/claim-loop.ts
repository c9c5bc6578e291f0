// How an outside annotation program works an edit request off over HTTP: claim pairs under a lease, renew the leases while
// the editor thinks, submit or skip, until nothing is left for this editor. When it fails it gives back what it holds.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from './client.ts';

/** A claimed task, as `POST /v1/edit-tasks/claim` gives it. */
export interface Task<Pair> {
  id: string;
  lease_token: string;
  pair: Pair;
  side: 'a' | 'b';
  instructions: string | null;
}

/** What an editor makes of a task. */
export type Decision = { edited_response: string; comment?: string } | { skip: string };

export interface Work {
  requestId: string;
  editor: { kind: 'program' | 'llm'; name: string };
  leaseSeconds: number;
  /** how many tasks to hold, up to 100 */
  batchSize: number;
  /** how many of them to decide on at a time */
  inFlight: number;
}

export interface Progress {
  claimed: number;
  edited: number;
  skipped: number;
  /** decided after the lease was over, or the request cancelled */
  late: number;
}

const waitMs = 500; // before asking again for what others hold

/**
 * Resolves when nothing is left.
 * @param decide gets a signal that says that the work has failed elsewhere
 * @param tell hears of the progress after each batch
 */
export async function workOff<Pair>(
  { request }: Client,
  { requestId, editor, leaseSeconds, batchSize, inFlight }: Work,
  decide: (task: Task<Pair>, signal: AbortSignal) => Promise<Decision>,
  tell: (done: Progress) => void,
): Promise<void> {
  const done: Progress = { claimed: 0, edited: 0, skipped: 0, late: 0 };
  const held = new Set<Task<Pair>>();
  const ended = new AbortController();

  /** false: the lease ran out, the request was cancelled or the pair deleted */
  const act = async ({ id, lease_token }: Task<Pair>, what: string, body: object = {}): Promise<boolean> => {
    try {
      await request('POST', `/v1/edit-tasks/${id}/${what}`, { lease_token, ...body });
      return true;
    } catch (error) {
      if (!['conflict', 'not_found'].includes((error as { code?: string }).code ?? '')) throw error;
      return false;
    }
  };

  const work = async (task: Task<Pair>): Promise<void> => {
    const decision = await decide(task, ended.signal);
    if ('skip' in decision) done[(await act(task, 'skip', { reason: decision.skip })) ? 'skipped' : 'late']++;
    // a person's text that comes late would go to POST /v1/edits now
    else done[(await act(task, 'submit', decision)) ? 'edited' : 'late']++;
    held.delete(task);
  };

  const workBatches = async (): Promise<void> => {
    while (!ended.signal.aborted) {
      const { items, open }: { items: Task<Pair>[]; open: number | null } = await request(
        'POST',
        '/v1/edit-tasks/claim',
        { editor, edit_request_id: requestId, lease_seconds: leaseSeconds, limit: batchSize },
      );
      if (items.length === 0 && open === 0) return;
      if (items.length === 0) await sleep(waitMs);
      done.claimed += items.length;
      for (const task of items) held.add(task);
      const queue = items.values();
      const workThrough = async (): Promise<void> => {
        for (const task of queue) {
          if (ended.signal.aborted) return;
          await work(task);
        }
      };
      await Promise.all(Array.from({ length: inFlight }, workThrough));
      tell(done);
    }
  };

  const renewLeases = async (): Promise<void> => {
    for (;;) {
      await sleep((leaseSeconds * 1000) / 3, undefined, { signal: ended.signal });
      await Promise.all([...held].map((task) => act(task, 'heartbeat')));
    }
  };

  const renewal = renewLeases();
  try {
    await Promise.race([workBatches(), renewal]);
  } finally {
    ended.abort();
    await Promise.allSettled([renewal, ...[...held].map((task) => act(task, 'release'))]);
  }
}
