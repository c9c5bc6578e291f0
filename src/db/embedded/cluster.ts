// Creates the data folder of Postgres. It appears under its name only when it is complete, so that an interrupted
// or a concurrent creation leaves nothing half done; its superuser password is made at random and lies in it.
import { type SpawnOptions, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { type PostgresBinaries, postgresEnvironment } from './binaries.ts';
import { giveTo, type ServiceUser } from './service-user.ts';

export interface Cluster {
  /** What the caller named: ours entirely. */
  folder: string;
  /** The data folder of Postgres, inside `folder`. */
  pgdata: string;
  user: ServiceUser | null;
  binaries: PostgresBinaries;
  log: (message: string) => void;
}

const passwordFile = 'finegrain-superuser-password';

/** Creates the data folder unless it is there; throws when another major version of Postgres made it. */
export async function ensureCluster(cluster: Cluster): Promise<void> {
  const { folder, pgdata, user, binaries } = cluster;
  if (!existsSync(folder)) {
    mkdirSync(path.dirname(folder), { recursive: true });
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    giveTo(user, folder);
  }
  await removeLeftovers(folder);
  if (!existsSync(path.join(pgdata, 'PG_VERSION'))) await create(cluster);
  const version = readFileSync(path.join(pgdata, 'PG_VERSION'), 'utf8').trim();
  if (version !== String(binaries.majorVersion)) {
    throw new Error(
      `The database in ${folder} was made by Postgres ${version}; this finegrain brings Postgres ${binaries.majorVersion}, ` +
        'which cannot read it. Nothing was changed. Either keep it and start with another FINEGRAIN_DATA_DIR, ' +
        `or serve ${pgdata} with a Postgres ${version} and set DATABASE_URL (pg_dump moves it from there).`,
    );
  }
}

/** The connection string of the superuser, with the password: never log it. */
export function superuserUrl(pgdata: string, port: number): string {
  const password = readFileSync(path.join(pgdata, passwordFile), 'utf8').trim();
  return `postgres://postgres:${password}@127.0.0.1:${port}/postgres`;
}

/**
 * How a Postgres program must be started so that it finds its data folder. The service user of root may have no way
 * through the folders above it, but stays in the folder that the program is started in, which Linux calls so.
 * Up to version 15 the programs leave that folder for a moment and need the way back.
 */
export function startedIn(
  pgdata: string,
  user: ServiceUser | null,
  { majorVersion }: PostgresBinaries,
): { dataArgument: string; options: SpawnOptions } {
  const stays = user && process.platform === 'linux' && majorVersion >= 16;
  const dataArgument = stays ? '/proc/self/cwd' : pgdata;
  return { dataArgument, options: { ...user, cwd: pgdata, env: postgresEnvironment } };
}

async function create({ folder, pgdata, user, binaries, log }: Cluster): Promise<void> {
  const started = performance.now();
  const suffix = `new-${process.pid}-${randomBytes(4).toString('hex')}`;
  const fresh = `${pgdata}.${suffix}`;
  const password = path.join(folder, `password.${suffix}`);
  try {
    mkdirSync(fresh, { mode: 0o700 });
    giveTo(user, fresh);
    writeFileSync(password, `${randomBytes(24).toString('hex')}\n`, { mode: 0o600 });
    giveTo(user, password);
    await initdb(binaries, fresh, password, user);
    renameSync(password, path.join(fresh, passwordFile));
    renameSync(fresh, pgdata);
    log(`Created a database in ${folder} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
  } catch (error) {
    // another process may have been faster; then its folder is as good as ours
    if (!existsSync(path.join(pgdata, 'PG_VERSION'))) throw error;
  } finally {
    rmSync(fresh, { recursive: true, force: true });
    rmSync(password, { force: true });
  }
}

function initdb(
  binaries: PostgresBinaries,
  fresh: string,
  password: string,
  user: ServiceUser | null,
): Promise<void> {
  const { dataArgument, options } = startedIn(fresh, user, binaries);
  const stdin = openSync(password, 'r'); // handed over open, as the path may be out of the service user's reach
  const args = ['-D', dataArgument, '-U', 'postgres', '--pwfile=/dev/stdin', '--auth=scram-sha-256'];
  const builtin =
    binaries.majorVersion >= 17 ? ['--locale-provider=builtin', '--builtin-locale=C.UTF-8'] : [];
  const locale = ['--encoding=UTF8', '--locale=C', ...builtin];
  const child = spawn(binaries.initdb, [...args, ...locale, '--no-sync', '--no-instructions'], {
    ...options,
    stdio: [stdin, 'ignore', 'pipe'],
  });
  closeSync(stdin);
  let said = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) =>
      code === 0 ? resolve() : reject(new Error(`initdb failed: ${complaints(said)}`)),
    );
  });
}

/** What matters of the output of a Postgres program that failed, on one line. */
export function complaints(said: string): string {
  const lines = said.split('\n').map((line) => line.replace(/^.*?\[\d+\] /, '').trim());
  const serious = lines.filter((line) =>
    /^(FATAL|PANIC|ERROR|HINT|DETAIL|WARNING|LOG: +could not|initdb: error)\b/.test(line),
  );
  return (serious.length > 0 ? serious : lines.filter(Boolean)).slice(-4).join(' ') || 'it said nothing';
}

/** What a killed creation left behind. Its initdb may still be at work for a second: hence the retries. */
async function removeLeftovers(folder: string): Promise<void> {
  for (const name of readdirSync(folder)) {
    const pid = /^(?:pgdata|password)\.new-(\d+)-/.exec(name)?.[1];
    if (pid !== undefined && !isRunning(Number(pid))) {
      await rm(path.join(folder, name), { recursive: true, force: true, maxRetries: 9, retryDelay: 100 });
    }
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
