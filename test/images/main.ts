// `npm run test:images`: the images' Dockerfiles carried out here (see rehearsal.ts), then an installation of them against a
// real Postgres: migrate, logins, API, worker and runners, each read-only and without rights. Takes minutes, and root on
// Debian or Ubuntu; downloads what the Dockerfiles install. Ends with `N passed, N failed`.
import { spawnSync } from 'node:child_process';
import { chmod, chown, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startTestPostgres } from '../support/database.ts';
import { runProgram } from '../support/programs.ts';
import { buildImage, type Container, freeze, type Image, start } from './rehearsal.ts';

if (process.env.FINEGRAIN_REHEARSAL !== 'inside') {
  const args = ['--mount', '--propagation', 'private', process.execPath, ...process.argv.slice(1)];
  const env = { ...process.env, FINEGRAIN_REHEARSAL: 'inside' };
  const { status, error } = spawnSync('unshare', args, { stdio: 'inherit', env });
  if (error) console.log(`Images are rehearsed on Linux, by root: ${error.message}`);
  process.exit(status ?? 1);
}

const totals = { passed: 0, failed: 0 };
function check(promise: string, holds: boolean, detail: unknown = ''): void {
  totals[holds ? 'passed' : 'failed'] += 1;
  console.log(`${holds ? 'ok    ' : 'FAILED'} ${promise}${holds ? '' : `\n${detail}`}`);
}

const folder = await mkdtemp(join(tmpdir(), 'finegrain-images-'));
await chmod(folder, 0o755);
const containers: Container[] = [];
let stopPostgres = async (): Promise<void> => {};
try {
  await rehearse();
} catch (error) {
  check('the rehearsal came to its end', false, (error as Error).stack);
} finally {
  for (const { process: child } of containers) child.kill('SIGKILL');
  await Promise.all(containers.map(({ ended }) => ended));
  await stopPostgres();
  for (const line of spawnSync('findmnt', ['-rno', 'TARGET'], { encoding: 'utf8' })
    .stdout.split('\n')
    .reverse())
    if (line.startsWith(folder)) spawnSync('umount', ['-l', line]);
  await rm(folder, { recursive: true, force: true });
}
console.log(`${totals.passed} passed, ${totals.failed} failed`);
process.exit(totals.failed > 0 ? 1 : 0);

