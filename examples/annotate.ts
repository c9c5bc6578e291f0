// An annotation program of somebody else's: it knows the service's HTTP API and nothing more, and its key may read and
// write edits, nothing else. It claims pairs of an edit request, lets a simulated editor change the less-preferred
// response as little as possible, submits, and skips where there is nothing to change, until nothing is left for it.
// Run it as often as you like at the same time, each under a name of its own.
//
//   FINEGRAIN_URL=… FINEGRAIN_API_KEY=… node dist/examples/annotate.js EDIT_REQUEST_ID SEED NAME
//
// Prints its progress as JSON lines: {"claimed", "edited", "skipped", "late"}. What an editor of this SEED does to a
// pair does not depend on NAME, so that it does not matter who claimed what.
import { type Decision, type Task, workOff } from './claim-loop.ts';
import { createClient } from './client.ts';
import { environment, printLine, runMain } from './command-line.ts';
import { editRow, type PairRow } from './world/data.ts';

const [requestId, seed, name] = process.argv.slice(2);
if (requestId === undefined || name === undefined || !/^\d+$/.test(seed ?? '')) {
  process.stderr.write('usage: annotate.ts EDIT_REQUEST_ID SEED NAME\n');
  process.exitCode = 2;
} else {
  runMain(() => {
    const client = createClient(environment('FINEGRAIN_URL'), environment('FINEGRAIN_API_KEY'));
    const editor = { kind: 'program', name } as const;
    const work = { requestId, editor, leaseSeconds: 120, batchSize: 50, inFlight: 4 };
    const decide = async ({ pair, side }: Task<PairRow>): Promise<Decision> => {
      const edit = editRow(Number(seed), pair);
      return edit?.side === side ? { edited_response: edit.edited_response } : { skip: 'nothing to change' };
    };
    return workOff(client, work, decide, printLine);
  });
}
