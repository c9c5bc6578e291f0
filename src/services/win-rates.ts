// Win rates of posted judgements. What takes long is computed in a thread of its own, so that other requests stay quick.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { type BootstrapOptions, bootstrapDefaults } from '../domain/bootstrap.ts';
import {
  computeWinRate,
  type Judgement,
  type WinRateOptions,
  type WinRateReport,
} from '../domain/win-rate.ts';
import { Problem, unprocessable } from '../errors.ts';
import { openPlaces } from '../scoring/places.ts';

/** Of judgements times rounds: some seconds. */
const mostDraws = 200_000_000;
const mostCandidates = 100;
const small = { judgements: 1000, draws: 1_000_000, candidates: 5 }; // 10 ms or so
const mostWaiting = 8;
const thread = new URL('./win-rate-thread.js', import.meta.url);

const places = openPlaces(2);
let waiting = 0;

/** With as many rounds as are computed for so many judgements, for whoever asked before there were any. */
export function affordable(asked: BootstrapOptions, judgements: number): BootstrapOptions {
  const most = Math.max(1, Math.floor(mostDraws / Math.max(1, judgements)));
  return (asked.rounds ?? bootstrapDefaults.rounds) <= most ? asked : { ...asked, rounds: most };
}

/**
 * @param gone aborts when nobody waits for the answer any more
 * @param beside judgements by people, which only check the others
 * @throws Problem unprocessable; overloaded when too many are computed already
 */
export async function winRateOf(
  judgements: readonly Judgement[],
  options: WinRateOptions,
  gone: AbortSignal,
  beside: readonly Judgement[] = [],
): Promise<WinRateReport> {
  const rounds = options.bootstrap ? (options.bootstrap.rounds ?? bootstrapDefaults.rounds) : 0;
  const work = {
    judgements: judgements.length + beside.length,
    draws: judgements.length * rounds,
    candidates: new Set(judgements.map(({ candidate }) => candidate)).size,
  };
  check(work, options);
  const isSmall = (Object.keys(small) as (keyof typeof small)[]).every((key) => work[key] <= small[key]);
  return isSmall
    ? computeWinRate(judgements, options, beside)
    : inThread({ judgements, options, beside }, gone);
}

function check({ draws, candidates }: { draws: number; candidates: number }, options: WinRateOptions): void {
  if (draws > mostDraws)
    throw unprocessable(
      '/options/bootstrap/rounds',
      `times the number of judgements is more than ${mostDraws.toLocaleString('en')}: take fewer rounds`,
    );
  if (candidates > mostCandidates)
    throw unprocessable('/judgements', `name more than ${mostCandidates} candidates: send fewer at once`);
  const { agreement } = options;
  if (agreement?.people.includes(agreement.judge))
    throw unprocessable('/options/agreement/people', 'contains the judge: it cannot be checked by itself');
}

export interface ThreadWork {
  judgements: readonly Judgement[];
  options: WinRateOptions;
  beside: readonly Judgement[];
}

async function inThread(work: ThreadWork, gone: AbortSignal): Promise<WinRateReport> {
  if (waiting >= mostWaiting)
    throw new Problem('overloaded', 'Too many win rates are being computed: try again in some seconds.', {
      retryAfterSeconds: 5,
    });
  waiting++;
  await places.take().finally(() => waiting--);
  try {
    await nextTurn(); // for other requests: the body was parsed in this one, the judgements are copied in the next
    gone.throwIfAborted();
    return await runThread(work, gone);
  } finally {
    places.give();
  }
}

async function runThread(workerData: ThreadWork, gone: AbortSignal): Promise<WinRateReport> {
  const worker = new Worker(thread, { workerData });
  const stop = () => void worker.terminate();
  gone.addEventListener('abort', stop, { once: true });
  try {
    return await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
      worker.once('exit', () => reject(gone.reason ?? new Error('The thread ended without an answer.')));
    });
  } finally {
    gone.removeEventListener('abort', stop);
  }
}
