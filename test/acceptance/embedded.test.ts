// The service as `npm start` starts it, seen from outside only: its process, its HTTP, its data folder.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { findPostmaster } from '../../src/db/embedded/postmaster.ts';
import { startReceiver } from '../support/receiver.ts';

const linuxOnly = { skip: !existsSync('/proc/self/environ') && 'finds processes by /proc' };

interface Service {
  process: ChildProcess;
  url: string;
  /** what it has said so far */
  stdout(): string;
  stderr(): string;
}

t.test('npm start: embedded Postgres, API and worker in one process tree', async (t) => {
  const dataDir = await mkdtemp(join(tmpdir(), 'finegrain acceptance '));
  t.teardown(() => rm(dataDir, { recursive: true, force: true }));
  let first = await start(dataDir);
  t.teardown(() => first.process.kill('SIGKILL'));
  const key = (await readFile(join(dataDir, 'api-key'), 'utf8')).trim();

  t.test('prints its address and a key, which only its owner can read', async (t) => {
    t.match(first.stdout(), `finegrain is ready at ${first.url}`);
    t.match(first.stdout(), key);
    t.equal((await stat(join(dataDir, 'api-key'))).mode & 0o777, 0o600);
    t.match(await request(first, 'GET', '/readyz', null), { status: 200, body: { ready: true } });
    t.match(await request(first, 'GET', '/v1/datasets', null), { status: 401 });
  });

  t.test('scores at once: nothing was trained, and there is no Python', async (t) => {
    const answer = await request(first, 'POST', '/v1/score', key, {
      prompt:
        'Write a letter to Anna about the harbor in a warm tone. Ask for two boxes, the ladder, the camera and the mirror.',
      responses: [
        'Dear Anna, this letter is about the harbor.',
        'Dear Bob, this letter is about the harbor.',
      ],
    });
    t.match(answer, { status: 200, body: { model: { alias: 'token-reward', shared: true } } });
    const { results } = answer.body as { results: { reward: number }[] };
    t.ok(results[0]!.reward > results[1]!.reward, 'the wrong name costs');
  });

  t.test(
    'tells a webhook: API and worker share the key of secrets, which only its owner can read',
    async (t) => {
      t.equal((await stat(join(dataDir, 'secret-key'))).mode & 0o777, 0o600);
      const receiver = await startReceiver(t);
      const events = ['run.succeeded'];
      const created = await request(first, 'POST', '/v1/webhooks', key, { url: receiver.url('/in'), events });
      const { id } = created.body as { id: string };
      t.match(await request(first, 'POST', `/v1/webhooks/${id}/test`, key), { status: 202 });
      t.match(await receiver.until('/in', 1), [{ body: { type: 'ping', data: { webhook_id: id } } }]);
    },
  );

  t.test(
    'what ends by itself is started again: the worker, and Postgres under its address',
    linuxOnly,
    async (t) => {
      const find = (program: RegExp) =>
        readdirSync('/proc').filter((pid) => {
          if (!/^\d+$/.test(pid)) return false;
          try {
            const place = readFileSync(`/proc/${pid}/environ`, 'utf8').includes(
              `FINEGRAIN_DATA_DIR=${dataDir}`,
            );
            return place && program.test(readFileSync(`/proc/${pid}/cmdline`, 'utf8'));
          } catch {
            return false; // it has ended, or is another user's
          }
        });
      const { pid: server } = findPostmaster(join(dataDir, 'postgres', 'pgdata'))!;
      const [worker] = find(/main-worker/);
      process.kill(Number(worker), 'SIGKILL');
      process.kill(server, 'SIGKILL');
      const until = async (what: string, look: () => Promise<boolean>) => {
        for (let waited = 0; waited < 60_000; waited += 100, await sleep(100)) if (await look()) return;
        throw new Error(`${what} did not come back:\n${first.stderr()}`);
      };
      await until('Postgres', async () => {
        const now = findPostmaster(join(dataDir, 'postgres', 'pgdata'))?.pid ?? server;
        return now !== server && (await request(first, 'GET', '/readyz', null)).status === 200;
      });
      await until('the worker', async () => find(/main-worker/).some((pid) => pid !== worker));
      t.match(first.stderr(), /main-worker.*ended by itself/);
      const receiver = await startReceiver(t);
      const created = await request(first, 'POST', '/v1/webhooks', key, {
        url: receiver.url('/again'),
        events: ['run.succeeded'],
      });
      const { id } = created.body as { id: string };
      await request(first, 'POST', `/v1/webhooks/${id}/test`, key);
      t.match(await receiver.until('/again', 1), [{ body: { type: 'ping' } }], 'jobs are done again');
    },
  );

  t.test('SIGTERM: a request under way is answered, the exit code is 0, the port is free', async (t) => {
    const created = await request(first, 'POST', '/v1/datasets', key, { name: 'kept' });
    t.match(created, { status: 201 });
    const { id } = created.body as { id: string };
    let finish = (): void => {};
    const rows = new ReadableStream({
      start(stream) {
        stream.enqueue(new TextEncoder().encode('{"prompt": "p", "response_a": "a", "resp'));
        finish = () => {
          stream.enqueue(new TextEncoder().encode('onse_b": "b"}'));
          stream.close();
        };
      },
    });
    const underWay = fetch(`${first.url}/v1/datasets/${id}/pairs/import`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/x-ndjson' },
      body: rows,
      duplex: 'half',
    } as RequestInit);
    await sleep(500);
    first.process.kill('SIGTERM');
    await sleep(500);
    finish();
    t.match(await (await underWay).json(), { created: 1 });
    // its connection is kept alive, for 72 s: nobody waits for that
    const [code] = await Promise.race([
      once(first.process, 'exit'),
      sleep(20_000, ['still there'], { ref: false }),
    ]);
    t.equal(code, 0);
    await t.rejects(fetch(`${first.url}/healthz`));
    t.notMatch(first.stderr(), key, 'the log holds no key');
  });

  t.test('SIGKILL: the next start goes on with the same data and key', async (t) => {
    first = await start(dataDir);
    t.match((await request(first, 'GET', '/v1/datasets', key)).body, { items: [{ name: 'kept' }] });
    first.process.kill('SIGKILL');
    await once(first.process, 'exit');
    first = await start(dataDir);
    t.match((await request(first, 'GET', '/v1/datasets', key)).body, { items: [{ name: 'kept' }] });
    first.process.kill('SIGINT');
    const [code] = await once(first.process, 'exit');
    t.equal(code, 0);
  });

  t.test('a port that is taken, a variable that is wrong: said plainly, exit code 1', async (t) => {
    const holder = createServer().listen(0, '127.0.0.1');
    await once(holder, 'listening');
    const { port } = holder.address() as { port: number };
    const blocked = launch(dataDir, { PORT: String(port) });
    t.equal((await once(blocked.process, 'exit'))[0], 1);
    t.match(blocked.stderr(), new RegExp(`port ${port} of 127.0.0.1 is in use.*PORT`, 'i'));
    holder.close();
    const wrong = launch(dataDir, { PORT: 'http' });
    t.equal((await once(wrong.process, 'exit'))[0], 1);
    t.match(wrong.stderr(), /PORT must be a whole number/);
  });
});

