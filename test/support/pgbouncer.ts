// A real pgbouncer in transaction mode before a test's Postgres, with so few server connections that its clients share
// them. It knows the logins of src/db/logins.ts and reaches every database of the server.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from '../../src/db/embedded/server.ts';
import { giveTo, serviceUser } from '../../src/db/embedded/service-user.ts';
import { loginUrl } from '../../src/db/logins.ts';

export interface Pooler {
  /** host:port */
  address: string;
  /** Ends it at once, in the middle of whatever it carries, and starts it again under the same address. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

export interface PoolerOptions {
  /** of the Postgres behind it, whose roles may log in */
  superuserUrl: string;
  /** to be made: holds settings, passwords and the log */
  folder: string;
  /** server connections of one role in one database */
  poolSize?: number;
}

/** The program that `npm test` found or unpacked, or null. */
export function pgbouncerProgram(): string | null {
  const unpacked = resolve(process.env.FINEGRAIN_DATA_DIR || '.finegrain', 'pgbouncer', 'pgbouncer');
  return process.env.FINEGRAIN_PGBOUNCER || (existsSync(unpacked) ? unpacked : null);
}

/** `url` through the pooler at `address`. */
export function throughPooler(url: string, address: string): string {
  return Object.assign(new URL(url), { host: address }).href;
}

export async function startPgbouncer(
  program: string,
  { superuserUrl, folder, poolSize = 3 }: PoolerOptions,
): Promise<Pooler> {
  const user = serviceUser(folder); // like Postgres it refuses to run as root
  mkdirSync(folder, { mode: 0o700, recursive: true });
  giveTo(user, folder);
  const port = await freePort();
  const write = (name: string, text: string): void => {
    writeFileSync(join(folder, name), text, { mode: 0o600 });
    giveTo(user, join(folder, name));
  };
  const logins = (['finegrain_api', 'finegrain_system', 'finegrain_runner'] as const)
    .map((role) => new URL(loginUrl(superuserUrl, role)))
    .map(({ username, password }) => `"${username}" "${password}"\n`);
  write('users.txt', logins.join(''));
  write(
    'pgbouncer.ini',
    `[databases]
* = host=127.0.0.1 port=${new URL(superuserUrl).port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = users.txt
pool_mode = transaction
default_pool_size = ${poolSize}
max_client_conn = 1000
server_login_retry = 1
query_wait_timeout = 10
`,
  );
  const switchUser = user
    ? ['-u', execFileSync('id', ['-nu', `${user.uid}`], { encoding: 'utf8' }).trim()]
    : [];

  let child: ChildProcess;
  const start = async (): Promise<void> => {
    const log = openSync(join(folder, 'pgbouncer.log'), 'a');
    // file names are relative to the folder: the folders above it may be closed to the service user
    child = spawn(program, [...switchUser, 'pgbouncer.ini'], { cwd: folder, stdio: ['ignore', log, log] });
    closeSync(log);
    await once(child, 'spawn');
    while (!(await accepts(port))) {
      if (child.exitCode !== null || child.signalCode !== null)
        throw new Error(`pgbouncer did not start:\n${readFileSync(join(folder, 'pgbouncer.log'), 'utf8')}`);
      await sleep(20);
    }
  };
  const stop = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL'); // what other signals mean differs from version to version
    await once(child, 'exit');
  };
  await start();
  return {
    address: `127.0.0.1:${port}`,
    async restart() {
      await stop();
      await start();
    },
    stop,
  };
}

function accepts(port: number): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('error', () => done(false));
    socket.once('connect', () => {
      socket.destroy();
      done(true);
    });
  });
}
