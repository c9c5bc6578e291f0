// An installation that is to be hurt: API, worker and runners as processes that come back when they end, as a service
// manager would bring them back, over a Postgres that keeps what it has confirmed. Knows no test runner.
import { execFileSync } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { freePort } from '../../src/db/embedded/server.ts';
import { type HeldCommits, openHeldWay } from '../support/held-commit.ts';
import { type Installation, installFinegrain, type Program } from '../support/installation.ts';
import { type Client, fakePython } from '../support/runner.ts';

/** A process that is started again whenever it ends. */
export interface Kept {
  name: string;
  pid(): number;
  /** false while the system has not read its first file yet */
  kill(signal: NodeJS.Signals): void;
  /** what all of its lives have written to standard error */
  log(): string;
  /** how often it ended */
  deaths(): number;
}

export interface KeptRunner extends Kept {
  /** its way to the database */
  way: HeldCommits;
  /** parent of its work folders */
  workFolders: string;
  /** the file system of `workFolders` is one of its own, of a few megabytes */
  smallDisk: boolean;
  /** process ids of the trainers at work in its folders */
  trainers(): number[];
}

export interface World extends Client {
  installation: Installation;
  api: Kept;
  worker: Kept;
  runners: KeptRunner[];
  leaseSeconds: number;
  silenceSeconds: number;
  /** a link to the folder of the store */
  artifacts: string;
  /** One statement as the superuser. */
  query<Row extends pg.QueryResultRow>(text: string, values?: unknown[]): Promise<Row[]>;
  stop(): Promise<void>;
}

export interface WorldOptions {
  runners: number;
  /** the trainer's; null: the fake one */
  python: string | null;
  leaseSeconds: number;
  silenceSeconds: number;
  /** of each runner, for its work folders, where this process may mount them */
  smallDisks: boolean;
}

const smallDiskMegabytes = 64;
const bootstrapKey = 'the-bootstrap-key-of-the-faults';

export async function openWorld(folder: string, options: WorldOptions): Promise<World> {
  const { leaseSeconds, silenceSeconds } = options;
  // what is confirmed must be there after a crash: that is what the faults are about
  const settings = { synchronous_commit: 'on' };
  const installation = await installFinegrain(folder, { poolSize: 5, settings });
  const artifacts = join(folder, 'artifacts');
  mkdirSync(join(folder, 'artifact-store'));
  symlinkSync('artifact-store', artifacts);
  let ending = false;
  const keep = (name: string, start: () => Program): Kept => {
    let program = start();
    let deaths = 0;
    let log = '';
    const watch = async (): Promise<void> => {
      for (;;) {
        await program.ended;
        log = (log + program.stderr()).slice(-4_000_000);
        deaths += 1;
        await sleep(200);
        if (ending) return;
        program = start();
      }
    };
    void watch();
    return {
      name,
      pid: () => program.process.pid!,
      kill: (signal) => program.process.kill(signal),
      log: () => log + program.stderr(),
      deaths: () => deaths,
    };
  };

  const preload = { NODE_OPTIONS: `--import=${new URL('clock.mjs', import.meta.url).href}` };
  const url = `http://127.0.0.1:${await freePort()}`;
  const api = keep('API', () =>
    installation.run('main-api.js', [], {
      ...preload,
      DATABASE_URL: installation.pooledUrl('finegrain_api'),
      FINEGRAIN_API_KEY: bootstrapKey,
      FINEGRAIN_DRAIN_SECONDS: '0',
      HOST: '127.0.0.1',
      PORT: new URL(url).port,
      LOG_LEVEL: 'warn',
    }),
  );
  const worker = keep('worker', () =>
    installation.run('main-worker.js', [], {
      ...preload,
      DATABASE_DIRECT_URL: installation.directUrl('finegrain_system'),
      LOG_LEVEL: 'warn',
    }),
  );
  const python = options.python ?? (await fakePython(folder));
  const runners: KeptRunner[] = [];
  for (let n = 1; n <= options.runners; n++) {
    const name = `runner-${n}`;
    const dataDir = join(folder, name);
    const workFolders = join(dataDir, 'runs');
    mkdirSync(workFolders, { recursive: true });
    const smallDisk = options.smallDisks && mountSmallDisk(workFolders);
    const way = await openHeldWay(installation.directUrl('finegrain_runner'));
    const kept = keep(name, () =>
      installation.run('main-runner.js', [], {
        ...preload,
        DATABASE_DIRECT_URL: way.url,
        FINEGRAIN_DATA_DIR: dataDir,
        FINEGRAIN_PYTHON: python,
        FINEGRAIN_RUNNER_NAME: name,
        FINEGRAIN_LEASE_SECONDS: String(leaseSeconds),
        FINEGRAIN_POLL_SECONDS: '1',
        FINEGRAIN_TRAINER_SILENCE_SECONDS: String(silenceSeconds),
      }),
    );
    runners.push({ ...kept, way, workFolders, smallDisk, trainers: () => trainersBelow(workFolders) });
  }

  const pool = new pg.Pool({ connectionString: installation.postgres.superuserUrl, max: 2 });
  pool.on('error', () => {}); // Postgres is ended now and then
  pool.on('connect', (client) => client.on('error', () => {}));
  return {
    installation,
    api,
    worker,
    runners,
    leaseSeconds,
    silenceSeconds,
    artifacts,
    call: patientCall(url),
    query: async (text, values) => (await patiently(() => pool.query(text, values))).rows,
    async stop() {
      ending = true;
      await pool.end();
      for (const { workFolders, smallDisk, trainers, kill, way } of runners) {
        kill('SIGKILL');
        for (const pid of trainers()) endProcess(pid);
        await way.close();
        if (smallDisk) execFileSync('umount', ['--lazy', workFolders]);
      }
      await installation.stop();
    },
  };
}

