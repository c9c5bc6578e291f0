// Embedded mode: Postgres from an npm package, migrated, with a worker and a CPU runner as child processes, each under
// its own database role. Everything ends with this process; a second start on the same data folder attaches.
import { type ChildProcess, fork } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import type { Config } from './config.ts';
import { startEmbeddedPostgres } from './db/embedded-postgres.ts';
import { enableLogins, loginUrl } from './db/logins.ts';
import { migrate } from './db/migrate.ts';
import type { DatabaseRole } from './db/pool.ts';

export interface EmbeddedStack {
  apiDatabaseUrl: string;
  stop(): Promise<void>;
}

export async function startEmbeddedStack(config: Config, logger: Logger): Promise<EmbeddedStack> {
  await mkdir(config.dataDir, { recursive: true });
  const postgres = await startEmbeddedPostgres({
    dataDir: join(config.dataDir, 'postgres'),
    log: (line) => logger.info(line),
  });
  const children: ChildProcess[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all(children.map(stopChild));
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
    children.push(startChild('main-worker.ts', workerEnv, logger));
    if (existsSync(config.runner.python)) {
      const env = {
        DATABASE_DIRECT_URL: urlOf('finegrain_runner'),
        FINEGRAIN_SECRET_KEY: undefined, // a runner opens no secret
        FINEGRAIN_SECRET_KEY_PREVIOUS: undefined,
      };
      for (let n = 0; n < config.embeddedRunners; n++)
        children.push(startChild('main-runner.ts', env, logger));
    } else
      logger.warn(
        `No runner: runs stay queued until there is a Python environment. "npm start -- --with-runner" makes it.`,
      );
    return {
      apiDatabaseUrl: urlOf('finegrain_api'),
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

function startChild(entry: string, env: NodeJS.ProcessEnv, logger: Logger): ChildProcess {
  const child = fork(new URL(entry, import.meta.url), {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    detached: true, // Ctrl-C in a terminal reaches this process only, which then stops its children in order
  });
  child.on('exit', (code, signal) => {
    if (child.connected) logger.error({ entry, code, signal }, 'a child process ended by itself');
  });
  return child;
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