function launch(dataDir: string, env: NodeJS.ProcessEnv): Service {
  const child = spawn(process.execPath, ['dist/src/main-api.js'], {
    // no runner: this is what works without Python
    env: {
      PATH: process.env.PATH,
      FINEGRAIN_DATA_DIR: dataDir,
      FINEGRAIN_PYTHON: '/none',
      FINEGRAIN_OUTGOING_ALLOW: '127.0.0.1',
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const said = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].on('data', (chunk) => {
      said[name] += chunk;
    });
  }
  return { process: child, url: '', stdout: () => said.stdout, stderr: () => said.stderr };
}

async function start(dataDir: string): Promise<Service> {
  const service = launch(dataDir, { PORT: '0' });
  for (let waited = 0; waited < 60_000; waited += 50) {
    const url = /ready at (http:\S+)/.exec(service.stdout())?.[1];
    if (url) return { ...service, url };
    if (service.process.exitCode !== null) break;
    await sleep(50);
  }
  throw new Error(`The service did not start:\n${service.stderr()}`);
}

async function request(service: Service, method: string, path: string, key: string | null, json?: unknown) {
  const response = await fetch(service.url + path, {
    method,
    headers: {
      ...(key === null ? {} : { authorization: `Bearer ${key}` }),
      ...(json === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(json === undefined ? {} : { body: JSON.stringify(json) }),
  });
  return { status: response.status, body: (await response.json()) as unknown };
}