const patienceMs = 120_000;

async function patiently<T>(work: () => Promise<T>): Promise<T> {
  for (const end = Date.now() + patienceMs; ; ) {
    try {
      return await work();
    } catch (error) {
      if (Date.now() > end) throw error;
      await sleep(100);
    }
  }
}

/** Asks again while the API is away or says 5xx, as a client that knows its idempotency keys may. */
function patientCall(url: string): World['call'] {
  return async (method, path, { json, body, headers = {} } = {}) => {
    const once = path === '/v1/runs' && method === 'POST' ? { 'idempotency-key': randomUUID() } : {};
    return patiently(async () => {
      const response = await fetch(url + path, {
        method,
        headers: {
          authorization: `Bearer ${bootstrapKey}`,
          ...(json === undefined ? {} : { 'content-type': 'application/json' }),
          ...once,
          ...headers,
        },
        ...(json !== undefined ? { body: JSON.stringify(json) } : body !== undefined ? { body } : {}),
        signal: AbortSignal.timeout(30_000),
      } as RequestInit);
      const text = await response.text();
      if (response.status >= 500) throw new Error(`${method} ${path}: ${response.status} ${text}`);
      const isJson = /\bjson$/.test(response.headers.get('content-type')?.split(';')[0] ?? '');
      return {
        status: response.status,
        headers: response.headers,
        text,
        body: isJson ? JSON.parse(text) : undefined,
      };
    });
  };
}

/** False where this process may not mount anything. */
function mountSmallDisk(folder: string): boolean {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return false;
  try {
    const size = `size=${smallDiskMegabytes}m`;
    execFileSync('mount', ['-t', 'tmpfs', '-o', size, 'finegrain-test', folder], { stdio: 'ignore' });
    return true;
  } catch {
    return false; // a container that may not
  }
}

export const canFindProcesses = existsSync('/proc/self/cmdline');

/** Trainers whose work folder lies in `folder`, whoever started them; without /proc none is found. */
export function trainersBelow(folder: string): number[] {
  if (!canFindProcesses) return [];
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      const words = commandOf(pid);
      return words.includes('finegrain_trainer') && words[words.indexOf('--workdir') + 1]?.startsWith(folder);
    })
    .map(Number);
}

function commandOf(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return []; // it has ended
  }
}

export function endProcess(pid: number, signal: NodeJS.Signals = 'SIGKILL'): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error; // it has ended by itself
  }
}

export const digestOf = (content: Uint8Array): string =>
  `sha256:${createHash('sha256').update(content).digest('hex')}`;
