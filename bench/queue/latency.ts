// From POST /v1/runs to the start of the trainer's process, in turn with graphile-worker's add_job → task.
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Logger, run as startWorker } from 'graphile-worker';
import pg from 'pg';
import { quantile } from '../../test/soak/trend.ts';
import { type Installation, readyAddress } from '../../test/support/installation.ts';

const key = 'the-bootstrap-key-of-this-bench';
const barMs = 50;
const warmUps = 5;
const now = (): number => performance.timeOrigin + performance.now();

export async function measureLatency(installation: Installation, rounds: number): Promise<string> {
  const starts = join(installation.folder, 'starts');
  await writeFile(starts, '');
  const env = { LOG_LEVEL: 'warn', FINEGRAIN_POLL_SECONDS: '10' };
  const api = installation.run('main-api.js', [], {
    ...env,
    DATABASE_URL: installation.directUrl('finegrain_api'),
    FINEGRAIN_API_KEY: key,
    HOST: '127.0.0.1',
    PORT: '0',
  });
  const runner = installation.run('main-runner.js', [], {
    ...env,
    DATABASE_DIRECT_URL: installation.directUrl('finegrain_runner'),
    FINEGRAIN_PYTHON: await clockedTrainer(installation.folder, starts),
  });
  const url = await readyAddress(api);
  const call = async (method: string, path: string, body?: string, type = 'application/json') => {
    const headers = {
      authorization: `Bearer ${key}`,
      ...(body === undefined ? {} : { 'content-type': type }),
    };
    const response = await fetch(url + path, { method, headers, ...(body === undefined ? {} : { body }) });
    // biome-ignore lint/suspicious/noExplicitAny: the shapes are the document's
    const answer = (await response.json()) as any;
    if (!response.ok) throw new Error(JSON.stringify(answer));
    return answer;
  };
  const rows = '{"prompt": "Greet Anna.", "response": "Dear Anna, good morning."}\n';
  const { digest } = await call('POST', '/v1/artifacts', rows, 'application/x-ndjson');
  const request = JSON.stringify({
    kind: 'sft',
    spec: { base_model: { scratch: {} }, data: { demonstrations: digest } },
  });
  const viaRun = async (): Promise<number> => {
    const posted = now();
    const { id } = await call('POST', '/v1/runs', request);
    for (const end = posted + 60_000; ; ) {
      const line = (await readFile(starts, 'utf8')).split('\n').find((line) => line.includes(id));
      if (line) {
        while ((await call('GET', `/v1/runs/${id}`)).finished_at === null) await sleep(20);
        return Number(line.split(' ')[1]) / 1e6 - posted;
      }
      if (now() > end) throw new Error(`The run did not start:\n${runner.stderr()}`);
      await sleep(20);
    }
  };

  const { viaJob, stop } = await openGraphileWorker(installation);
  const ours: number[] = [];
  const theirs: number[] = [];
  for (let round = -warmUps; round < rounds; round++) {
    const [run, job] = [await viaRun(), await viaJob()];
    if (round < 0) continue;
    ours.push(run);
    theirs.push(job);
    await sleep(Math.random() * 50);
  }
  await stop();
  const [p50, p95, theirs50, theirs95] = [ours, theirs].flatMap((times) => [
    quantile(times, 0.5),
    quantile(times, 0.95),
  ]) as [number, number, number, number];
  for (const program of [api, runner]) {
    program.process.kill('SIGTERM');
    await program.ended;
  }
  const reached = p50 - theirs50 <= barMs ? 'reached' : 'missed';
  return [
    '## From the request to the start of the work',
    `${rounds} rounds in turn, one API process, one idle runner, one idle graphile-worker, one Postgres with fsync.`,
    `| | p50 | p95 |
| --- | --- | --- |
| \`POST /v1/runs\` → the trainer's process starts | ${p50.toFixed(1)} ms | ${p95.toFixed(1)} ms |
| graphile-worker: \`add_job\` → the task starts | ${theirs50.toFixed(1)} ms | ${theirs95.toFixed(1)} ms |
| difference | ${(p50 - theirs50).toFixed(1)} ms | ${(p95 - theirs95).toFixed(1)} ms |`,
    `- **${reached}**: p50 at most ${barMs} ms over graphile-worker's: ${(p50 - theirs50).toFixed(1)} ms`,
  ].join('\n\n');
}

/** Instead of Python: the first thing that it does is to write down when that was; then it fails its run. */
async function clockedTrainer(folder: string, starts: string): Promise<string> {
  const path = join(folder, 'clocked-trainer');
  const script = `#!/bin/sh
[ "$1" = -c ] && exit 0
echo "$7 $(date +%s%N)" >> '${starts}'
echo '{"type":"failure","reason":"bench","detail":"That is all."}'
exit 1
`;
  await writeFile(path, script);
  await chmod(path, 0o755);
  return path;
}

async function openGraphileWorker({ postgres }: Installation) {
  const admin = new pg.Client({ connectionString: postgres.superuserUrl });
  await admin.connect();
  await admin.query('create database graphile');
  await admin.end();
  const connectionString = Object.assign(new URL(postgres.superuserUrl), { pathname: '/graphile' }).href;
  let started = (_at: number): void => {};
  const worker = await startWorker({
    connectionString,
    concurrency: 1,
    noHandleSignals: true,
    taskList: { task: () => Promise.resolve(started(now())) },
    logger: new Logger(() => () => {}),
  });
  const pool = new pg.Pool({ connectionString });
  return {
    async viaJob(): Promise<number> {
      const at = new Promise<number>((resolve) => {
        started = resolve;
      });
      const asked = now();
      await pool.query("select graphile_worker.add_job('task')");
      return (await at) - asked;
    },
    async stop() {
      await worker.stop();
      await pool.end();
    },
  };
}
