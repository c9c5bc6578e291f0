// Runner processes over a test server, and the runs that they take.
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';
import { hasEnded } from '../../src/domain/run-states.ts';
import type { Run } from '../../src/services/runs.ts';
import type { TestServer } from './server.ts';

/** The Python with the trainer's packages, or null where `npm run` has not made it. */
export function trainerPython(): string | null {
  const dataDir = resolve(process.env.FINEGRAIN_DATA_DIR || '.finegrain');
  const python = process.env.FINEGRAIN_PYTHON || join(dataDir, 'python', 'bin', 'python');
  return existsSync(python) ? python : null;
}

/** Something to call instead of Python, see fake-trainer.mjs. */
export async function fakePython(folder: string): Promise<string> {
  const path = join(folder, 'fake-python');
  const program = fileURLToPath(new URL('fake-trainer.mjs', import.meta.url));
  await writeFile(path, `#!/bin/sh\nexec '${process.execPath}' '${program}' "$@"\n`);
  await chmod(path, 0o755);
  return path;
}

export interface RunnerProcess {
  process: ChildProcess;
  log(): string;
  ended: Promise<{ code: number | null; signal: string | null }>;
}

/** Starts `main-runner.ts`; it is killed when the test ends. */
export function startRunner(
  t: Test,
  server: TestServer,
  options: { python: string; name?: string; args?: string[]; env?: NodeJS.ProcessEnv },
): RunnerProcess {
  const name = options.name ?? 'one';
  const child = spawn(process.execPath, ['dist/src/main-runner.js', ...(options.args ?? [])], {
    env: {
      PATH: process.env.PATH,
      HOME: process.env.HOME,
      DATABASE_DIRECT_URL: server.database.urlOf('finegrain_runner'),
      FINEGRAIN_API_KEY: 'a-key-that-no-trainer-sees',
      FINEGRAIN_DATA_DIR: join(server.dataDir, name),
      FINEGRAIN_ARTIFACTS: join(server.dataDir, 'artifacts'),
      FINEGRAIN_PYTHON: options.python,
      FINEGRAIN_RUNNER_NAME: name,
      FINEGRAIN_LEASE_SECONDS: '2',
      FINEGRAIN_POLL_SECONDS: '1',
      ...options.env,
    },
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
    if (!t.passing()) console.error(`The log of the runner ${name}:\n${log}`);
  });
  return { process: child, log: () => log, ended };
}

/** Whatever calls the API as a test server does. */
export type Client = Pick<TestServer, 'call'>;

/** Uploads rows and queues an sft run from scratch on them. */
export async function queueSft(
  server: Client,
  rows: object[],
  request: object = {},
  spec: object = {},
): Promise<Run> {
  const body = rows.map((row) => JSON.stringify(row)).join('\n');
  const artifact = await server.call('POST', '/v1/artifacts', {
    body,
    headers: { 'content-type': 'application/x-ndjson' },
  });
  const { status, body: run } = await server.call('POST', '/v1/runs', {
    json: {
      kind: 'sft',
      spec: { base_model: { scratch: {} }, data: { demonstrations: artifact.body.digest }, ...spec },
      ...request,
    },
  });
  if (status !== 202) throw new Error(JSON.stringify(run));
  return run;
}

export const queueFake = (server: TestServer, behaviour: string, request: object = {}, spec: object = {}) =>
  queueSft(server, [{ prompt: behaviour, response: '' }], request, spec);

/** Asks until the run is as wanted. @throws Error after `seconds` */
export async function untilRun(
  server: Client,
  id: string,
  wanted: (run: Run) => boolean,
  seconds = 30,
): Promise<Run> {
  let pauseMs = 30;
  for (const end = Date.now() + seconds * 1000; ; ) {
    const { body: run } = await server.call('GET', `/v1/runs/${id}`);
    if (wanted(run)) return run;
    if (Date.now() > end) throw new Error(`After ${seconds} s the run is still ${JSON.stringify(run)}`);
    await sleep(pauseMs);
    pauseMs = Math.min(pauseMs * 1.2, 250); // each answer is checked, which takes the time of what is waited for
  }
}

export const untilEnded = (server: Client, id: string, seconds?: number) =>
  untilRun(server, id, ({ state }) => hasEnded(state), seconds);

export async function eventsOf(
  server: Client,
  id: string,
): Promise<{ sequence: number; type: string; attempt: number; data: Record<string, unknown> }[]> {
  return (await server.call('GET', `/v1/runs/${id}/events?limit=1000`)).body.items;
}

/** Process id of the trainer of an attempt, which the fake one tells in its log. */
export async function trainerPid(server: TestServer, id: string, attempt: number): Promise<number> {
  for (;;) {
    const told = (await eventsOf(server, id)).find(
      ({ type, data, ...event }) =>
        type === 'log' && event.attempt === attempt && /^pid /.test(String(data.message)),
    );
    if (told) return Number(String(told.data.message).slice(4));
    await sleep(50);
  }
}