async function rehearse(): Promise<void> {
  const context = join(folder, 'context');
  await makeContext(context);
  console.log('docker/api.Dockerfile');
  const api = await buildImage(folder, context, 'docker/api.Dockerfile');
  console.log('docker/runner-cpu.Dockerfile');
  const runner = await buildImage(folder, context, 'docker/runner-cpu.Dockerfile');
  check('every instruction of the API and of the CPU runner can be carried out', true);

  const owned = async (name: string) => {
    const path = join(folder, name);
    await mkdir(path);
    await chown(path, 10001, 10001);
    return path;
  };
  const secrets = join(folder, 'secrets');
  await mkdir(secrets, { mode: 0o755 });
  const artifacts = await owned('artifacts');
  const shared = { '/run/secrets': secrets, '/artifacts': artifacts };
  await freeze(api, { ...shared, '/var/lib/finegrain': await owned('api-data') });
  await freeze(runner, { ...shared, '/var/lib/finegrain': await owned('runner-data') });
  const run = (image: Image, env: Record<string, string>, command?: string[]): Container => {
    const container = start(image, { FINEGRAIN_ARTIFACTS: '/artifacts', ...env }, command);
    containers.push(container);
    return container;
  };
  const cli = ['node', 'dist/src/cli.js'];

  const postgres = await startTestPostgres(join(folder, 'postgres'));
  stopPostgres = () => postgres.stop();
  const secret = async (name: string, value: string) => {
    await writeFile(join(secrets, name), `${value}\n`, { mode: 0o444 });
  };
  const key = 'fg_the-key-of-the-rehearsal';
  await secret('api-key', key);
  await secret('url-admin', postgres.superuserUrl);
  for (const name of ['api', 'worker', 'runner', 'scaler']) {
    const login = Object.assign(new URL(postgres.superuserUrl), {
      username: `fg_${name}`,
      password: `pw-${name}`,
    });
    await secret(`url-${name}`, login.href);
  }
  const urlFile = (name: string) => `/run/secrets/url-${name}`;
  const admin = { DATABASE_DIRECT_URL_FILE: urlFile('admin') };
  const migrate = run(api, admin, [...cli, 'migrate']);
  check(
    'the API image migrates a database, its URL read from a file',
    (await migrate.ended) === 0,
    migrate.log(),
  );
  const names = ['api', 'worker', 'runner', 'scaler'].map((name) => `${name}=${urlFile(name)}`);
  const logins = run(api, admin, [...cli, 'logins', ...names]);
  check('and makes the logins', (await logins.ended) === 0, logins.log());

  const port = '38471';
  const apiEnv = {
    DATABASE_URL_FILE: urlFile('api'),
    FINEGRAIN_API_KEY_FILE: '/run/secrets/api-key',
    PORT: port,
  };
  const served = run(api, apiEnv);
  // biome-ignore lint/suspicious/noExplicitAny: answers are as the document says
  const call = async (method: string, path: string, json?: object, body?: string): Promise<any> => {
    const type = json ? 'application/json' : 'application/x-ndjson';
    const response = await fetch(`http://127.0.0.1:${port}${path}`, {
      method,
      headers: { authorization: `Bearer ${key}`, ...(json || body ? { 'content-type': type } : {}) },
      ...(json || body ? { body: json ? JSON.stringify(json) : body } : {}),
    });
    return response.json();
  };
  const healthy = async (image: Image, env: Record<string, string>, role?: string) => {
    const command = role ? [...image.healthcheck.slice(0, -1), role] : image.healthcheck;
    for (let tries = 0; tries < 60; tries++) {
      if ((await run({ ...image, entrypoint: [] }, env, command).ended) === 0) return true;
      await sleep(1000);
    }
    return false;
  };
  check(
    'the API starts without rights on a read-only root, and is healthy',
    await healthy(api, apiEnv),
    served.log(),
  );
  const scored = await call('POST', '/v1/score', {
    prompt: 'Write to Anna about the garden.',
    responses: ['Dear Anna, damn.'],
  });
  check('it scores with the sample model', scored.results?.[0]?.rewards?.length > 2, JSON.stringify(scored));

  const workerEnv = { DATABASE_DIRECT_URL_FILE: urlFile('worker') };
  check('a worker that does not run is not healthy', !(await unhealthyNow(api, workerEnv, 'worker')));
  const worker = run(api, workerEnv, ['node', 'dist/src/main-worker.js']);
  check('the worker is healthy', await healthy(api, workerEnv, 'worker'), worker.log());

  const rows =
    '{"prompt":"Greet Anna.","response":"Dear Anna, good morning."}\n{"prompt":"Greet Gus.","response":"Dear Gus."}\n';
  const demonstrations = (await call('POST', '/v1/artifacts', undefined, rows)).digest;
  const queue = async (hyperparameters: object, more: object = {}) =>
    (
      await call('POST', '/v1/runs', {
        kind: 'sft',
        spec: { base_model: { scratch: {} }, data: { demonstrations }, hyperparameters },
        ...more,
      })
    ).id;
  const runnerEnv = { DATABASE_DIRECT_URL_FILE: urlFile('runner'), FINEGRAIN_TRAINER_THREADS: '1' };
  const short = await queue({ epochs: 1 });
  const job = run(runner, runnerEnv, [...runner.command, '--once']);
  check('a job of the CPU runner takes one run and ends with 0', (await job.ended) === 0, job.log());
  const done = await call('GET', `/v1/runs/${short}`);
  check(
    'which has succeeded, with a model',
    done.state === 'succeeded' && done.model_id,
    JSON.stringify(done),
  );

  const long = await queue({ epochs: 1_000_000, checkpoint_every: 1_000_000 });
  const lasting = run(runner, runnerEnv);
  check('a lasting runner is healthy', await healthy(runner, runnerEnv), lasting.log());
  const state = async (wanted: (run: { state: string; progress: { step: number } | null }) => boolean) => {
    for (let tries = 0; tries < 120; tries++) {
      const found = await call('GET', `/v1/runs/${long}`);
      if (wanted(found)) return found;
      await sleep(500);
    }
    return call('GET', `/v1/runs/${long}`);
  };
  await state(({ progress }) => (progress?.step ?? 0) > 20);
  const asked = Date.now();
  lasting.process.kill('SIGTERM'); // as `docker stop`: to tini, the first process
  const code = await lasting.ended;
  const seconds = (Date.now() - asked) / 1000;
  const queued = await call('GET', `/v1/runs/${long}`);
  const { items: checkpoints } = await call('GET', `/v1/runs/${long}/events?limit=1000`);
  check(
    `asked to stop, it queues its run again with a checkpoint and ends with 0 (${seconds.toFixed(1)} s)`,
    code === 0 &&
      queued.state === 'queued' &&
      checkpoints.some(({ type }: { type: string }) => type === 'checkpoint'),
    `${code} ${JSON.stringify(queued)}\n${lasting.log()}`,
  );

  const cuda = run(runner, { ...runnerEnv, FINEGRAIN_RUNNER_HARDWARE: 'cuda' });
  const refused = (await cuda.ended) === 1 && /offers cuda, but with/.test(cuda.log());
  check('without a GPU a runner that offers cuda refuses to start and says why', refused, cuda.log());

  const writes = run(api, {}, ['sh', '-c', 'touch /app/x || touch /etc/x || touch /run/secrets/x']);
  check('nothing but its own folders can be written', (await writes.ended) !== 0, writes.log());
  served.process.kill('SIGTERM');
  check('the API ends with 0 when it is asked to', (await served.ended) === 0, served.log());
}

async function unhealthyNow(image: Image, env: Record<string, string>, role: string): Promise<boolean> {
  const command = [...image.healthcheck.slice(0, -1), role];
  const container = start({ ...image, entrypoint: [] }, env, command);
  return (await container.ended) === 0;
}

/** What .dockerignore lets through. */
async function makeContext(context: string): Promise<void> {
  await mkdir(context);
  const lines = (await readFile('.dockerignore', 'utf8')).split('\n');
  const included = lines.filter((line) => line.startsWith('!')).map((line) => line.slice(1));
  const { code, stderr } = await runProgram('cp', ['-a', '--parents', ...included, context]);
  if (code !== 0) throw new Error(stderr);
  await rm(join(context, 'runners/tests'), { recursive: true });
}
