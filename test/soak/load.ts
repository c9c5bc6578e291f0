// Full load on one API process, through pgbouncer where there is one, beside a thousand idle connections: the memory must
// stay flat, every descriptor and database connection must come back, and no answer may be a 5xx.
import { setTimeout as sleep } from 'node:timers/promises';
import { installFinegrain, type Program, readyAddress } from '../support/installation.ts';
import { type Client, openClient } from './client.ts';
import { childrenOf, openDescriptors, openHeap, openSessionsGauge, residentMegabytes } from './gauge.ts';
import { holdIdleConnections } from './idle-connections.ts';
import type { Claim, SoakOptions } from './main.ts';
import { kinds, makeWorld, type World } from './traffic.ts';
import { quantile, type Trend, trendOf } from './trend.ts';

const concurrency = 24;
const idleConnections = 1000;
const poolSize = 5;
const sampleEveryMs = 5_000;
const backWithinMs = 60_000; // the API lets go of a database connection after 30 s

/**
 * What counts as flat over the second half: 2 MB a minute would be 3 GB a day. A rise counts only when the interval of the
 * slope excludes zero, and growth in all is bounded besides, for a leak that hides in noise.
 */
const flat = { megabytesPerMinute: 2, growth: 0.1 };

const heapReturn = 0.15; // code that was compiled and caches that were filled meanwhile stay

/** A collection is forced before each measurement of the heap, so `rss`, read before that, holds no old garbage either. */
interface Sample {
  minutes: number;
  rss: number;
  heap: number;
  scorers: number;
  descriptors: number;
  sessions: number;
  idleInTransaction: number;
  idleOpen: number;
  perSecond: number;
  p99: number;
}

interface Outcome {
  kind: string;
  ms: number;
  trouble: string | null;
}

export async function soakUnderLoad({ folder, minutes, signal }: SoakOptions): Promise<Claim[]> {
  const installation = await installFinegrain(folder, { poolSize });
  try {
    const key = 'the-bootstrap-key-of-this-soak';
    const api = installation.run('main-api.js', [], {
      DATABASE_URL: installation.pooledUrl('finegrain_api'),
      FINEGRAIN_API_KEY: key,
      FINEGRAIN_RATE_LIMIT: '0', // one client stands for many
      FINEGRAIN_AUTH_FAILURES: '0',
      HOST: '127.0.0.1',
      PORT: '0',
      LOG_LEVEL: 'error',
      NODE_OPTIONS: '--inspect=127.0.0.1:0', // for gauge.ts
    });
    const worker = installation.run('main-worker.js', [], {
      DATABASE_DIRECT_URL: installation.directUrl('finegrain_system'),
    });
    const client = openClient(await readyAddress(api), key, concurrency);
    console.log(installation.pooler ? 'through pgbouncer' : 'without a pooler: no pgbouncer was found');
    const claims = await observe(api, client, installation.postgres.superuserUrl, minutes, signal);
    for (const program of [api, worker]) program.process.kill('SIGTERM');
    const codes = [await api.ended, await worker.ended];
    const errors = api.stderr().match(/"level":[56]0.*/g) ?? [];
    return [
      ...claims,
      { holds: codes.every((code) => code === 0), text: `SIGTERM ends API and worker with 0: ${codes}` },
      { holds: errors.length === 0, text: `the log names no error: ${errors.length} ${errors[0] ?? ''}` },
    ];
  } finally {
    await installation.stop();
  }
}

