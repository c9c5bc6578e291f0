// The servers that are compared, each with one way to score items.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { Agent, request } from 'undici';
import { v7 as uuidv7 } from 'uuid';
import { freePort } from '../../src/db/embedded/server.ts';
import { modelDigest } from '../../src/domain/model-digest.ts';
import { defaultProjectId } from '../../src/services/keys.ts';
import type { ScoreItem } from '../../src/services/scoring.ts';
import { openArtifactStore } from '../../src/storage/artifact-store.ts';
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

export async function post(
  url: string,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<{ status: number; text: string }> {
  const answer = await request(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
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
  key: string;
  /** p99 since it was last asked, seconds */
  eventLoopDelay(): Promise<number>;
  server(name: string, options?: Record<string, unknown>): Server;
  stop(): Promise<void>;
}

const key = 'a-key-of-the-benchmark';

/** The API on an installation, as an operator runs it. */
export async function startFinegrain(
  installation: Installation,
  env: NodeJS.ProcessEnv = {},
): Promise<Finegrain> {
  const api = installation.run('main-api.js', [], {
    DATABASE_URL: installation.directUrl('finegrain_api'),
    FINEGRAIN_API_KEY: key,
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
    key,
    async eventLoopDelay() {
      const text = await (await fetch(`${url}/metrics`)).text();
      return Number(/^nodejs_eventloop_lag_p99_seconds (\S+)$/m.exec(text)?.[1]);
    },
    server: (name, options = {}) => ({
      name,
      score: (items) =>
        results(post(`${url}/v1/score`, { ...options, items }, { authorization: `Bearer ${key}` })),
      cpuSeconds: () => cpuSeconds(pids),
    }),
    async stop() {
      api.process.kill('SIGTERM');
      await api.ended;
    },
  };
}

/** Makes the model of a folder the default project's model of this alias. */
export async function registerFolder(
  installation: Installation,
  folder: string,
  alias: string,
): Promise<void> {
  const store = await openArtifactStore(installation.environment.FINEGRAIN_ARTIFACTS!);
  const files = [];
  for (const path of (await readdir(folder)).sort())
    files.push({ path, ...(await store.put(createReadStream(join(folder, path)))) });
  const tokenizer = files.find(({ path }) => path === 'tokenizer.json')!.digest;
  const client = new pg.Client({ connectionString: installation.postgres.superuserUrl });
  await client.connect();
  const id = uuidv7();
  await client.query(
    `insert into finegrain.models (project_id, id, name, role, digest, tokenizer_digest, files, metrics)
     values ($1, $2, $3, 'token_reward', $4, $5, $6, '{}')`,
    [defaultProjectId, id, alias, modelDigest(files), tokenizer, JSON.stringify(files)],
  );
  await client.query('insert into finegrain.aliases (project_id, name, model_id) values ($1, $2, $3)', [
    defaultProjectId,
    alias,
    id,
  ]);
  await client.end();
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
