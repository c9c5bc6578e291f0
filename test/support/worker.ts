// A worker process over a test database.
import { type ChildProcess, spawn } from 'node:child_process';
import type { Test } from 'tap';
import type { TestDatabase } from './database.ts';

export interface WorkerProcess {
  process: ChildProcess;
  log(): string;
  ended: Promise<{ code: number | null; signal: string | null }>;
}

/** Starts `main-worker.ts`; it is killed when the test ends. */
export function startWorker(t: Test, database: TestDatabase, env: NodeJS.ProcessEnv = {}): WorkerProcess {
  const child = spawn(process.execPath, ['dist/src/main-worker.js'], {
    env: { PATH: process.env.PATH, DATABASE_DIRECT_URL: database.urlOf('finegrain_system'), ...env },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    log += text;
  });
  const ended = new Promise<{ code: number | null; signal: string | null }>((resolve) => {
    child.once('exit', (code, signal) => resolve({ code, signal }));
  });
  t.teardown(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  return { process: child, log: () => log, ended };
}
