// The servers that are compared, each with one way to score items.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, request } from 'undici';
import { createClient } from '../../examples/client.ts';
import { freePort } from '../../src/db/embedded/server.ts';
import type { ScoreItem } from '../../src/services/scoring.ts';
import { type Installation, readyAddress } from '../../test/support/installation.ts';
import { cpuSeconds } from './processes.ts';

export interface Scores {
  token_ids: number[];
  rewards: number[];
}

export interface Server {
  name: string;
  /** @throws Error unless every item was scored */
  score(items: ScoreItem[]): Promise<Scores[]>;
  /** of all of its processes, its database among them */
  cpuSeconds(): number;
}

const agent = new Agent({ connections: 512, headersTimeout: 0, bodyTimeout: 0 });

export async function post(url: string, body: unknown): Promise<{ status: number; text: string }> {
  const answer = await request(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${benchmarkKey}` },
    body: JSON.stringify(body),
    dispatcher: agent,
  });
  return { status: answer.statusCode, text: await answer.body.text() };
}

async function results(answer: Promise<{ status: number; text: string }>): Promise<Scores[]> {
  const { status, text } = await answer;
  if (status !== 200) throw new Error(`${status} ${text.slice(0, 500)}`);
  const { results } = JSON.parse(text) as { results: (Scores & { status?: string })[] };
  const failed = results.find((result) => result.status === 'error');
  if (failed) throw new Error(JSON.stringify(failed));
  return results;
}

export interface Finegrain {
  url: string;
  /** p99 since it was last asked, seconds */
  eventLoopDelay(): Promise<number>;
  server(name: string, options?: Record<string, unknown>): Server;
  stop(): Promise<void>;
}

export const benchmarkKey = 'a-key-of-the-benchmark';

/** The API on an installation, as an operator runs it. */
export async function startFinegrain(
  installation: Installation,
  env: NodeJS.ProcessEnv = {},
): Promise<Finegrain> {
  const api = installation.run('main-api.js', [], {
    DATABASE_URL: installation.directUrl('finegrain_api'),
    FINEGRAIN_API_KEY: benchmarkKey,
    FINEGRAIN_RATE_LIMIT: '0',
    HOST: '127.0.0.1',
    PORT: '0',
    LOG_LEVEL: 'error',
    ...env,
  });
  const url = await readyAddress(api);
  const pids = [api.process.pid!, installation.postgres.pid];
  return {
    url,
    async eventLoopDelay() {
      const text = await (await fetch(`${url}/metrics`)).text();
      return Number(/^nodejs_eventloop_lag_p99_seconds (\S+)$/m.exec(text)?.[1]);
    },
    server: (name, options = {}) => ({
      name,
      score: (items) => results(post(`${url}/v1/score`, { ...options, items })),
      cpuSeconds: () => cpuSeconds(pids),
    }),
    async stop() {
      api.process.kill('SIGTERM');
      await api.ended;
    },
  };
}

/** Registers the model of a folder and gives it an alias, as docs/models.md says. */
export async function registerFolder({ url }: Finegrain, folder: string, alias: string): Promise<void> {
  const { request } = createClient(url, benchmarkKey);
  const files = [];
  for (const path of (await readdir(folder)).sort()) {
    const answer = await fetch(`${url}/v1/artifacts`, {
      method: 'POST',
      body: await readFile(join(folder, path)),
      headers: { authorization: `Bearer ${benchmarkKey}`, 'content-type': 'application/octet-stream' },
    });
    files.push({ path, digest: ((await answer.json()) as { digest: string }).digest });
  }
  const { id } = await request('POST', '/v1/models', { name: alias, role: 'token_reward', files });
  await request('PUT', `/v1/aliases/${alias}`, { model_id: id });
}

export interface Peer extends Server {
  stop(): Promise<void>;
}

/** @param python of the trainer's environment; `packages` has the web server's */
export async function startPeer(
  folder: string,
  dtype: 'float32' | 'bfloat16',
  { python, packages }: { python: string; packages: string },
): Promise<Peer> {
  const port = await freePort();
  const child = spawn(python, ['bench/score/peer.py', folder, String(port), dtype], {
    env: { PATH: process.env.PATH, PYTHONPATH: packages, OMP_NUM_THREADS: '1' },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  process.once('exit', () => child.kill('SIGKILL'));
  const url = `http://127.0.0.1:${port}`;
  while (
    !(await fetch(`${url}/health`).then(
      (answer) => answer.ok,
      () => false,
    ))
  ) {
    if (child.exitCode !== null) throw new Error(`The peer ended with ${child.exitCode}.`);
    await sleep(200);
  }
  return {
    name: `peer ${dtype}`,
    score: (items) => results(post(`${url}/score`, { items })),
    cpuSeconds: () => cpuSeconds([child.pid!]),
    async stop() {
      child.kill('SIGTERM');
      await once(child, 'exit');
    },
  };
}
