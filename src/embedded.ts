// Embedded mode: Postgres from an npm package, migrated, with a worker and a CPU runner as child processes, each under
// its own database role. Everything ends with this process; a second start on the same data folder attaches. What ends by
// itself meanwhile is started again.
import { type ChildProcess, fork } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Config } from './config.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './db/embedded-postgres.ts';
import { enableLogins, loginUrl } from './db/logins.ts';
import { migrate } from './db/migrate.ts';
import type { DatabaseRole } from './db/pool.ts';

export interface EmbeddedStack {
  apiDatabaseUrl: string;
  /** Rejects when Postgres has ended and cannot be had again. */
  broken: Promise<never>;
  stop(): Promise<void>;
}

export async function startEmbeddedStack(config: Config, logger: Logger): Promise<EmbeddedStack> {
  await mkdir(config.dataDir, { recursive: true });
  const postgres = await keepPostgres(join(config.dataDir, 'postgres'), logger);
  const children: Kept[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all(children.map((child) => child.stop()));
    await postgres.stop();
  };
  try {
    await migrate(postgres.superuserUrl);
    await enableLogins(postgres.superuserUrl);
    const urlOf = (role: DatabaseRole): string => loginUrl(postgres.superuserUrl, role);
    const workerEnv = {
      DATABASE_DIRECT_URL: urlOf('finegrain_system'),
      FINEGRAIN_SECRET_KEY: config.secretKey?.toString('base64'),
    };
    children.push(keepChild('main-worker.js', workerEnv, logger));
    if (existsSync(config.runner.python)) {
      const env = {
        DATABASE_DIRECT_URL: urlOf('finegrain_runner'),
        FINEGRAIN_SECRET_KEY: undefined, // a runner opens no secret
        FINEGRAIN_SECRET_KEY_PREVIOUS: undefined,
      };
      for (let n = 0; n < config.embeddedRunners; n++)
        children.push(keepChild('main-runner.js', env, logger));
    } else
      logger.warn(
        `No runner: runs stay queued until there is a Python environment. "npm start -- --with-runner" makes it.`,
      );
    return { apiDatabaseUrl: urlOf('finegrain_api'), broken: postgres.broken, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

interface Kept {
  stop(): Promise<void>;
}

const lookMs = 1000;
const tries = 5;

/** The server under one address; one that was killed is started again under it. */
async function keepPostgres(
  dataDir: string,
  logger: Logger,
): Promise<Kept & { superuserUrl: string; broken: Promise<never> }> {
  const log = (line: string) => logger.info(line);
  let postgres = await startEmbeddedPostgres({ dataDir, log });
  const { superuserUrl, port } = postgres;
  const ended = new AbortController();

  const again = async (): Promise<EmbeddedPostgres> => {
    for (let attempt = 1; ; attempt++) {
      try {
        const next = await startEmbeddedPostgres({ dataDir, log, port });
        if (next.port === port) return next;
        await next.stop();
        throw new Error(`Another process has started Postgres on port ${next.port}. Start finegrain again.`);
      } catch (error) {
        if (attempt === tries) throw error;
        logger.error({ err: error }, 'Postgres could not be started again, trying once more');
        await sleep(lookMs * attempt);
      }
    }
  };
  const watch = async (): Promise<void> => {
    while (!ended.signal.aborted) {
      await sleep(lookMs, undefined, { signal: ended.signal, ref: false }).catch(() => {}); // aborted: it is to end
      if (ended.signal.aborted || postgres.isRunning()) continue;
      logger.error('Postgres has ended by itself and is started again');
      await postgres.stop();
      postgres = await again();
    }
  };
  const watching = watch();
  const broken = new Promise<never>((_, reject) => {
    watching.catch((error: Error) =>
      reject(new Error(`Postgres ended by itself and could not be started again. ${error.message}`)),
    );
  });
  broken.catch(() => {}); // whoever serves waits for it as well
  return {
    superuserUrl,
    broken,
    async stop() {
      ended.abort();
      await watching.catch(() => {}); // told by `broken`
      await postgres.stop();
    },
  };
}

const lastsMs = 60_000;
const longestRestMs = 30_000;

/** A process that is started again when it ends by itself, later and later while it does not last. */
function keepChild(entry: string, env: NodeJS.ProcessEnv, logger: Logger): Kept {
  let stopping = false;
  let restart: NodeJS.Timeout | undefined;
  let short = 0; // lives in a row
  let child: ChildProcess;
  const start = (): void => {
    const started = performance.now();
    child = startChild(entry, env);
    child.once('exit', (code, signal) => {
      if (stopping) return;
      short = performance.now() - started < lastsMs ? short + 1 : 1;
      const restMs = Math.min(500 * 2 ** (short - 1), longestRestMs);
      logger.error({ entry, code, signal, restMs }, 'a child process ended by itself and is started again');
      restart = setTimeout(start, restMs);
    });
  };
  start();
  return {
    async stop() {
      stopping = true;
      clearTimeout(restart);
      await stopChild(child);
    },
  };
}

function startChild(entry: string, env: NodeJS.ProcessEnv): ChildProcess {
  return fork(new URL(entry, import.meta.url), {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    detached: true, // Ctrl-C in a terminal reaches this process only, which then stops its children in order
  });
}

const stopLimitMs = 30_000;

function stopChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => {
    const overdue = setTimeout(() => child.kill('SIGKILL'), stopLimitMs);
    child.once('exit', () => {
      clearTimeout(overdue);
      resolve();
    });
    if (child.connected) child.disconnect(); // the child sees it and stops as on SIGTERM
  });
}