async function observe(
  api: Program,
  client: Client,
  superuserUrl: string,
  minutes: number,
  signal: AbortSignal,
): Promise<Claim[]> {
  const pid = api.process.pid!;
  const heap = await openHeap(/Debugger listening on (ws:\S+)/.exec(api.stderr())![1]!);
  const sessions = await openSessionsGauge(superuserUrl);
  const world = await makeWorld(client);
  const outcomes: Outcome[] = [];
  for (const kind of Object.keys(kinds)) outcomes.push(await act(kind, client, world)); // warm: the scorer runs
  const descriptorsBefore = openDescriptors(pid);
  const heapBefore = await heap.megabytesAfterCollection();

  const idle = await holdIdleConnections(client.url, idleConnections);
  const started = performance.now();
  const until = started + minutes * 60_000;
  const over = () => signal.aborted || api.process.exitCode !== null || performance.now() > until;
  const samples: Sample[] = [];
  const sample = async (): Promise<void> => {
    for (let told = outcomes.length; !over(); told = outcomes.length) {
      const from = performance.now();
      await sleep(Math.min(sampleEveryMs, Math.max(1, until - from)));
      const recent = outcomes.slice(told);
      const { count, idleInTransaction } = await sessions.read();
      samples.push({
        minutes: (performance.now() - started) / 60_000,
        rss: residentMegabytes(pid),
        heap: await heap.megabytesAfterCollection(),
        scorers: childrenOf(pid).reduce((sum, child) => sum + residentMegabytes(child), 0),
        descriptors: openDescriptors(pid),
        sessions: count,
        idleInTransaction,
        idleOpen: idle.open(),
        perSecond: recent.length / ((performance.now() - from) / 1000),
        p99: quantile(
          recent.map(({ ms }) => ms),
          0.99,
        ),
      });
    }
  };
  const weighted = Object.entries(kinds).flatMap(
    ([kind, { weight }]) => Array(weight).fill(kind) as string[],
  );
  const work = async (): Promise<void> => {
    while (!over())
      outcomes.push(await act(weighted[Math.floor(Math.random() * weighted.length)]!, client, world));
  };
  await Promise.all([sample(), ...Array.from({ length: concurrency }, work)]);

  const heldOpen = idle.open();
  idle.close();
  await client.close();
  const [descriptorsAfter, sessionsAfter] = await untilBack(async () => {
    const { count, idleInTransaction } = await sessions.read();
    const descriptors = openDescriptors(pid);
    return {
      done: descriptors <= descriptorsBefore && idleInTransaction === 0,
      now: [descriptors, count] as const,
    };
  });
  const heapAfter = await heap.megabytesAfterCollection();
  heap.close();
  await sessions.close();

  printSamples(samples);
  printLatencies(outcomes);
  const troubles = outcomes.flatMap(({ kind, trouble }) => (trouble === null ? [] : [`${kind}: ${trouble}`]));
  const longestIdle = Math.max(...samples.map(({ idleInTransaction }) => idleInTransaction));
  const second = samples.slice(Math.floor(samples.length / 2));
  return [
    {
      holds: troubles.length === 0 && client.serverErrors.length === 0,
      text: `${outcomes.length} exchanges as they should be, no 5xx: ${client.serverErrors.length} 5xx, ${troubles.length} others ${client.serverErrors[0] ?? troubles[0] ?? ''}`,
    },
    flatness('memory of the API', second, ({ rss }) => rss),
    flatness('heap of the API after collection', second, ({ heap }) => heap),
    flatness('memory of the scorers', second, ({ scorers }) => scorers),
    {
      holds: heapAfter < heapBefore * (1 + heapReturn),
      text: `the heap returns to what it was before the load: ${heapBefore.toFixed(1)} MB before, ${heapAfter.toFixed(1)} MB after; limit ${100 * heapReturn} %`,
    },
    {
      holds: heldOpen === idleConnections && idle.lost() === 0,
      text: `${idleConnections} idle connections stayed open: ${heldOpen}, ${idle.lost()} lost on the way`,
    },
    {
      holds: longestIdle < 1,
      text: `no transaction idles for a second: the longest did for ${longestIdle.toFixed(2)} s`,
    },
    {
      holds: descriptorsAfter <= descriptorsBefore,
      text: `descriptors return to what they were before the load: ${descriptorsBefore} before, ${descriptorsAfter} after`,
    },
    {
      holds: sessionsAfter <= poolSize,
      text: `sessions in Postgres are at most those of the pool: ${sessionsAfter} after, ${poolSize} in the pool`,
    },
  ];
}

async function act(kind: string, client: Client, world: World): Promise<Outcome> {
  const started = performance.now();
  const trouble = await kinds[kind]!.run(client, world).then(
    () => null,
    (error: Error) => error.message,
  );
  return { kind, ms: performance.now() - started, trouble };
}

async function untilBack<T>(look: () => Promise<{ done: boolean; now: T }>): Promise<T> {
  for (const end = Date.now() + backWithinMs; ; await sleep(500)) {
    const { done, now } = await look();
    if (done || Date.now() > end) return now;
  }
}

function flatness(what: string, samples: Sample[], read: (sample: Sample) => number): Claim {
  if (samples.length < 10)
    return { holds: false, text: `${what}: too few samples to say, give it more minutes` };
  const trend: Trend = trendOf(samples.map((sample) => ({ minutes: sample.minutes, value: read(sample) })));
  const rises = trend.slope > flat.megabytesPerMinute && trend.low > 0;
  const [slope, low, high] = [trend.slope, trend.low, trend.high].map((number) => number.toFixed(2));
  return {
    holds: !rises && trend.growth < flat.growth,
    text: `${what} is flat: ${slope} MB/min [${low}, ${high}], ${(100 * trend.growth).toFixed(1)} % over the second half; limits ${flat.megabytesPerMinute} MB/min and ${100 * flat.growth} %`,
  };
}

function printSamples(samples: Sample[]): void {
  const every = Math.max(1, Math.ceil(samples.length / 24));
  console.log('   min  req/s  p99 ms  API MB  heap MB  scorers MB  descriptors  sessions  idle open');
  for (const [i, sample] of samples.entries()) {
    if (i % every !== 0 && i !== samples.length - 1) continue;
    const { minutes, perSecond, p99, rss, heap, scorers, descriptors, sessions, idleOpen } = sample;
    const cells = [
      minutes.toFixed(1).padStart(6),
      perSecond.toFixed(0).padStart(7),
      p99.toFixed(0).padStart(8),
      rss.toFixed(1).padStart(8),
      heap.toFixed(1).padStart(9),
      scorers.toFixed(1).padStart(12),
      String(descriptors).padStart(13),
      String(sessions).padStart(10),
      String(idleOpen).padStart(11),
    ];
    console.log(cells.join(''));
  }
}

function printLatencies(outcomes: Outcome[]): void {
  console.log('\n  count  p50 ms  p99 ms  max ms  kind (several requests in some)');
  for (const kind of Object.keys(kinds)) {
    const times = outcomes.filter((outcome) => outcome.kind === kind).map(({ ms }) => ms);
    const cells = [0.5, 0.99, 1].map((share) => quantile(times, share).toFixed(0).padStart(8));
    console.log(`${String(times.length).padStart(7)}${cells.join('')}  ${kind}`);
  }
}
