// Postgres without an installation: creates a database folder, runs the server that npm brought, and stops it again.
//
// `dataDir` holds `pgdata/` (the data folder of Postgres, with the superuser's password in it, mode 0600),
// `postgres.log`, and `users/` (which processes use the server). What it guarantees:
// - The server listens on 127.0.0.1 only, on no socket file, and asks for a password made at random for this folder.
// - One server serves a folder: a second process attaches to it, also to one whose starter was killed. The last
//   process to call `stop()`, or to exit, shuts it down, whoever started it. SIGKILL leaves it to the next start.
// - The data stays in `dataDir`, whatever the rights of the folders above: root needs no public folder (cluster.ts).
// - Signals are the caller's: a handler calls `stop()` or `process.exit()`, and should be there before the start.
import type { ChildProcess } from 'node:child_process';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { postgresBinaries } from './embedded/binaries.ts';
import { type Cluster, ensureCluster, superuserUrl } from './embedded/cluster.ts';
import { findPostmaster, isPostmasterOf, type Postmaster } from './embedded/postmaster.ts';
import { pollMs, type ServerOptions, startServer, stopServer } from './embedded/server.ts';
import { type ServiceUser, serviceUser } from './embedded/service-user.ts';
import { registerUser, type UserEntry } from './embedded/users.ts';

export interface EmbeddedPostgresOptions {
  /** A folder of our own; made when missing. */
  dataDir: string;
  log: (message: string) => void;
  /** Server settings on top of ours. They count only when this call starts the server. */
  settings?: Record<string, string>;
  /** Default: any free port. A server that runs already keeps its own. */
  port?: number;
  /** A folder with another `postgres` and `initdb` than those that npm brought. */
  binaries?: string | undefined;
}

export interface EmbeddedPostgres {
  /** Holds the password: never log it. */
  superuserUrl: string;
  port: number;
  pid: number;
  /** True when the server ran already. */
  attached: boolean;
  isRunning(): boolean;
  /** Shuts the server down (open transactions are rolled back) unless another process still uses it. */
  stop(): Promise<void>;
}

const attachTimeoutMs = 120_000; // for a server of another process to become ready, or to end

/** Resolves when the server takes connections. Throws an Error that says what to do when it cannot be had. */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const folder = path.resolve(options.dataDir);
  const pgdata = path.join(folder, 'pgdata');
  let user: ServiceUser | null = null;
  try {
    user = serviceUser(pgdata);
    const binaries = await postgresBinaries(user, options.binaries);
    const cluster = { folder, pgdata, user, binaries, log: options.log };
    await ensureCluster(cluster);
    return await attachOrStart(cluster, options);
  } catch (error) {
    throw explain(error, folder, user);
  }
}

async function attachOrStart(cluster: Cluster, options: ServerOptions): Promise<EmbeddedPostgres> {
  const { folder, pgdata, log } = cluster;
  const entry = registerUser(folder, cluster.user);
  let spawned: ChildProcess | undefined;
  const leaveAtOnce = () => {
    const pid = findPostmaster(pgdata)?.pid ?? (spawned?.exitCode === null ? spawned.pid : undefined);
    if (entry.leave() && pid !== undefined) process.kill(pid, 'SIGINT');
    entry.remove();
  };
  process.once('exit', leaveAtOnce);
  try {
    const { pid, port } = await readyServer(cluster, entry, options, (server) => {
      spawned = server;
    });
    const url = superuserUrl(pgdata, port);
    await checkConnection(url);
    const attached = pid !== spawned?.pid;
    log(`Postgres ${attached ? 'ran already' : 'is ready'} on 127.0.0.1:${port}, its data in ${folder}`);
    let stopped: Promise<void> | undefined;
    const stop = () => {
      process.off('exit', leaveAtOnce);
      stopped ??= leave(cluster, entry, pid);
      return stopped;
    };
    const isRunning = () => isPostmasterOf(pid, pgdata);
    return { superuserUrl: url, port, pid, attached, isRunning, stop };
  } catch (error) {
    process.off('exit', leaveAtOnce);
    leaveAtOnce();
    throw error;
  }
}

/** The server of this folder, found or started: whichever of several processes is first starts it. */
async function readyServer(
  cluster: Cluster,
  entry: UserEntry,
  options: ServerOptions,
  onSpawn: (server: ChildProcess) => void,
): Promise<Postmaster> {
  const deadline = Date.now() + attachTimeoutMs;
  while (Date.now() < deadline) {
    const stopping = entry.someoneIsLeaving();
    const server = findPostmaster(cluster.pgdata);
    if (server?.ready && !stopping) return server;
    if (server || stopping) await sleep(pollMs);
    else await startServer(cluster, options, onSpawn);
  }
  throw new Error(
    `the server of another process was neither ready nor gone after ${attachTimeoutMs / 1000} s`,
  );
}

async function leave({ folder, pgdata, log }: Cluster, entry: UserEntry, pid: number): Promise<void> {
  try {
    if (entry.leave()) await stopServer(pid, pgdata);
    else log(`Postgres keeps running for another process, its data in ${folder}`);
  } finally {
    entry.remove();
  }
}

/** Proves that our password fits. */
async function checkConnection(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 10_000 });
  client.on('error', () => undefined); // the connection's loss shows in `connect` or does not matter any more
  await client.connect();
  await client.end();
}

/** Adds to an error of the system what a person can do about it. */
function explain(error: unknown, folder: string, user: ServiceUser | null): Error {
  const message = error instanceof Error ? error.message : String(error);
  let advice = '';
  if (/ENOSPC|EDQUOT|No space left|free disk space|quota exceeded/i.test(message)) {
    advice =
      '\nThe disk is full, and a new database takes about 60 MB: make room, or set FINEGRAIN_DATA_DIR to a folder elsewhere.';
  } else if (/EACCES|EPERM|EROFS|Permission denied|Read-only/i.test(message)) {
    advice = `\nUser ${user?.uid ?? process.getuid?.()} must be able to write there: correct its rights, or set FINEGRAIN_DATA_DIR to another folder.`;
  }
  return new Error(`Embedded Postgres in ${folder}: ${message}${advice}`, { cause: error });
}
