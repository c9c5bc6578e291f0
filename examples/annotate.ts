// An annotation program of somebody else's: it knows the service's HTTP API and nothing more, and its key may read and
// write edits, nothing else. It claims pairs of an edit request, lets a simulated editor change the less-preferred
// response as little as possible, submits, and skips where there is nothing to change, until nothing is left for it.
// Run it as often as you like at the same time, each under a name of its own.
//
//   FINEGRAIN_URL=… FINEGRAIN_API_KEY=… npx tsx examples/annotate.ts EDIT_REQUEST_ID SEED NAME
//
// Prints its progress as JSON lines: {"claimed", "edited", "skipped", "late"}. What an editor of this SEED does to a
// pair does not depend on NAME, so that it does not matter who claimed what.
import { setTimeout as sleep } from 'node:timers/promises';
import { createClient } from './client.ts';
import { editRow, type PairRow } from './world/data.ts';

const batchSize = 50;
const inFlight = 4; // submissions at a time
const leaseMs = 120_000;
const waitMs = 500; // before asking again for what others hold

interface Task {
  id: string;
  lease_token: string;
  pair: PairRow & { id: string };
  side: 'a' | 'b';
}

async function main(requestId: string, seed: number, name: string): Promise<void> {
  const { request } = createClient(environment('FINEGRAIN_URL'), environment('FINEGRAIN_API_KEY'));
  const done = { claimed: 0, edited: 0, skipped: 0, late: 0 };

  const work = async ({ id, lease_token, pair, side }: Task, claimedAt: number): Promise<void> => {
    const act = (what: string, body: object = {}) =>
      request('POST', `/v1/edit-tasks/${id}/${what}`, { lease_token, ...body });
    try {
      if (Date.now() - claimedAt > leaseMs / 2) await act('heartbeat');
      const edit = editRow(seed, pair);
      if (edit?.side === side) {
        await act('submit', { edited_response: edit.edited_response });
        done.edited++;
      } else {
        await act('skip', { reason: 'nothing to change' });
        done.skipped++;
      }
    } catch (error) {
      // the lease ran out, or the request was cancelled; a person's text would go to POST /v1/edits now
      if ((error as Error & { code?: string }).code !== 'conflict') throw error;
      done.late++;
    }
  };

  for (;;) {
    const claimedAt = Date.now();
    const { items, open }: { items: Task[]; open: number | null } = await request(
      'POST',
      '/v1/edit-tasks/claim',
      {
        editor: { kind: 'program', name },
        edit_request_id: requestId,
        lease_seconds: leaseMs / 1000,
        limit: batchSize,
      },
    );
    if (items.length === 0 && open === 0) return;
    if (items.length === 0) await sleep(waitMs);
    done.claimed += items.length;
    const queue = items.values();
    const workOff = async (): Promise<void> => {
      for (const task of queue) await work(task, claimedAt);
    };
    await Promise.all(Array.from({ length: inFlight }, workOff));
    process.stdout.write(`${JSON.stringify(done)}\n`); // progress, for whoever started this
  }
}

function environment(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`Set ${name}.`);
  return value;
}

const [requestId, seed, name] = process.argv.slice(2);
if (requestId === undefined || name === undefined || !/^\d+$/.test(seed ?? '')) {
  process.stderr.write('usage: annotate.ts EDIT_REQUEST_ID SEED NAME\n');
  process.exitCode = 2;
} else {
  main(requestId, Number(seed), name).catch((error: Error) => {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  });
}
