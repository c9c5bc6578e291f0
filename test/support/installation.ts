// An installation as an operator makes it, of real parts: a Postgres of its own, a pgbouncer in transaction mode before it
// where there is one, and finegrain's processes, each with the login of its role. Knows no test runner, so that
// `npm run test:soak` uses it too.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { EmbeddedPostgres } from '../../src/db/embedded-postgres.ts';
import { enableLogins, loginUrl } from '../../src/db/logins.ts';
import type { DatabaseRole } from '../../src/db/pool.ts';
import { startTestPostgres } from './database.ts';
import { type Pooler, pgbouncerProgram, startPgbouncer, throughPooler } from './pgbouncer.ts';

export interface Program {
  process: ChildProcess;
  stdout(): string;
  stderr(): string;
  /** exit code, or the signal that ended it */
  ended: Promise<number | string>;
}

export interface Installation {
  /** new and private: data folders, artifacts */
  folder: string;
  /** as it was at first */
  postgres: EmbeddedPostgres;
  /** Ends Postgres by this signal, and starts it again under the same address after a while. */
  restartPostgres(signal: 'SIGINT' | 'SIGQUIT' | 'SIGKILL', downMs: number): Promise<void>;
  /** null where there is no pgbouncer */
  pooler: Pooler | null;
  directUrl(role: DatabaseRole): string;
  /** through the pooler where there is one */
  pooledUrl(role: DatabaseRole): string;
  /** the installation's folders */
  environment: NodeJS.ProcessEnv;
  /** Starts a file of src/; it sees PATH, HOME, TMPDIR, `environment` and `env`. */
  run(entry: string, args: string[], env: NodeJS.ProcessEnv): Program;
  /** Ends what still runs, at once, then pooler and Postgres. */
  stop(): Promise<void>;
}

/** @param options.settings of Postgres */
export async function installFinegrain(
  folder: string,
  { settings, ...options }: { poolSize: number; settings?: Record<string, string> },
): Promise<Installation> {
  const database = join(folder, 'postgres');
  let postgres = await startTestPostgres(database, undefined, settings);
  const { superuserUrl, port } = postgres;
  const restartPostgres: Installation['restartPostgres'] = async (signal, downMs) => {
    process.kill(postgres.pid, signal);
    while (postgres.isRunning()) await sleep(20);
    await postgres.stop();
    await sleep(downMs);
    for (let tries = 1; ; tries++) {
      try {
        postgres = await startTestPostgres(database, port, settings);
        return;
      } catch (error) {
        // somebody else's connection may have the port for a moment
        if (tries > 60 || !/Address already in use/.test((error as Error).message)) throw error;
        await sleep(1000);
      }
    }
  };
  const environment = {
    FINEGRAIN_DATA_DIR: join(folder, 'data'),
    FINEGRAIN_ARTIFACTS: join(folder, 'artifacts'),
  };
  const programs: Program[] = [];
  const run: Installation['run'] = (entry, args, env) => {
    const program = runProgram(join('dist', 'src', entry), args, { ...environment, ...env });
    programs.push(program);
    return program;
  };
  const migrated = run('cli.js', ['migrate'], { DATABASE_URL: superuserUrl });
  if ((await migrated.ended) !== 0) throw new Error(migrated.stderr());
  await enableLogins(superuserUrl);
  const program = pgbouncerProgram();
  const pooler = program
    ? await startPgbouncer(program, { superuserUrl, folder: join(folder, 'pgbouncer'), ...options })
    : null;
  const directUrl = (role: DatabaseRole): string => loginUrl(superuserUrl, role);
  return {
    folder,
    postgres,
    restartPostgres,
    pooler,
    environment,
    directUrl,
    pooledUrl: (role) => (pooler ? throughPooler(directUrl(role), pooler.address) : directUrl(role)),
    run,
    async stop() {
      for (const { process: child, ended } of programs) {
        child.kill('SIGKILL');
        await ended;
      }
      await pooler?.stop();
      await postgres.stop();
    },
  };
}

function runProgram(entry: string, args: string[], env: NodeJS.ProcessEnv): Program {
  const { PATH, HOME, TMPDIR } = process.env;
  const child = spawn(process.execPath, [entry, ...args], {
    env: { PATH, HOME, TMPDIR, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const said = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => {
      said[name] = (said[name] + text).slice(-1_000_000);
    });
  }
  const ended = once(child, 'close').then(([code, signal]) => code ?? signal);
  return { process: child, stdout: () => said.stdout, stderr: () => said.stderr, ended };
}

/** The address under which a `main-api.ts` says it is ready. @throws Error with its log when it ends instead */
export async function readyAddress(api: Program): Promise<string> {
  for (;;) {
    const url = /ready at (http:\S+)/.exec(api.stdout())?.[1];
    if (url) return url;
    if (api.process.exitCode !== null) throw new Error(`The API did not start:\n${api.stderr()}`);
    await sleep(20);
  }
}
