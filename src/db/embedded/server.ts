// Spawns the Postgres server of one data folder and waits for it; stops it whoever spawned it.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Cluster, complaints, startedIn } from './cluster.ts';
import { findPostmaster, isPostmasterOf } from './postmaster.ts';
import { giveTo } from './service-user.ts';

export interface ServerOptions {
  port?: number;
  settings?: Record<string, string>;
}

export const pollMs = 20;
const stopTimeoutMs = 30_000;
const defaultSettings = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  shared_buffers: '64MB',
  max_connections: '100',
  cluster_name: 'finegrain',
};

/**
 * Spawns a server and waits until it takes connections, which after a crash may take a while.
 * Returns without one when another server has the folder: the caller looks again.
 * @param onSpawn is called at once, so that the caller can stop a server that is not ready yet
 */
export async function startServer(
  cluster: Cluster,
  options: ServerOptions,
  onSpawn: (server: ChildProcess) => void,
): Promise<void> {
  const { pgdata, user, binaries } = cluster;
  const { dataArgument, options: place } = startedIn(pgdata, user, binaries);
  const port = options.port || (await freePort());
  const settings = Object.entries({ ...defaultSettings, ...options.settings });
  const args = ['-D', dataArgument, '-p', `${port}`, ...settings.flatMap(([k, v]) => ['-c', `${k}=${v}`])];

  const logFile = path.join(cluster.folder, 'postgres.log');
  const log = openSync(logFile, 'a', 0o600); // a file, as a pipe would break when we are killed
  giveTo(user, logFile);
  const logStart = fstatSync(log).size;
  // detached: Ctrl-C in a terminal reaches us alone, and the server outlives those who still use it
  const server = spawn(binaries.postgres, args, { ...place, detached: true, stdio: ['ignore', log, log] });
  closeSync(log);
  server.unref();
  await once(server, 'spawn'); // rejects when the program cannot be run
  onSpawn(server);

  while (server.exitCode === null && server.signalCode === null) {
    const found = findPostmaster(pgdata);
    if (found?.pid === server.pid && found?.ready) return;
    await sleep(pollMs);
  }
  const said = readFileSync(logFile).subarray(logStart).toString();
  const gaveWay = /lock file "postmaster.pid" already exists|pre-existing shared memory block/.test(said);
  const lostItsPort = !options.port && said.includes('Address already in use');
  if (gaveWay || lostItsPort) {
    await sleep(5 * pollMs);
    return;
  }
  throw new Error(`Postgres did not start: ${complaints(said)} (the whole log: ${logFile})`);
}

/** Fast shutdown: open transactions are rolled back, the data folder is left clean. */
export async function stopServer(pid: number, pgdata: string): Promise<void> {
  if (isPostmasterOf(pid, pgdata)) process.kill(pid, 'SIGINT');
  const patience = Date.now() + stopTimeoutMs;
  while (isPostmasterOf(pid, pgdata)) {
    if (Date.now() > patience) {
      process.kill(pid, 'SIGQUIT'); // at once; the next start recovers from the log, nothing committed is lost
      return;
    }
    await sleep(pollMs);
  }
}

/** A port of 127.0.0.1 that is free at this moment. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}
