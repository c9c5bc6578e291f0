// What a runner knows of its machine: whether there is the GPU that it offers, and whether the kernel ended its trainer
// for lack of memory.
import { mkdir, mkdtemp, readFile, rm, rmdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import t from 'tap';
import { countOomKills } from '../../src/runner/oom-kills.ts';
import { checkTrainer } from '../../src/runner/trainer-check.ts';
import { fakePython, queueFake, startRunner, trainerPython, untilEnded } from '../support/runner.ts';
import { startTestServer } from '../support/server.ts';

t.setTimeout(300_000);

t.test(
  'kills for lack of memory are counted for those that share the limit, wherever it stands',
  async (t) => {
    const machine = { 'proc/vmstat': 'nr_free_pages 1\noom_kill 9\n' };
    const events = 'low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\n';
    const cases: [string, Record<string, string>, number | null][] = [
      [
        'version 2',
        { 'proc/self/cgroup': '0::/a/b\n', 'sys/fs/cgroup/a/b/memory.events': events, ...machine },
        2,
      ],
      ['version 2, container', { 'proc/self/cgroup': '0::/a\n', 'sys/fs/cgroup/memory.events': events }, 2],
      [
        'version 1',
        {
          'proc/self/cgroup': '5:cpu,cpuacct:/x\n4:memory:/a\n0::/\n',
          'sys/fs/cgroup/memory/a/memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 4\n',
          ...machine,
        },
        4,
      ],
      ['no cgroup counts', { 'proc/self/cgroup': '0::/\n', ...machine }, 9],
      ['another system', {}, null],
    ];
    for (const [name, files, expected] of cases) {
      const root = await mkdtemp(join(tmpdir(), 'finegrain-kernel-'));
      t.teardown(() => rm(root, { recursive: true }));
      for (const [file, text] of Object.entries(files)) {
        await mkdir(dirname(join(root, file)), { recursive: true });
        await writeFile(join(root, file), text);
      }
      t.equal(await countOomKills(root), expected, name);
    }
  },
);

t.test('a runner that offers cuda', async (t) => {
  const server = await startTestServer(t);
  const python = await fakePython(server.dataDir);
  const hardware = { FINEGRAIN_RUNNER_HARDWARE: 'cpu,cuda' };

  t.test('says which GPUs it has', async (t) => {
    const place = { python, trainerEnvironment: { CUDA_VISIBLE_DEVICES: 'H100' }, hardware: ['cuda'] };
    t.match(await checkTrainer(place), [{ name: 'H100', memory_bytes: 2 ** 36, capability: '9.0' }]);
    t.same(await checkTrainer({ ...place, hardware: ['cpu'] }), [], 'no GPU is looked for without cuda');
  });

  t.test('takes runs for either class, each on its device', async (t) => {
    startRunner(t, server, { python, env: { ...hardware, CUDA_VISIBLE_DEVICES: 'H100' } });
    for (const device of ['cuda', 'cpu']) {
      const { id } = await queueFake(server, 'environment', { hardware: device });
      t.match(await untilEnded(server, id), { state: 'succeeded', result: { device } });
    }
    const runners = await server.database
      .open('finegrain_system')
      .transaction(null, (tx) => tx.query('select hardware, devices from finegrain.runners'));
    t.match(runners, [{ hardware: ['cpu', 'cuda'], devices: [{ name: 'H100', capability: '9.0' }] }]);
  });

  t.test('does not start where there is none, and says why', async (t) => {
    const runner = startRunner(t, server, { python, env: hardware });
    t.same(await runner.ended, { code: 1, signal: null });
    t.match(runner.log(), /FINEGRAIN_RUNNER_HARDWARE offers cuda, but with .*there is no NVIDIA driver/);
  });

  const real = trainerPython();
  const skip = real === null && 'no Python environment';
  t.test('does not start on a machine like this one', { skip }, async (t) => {
    const place = { python: real!, trainerEnvironment: { PATH: process.env.PATH! }, hardware: ['cuda'] };
    const outcome = await checkTrainer(place).then(
      (devices) => devices.length > 0,
      (error: Error) => /offers cuda, but with .*(build for CPU|NVIDIA driver|no code)/.test(error.message),
    );
    t.ok(outcome);
  });
});

const group = await makeMemoryGroup(300 << 20);
const unlimited = group === null && 'memory can be limited by root only';
t.test('a trainer that the kernel ends for lack of memory', { skip: unlimited }, async (t) => {
  t.teardown(group!.remove);
  const server = await startTestServer(t);
  const runner = startRunner(t, server, { python: await fakePython(server.dataDir), name: 'small' });
  await group!.add(runner.process.pid!);
  const run = await untilEnded(server, (await queueFake(server, 'eat memory')).id, 60);
  t.match(run, {
    state: 'failed',
    failure: { reason: 'out_of_memory', exit_code: null, detail: /memory ran out/ },
  });
  runner.process.kill('SIGKILL');
  await runner.ended;
});

/** A cgroup of at most so many bytes, of version 1 or 2; null where this process may not make one. */
async function makeMemoryGroup(bytes: number) {
  const versionOne = (await readFile('/proc/self/cgroup', 'utf8').catch(() => '')).includes(':memory:');
  const folder = join('/sys/fs/cgroup', versionOne ? 'memory' : '', `finegrain-test-${process.pid}`);
  try {
    await mkdir(folder);
  } catch {
    return null;
  }
  const remove = () => rmdir(folder);
  try {
    await writeFile(join(folder, versionOne ? 'memory.limit_in_bytes' : 'memory.max'), String(bytes));
    if (!versionOne) await writeFile(join(folder, 'memory.swap.max'), '0');
  } catch {
    await remove();
    return null;
  }
  return { remove, add: (pid: number) => writeFile(join(folder, 'cgroup.procs'), String(pid)) };
}
