// Starts the service as `npm start` does, waits until it is ready, and stops it with everything it started.
import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export interface Service {
  url: string;
  key: string;
  logFile: string;
  dataDir: string;
  /** of the trainer */
  python: string;
  /** Resolves when the service has ended, with everything it started. */
  stop(): Promise<void>;
}

export async function startService(): Promise<Service> {
  const dataDir = resolve(process.env.FINEGRAIN_DATA_DIR || '.finegrain');
  await mkdir(dataDir, { recursive: true });
  const logFile = join(dataDir, 'demo.log');
  const port = await freePort(Number(process.env.PORT || 3000));
  const child = spawn(process.execPath, ['dist/src/main-api.js'], {
    env: {
      ...process.env,
      FINEGRAIN_DATA_DIR: dataDir,
      PORT: String(port),
      HOST: '127.0.0.1',
      DATABASE_URL: '',
      FINEGRAIN_RUNNERS: process.env.FINEGRAIN_RUNNERS || String(Math.min(2, availableParallelism())),
    },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'], // the service stops when this process goes away, however it does
    detached: true, // Ctrl-C reaches this process only, which then stops the service in order
  });
  const log = createWriteStream(logFile);
  child.stdout!.pipe(log, { end: false });
  child.stderr!.pipe(log, { end: false });
  const url = `http://127.0.0.1:${port}`;
  const stop = (): Promise<void> => stopService(child);
  try {
    await waitUntilReady(url, child, logFile);
    const key = process.env.FINEGRAIN_API_KEY || (await readFile(join(dataDir, 'api-key'), 'utf8')).trim();
    const python = process.env.FINEGRAIN_PYTHON || join(dataDir, 'python', 'bin', 'python');
    return { url, key, logFile, dataDir, python, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function waitUntilReady(url: string, child: ChildProcess, logFile: string): Promise<void> {
  for (let attempt = 0; attempt < 600; attempt++) {
    if (child.exitCode !== null || child.signalCode !== null)
      throw new Error(`The service ended at its start; see ${logFile}.`);
    const ready = await fetch(`${url}/readyz`).then(
      (response) => response.ok,
      () => false, // not listening yet
    );
    if (ready) return;
    await sleep(100);
  }
  throw new Error(`The service was not ready within 60 s; see ${logFile}.`);
}

function stopService(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((done) => {
    child.once('exit', () => done());
    child.kill('SIGTERM');
  });
}

/** The preferred port, or any other when that is taken. */
function freePort(preferred: number): Promise<number> {
  return new Promise((done, failed) => {
    const server = createServer();
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE' && preferred !== 0) freePort(0).then(done, failed);
      else failed(error);
    });
    server.listen(preferred, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => done(port));
    });
  });
}
