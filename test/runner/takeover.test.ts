// Runners that are stopped, killed or cut off: the run goes on elsewhere from its checkpoint, and nothing is left over.
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { isAlive } from '../support/processes.ts';
import {
  eventsOf,
  fakePython,
  queueFake,
  startRunner,
  trainerPid,
  untilEnded,
  untilRun,
} from '../support/runner.ts';
import { startTestServer } from '../support/server.ts';

t.setTimeout(180_000);
t.test('takeover', async (t) => {
  const server = await startTestServer(t);
  const python = await fakePython(server.dataDir);
  const untilGone = async (pid: number) => {
    for (let waited = 0; isAlive(pid) && waited < 5000; waited += 50) await sleep(50);
    return !isAlive(pid);
  };
  const workFolders = (runner: string) => readdir(join(server.dataDir, runner, 'runs')).catch(() => []);

  t.test('SIGTERM: the trainer keeps a checkpoint, and the next runner goes on from there', async (t) => {
    const first = startRunner(t, server, { python, name: 'first' });
    const { id } = await queueFake(server, 'work', { max_attempts: 1 });
    const pid = await trainerPid(server, id, 1);
    await untilRun(server, id, ({ progress }) => (progress?.step ?? 0) > 7);
    first.process.kill('SIGTERM');
    t.same(await first.ended, { code: 0, signal: null });
    t.notOk(isAlive(pid));
    t.same(await workFolders('first'), []);
    t.match((await server.call('GET', `/v1/runs/${id}`)).body, {
      state: 'queued',
      attempts: [{ outcome: 'interrupted' }],
    });

    const second = startRunner(t, server, { python, name: 'second', args: ['--once'] });
    const run = await untilEnded(server, id);
    t.match(run, {
      state: 'succeeded',
      attempts: [{ runner: 'first' }, { runner: 'second', outcome: 'succeeded' }],
    });
    t.ok((run.result as { resumed_from: number }).resumed_from > 7);
    t.same(await second.ended, { code: 0, signal: null }, '--once ends after one run');
  });

  t.test('--once with an empty queue ends at once', async (t) => {
    t.same(await startRunner(t, server, { python, args: ['--once'] }).ended, { code: 0, signal: null });
  });

  t.test('--once takes exactly one run; that it failed is the run’s affair', async (t) => {
    const queued = [await queueFake(server, 'fail'), await queueFake(server, 'fail')];
    t.same(await startRunner(t, server, { python, args: ['--once'] }).ended, { code: 0, signal: null });
    const states = await Promise.all(
      queued.map(async ({ id }) => (await server.call('GET', `/v1/runs/${id}`)).body.state),
    );
    t.same(states, ['failed', 'queued']);
    await server.call('POST', `/v1/runs/${queued[1]!.id}/cancel`);
  });

  t.test(
    '--once asked to stop half-way queues its run again, with a checkpoint, and ends well',
    async (t) => {
      const { id } = await queueFake(server, 'work', { max_attempts: 1 });
      const job = startRunner(t, server, { python, name: 'job', args: ['--once'] });
      await untilRun(server, id, ({ progress }) => (progress?.step ?? 0) > 7);
      job.process.kill('SIGTERM');
      t.same(await job.ended, { code: 0, signal: null });
      const { body } = await server.call('GET', `/v1/runs/${id}`);
      t.match(body, { state: 'queued', attempts: [{ outcome: 'interrupted' }] });
      await server.call('POST', `/v1/runs/${id}/cancel`);
    },
  );

  t.test('--once that cannot work at all ends with 1', async (t) => {
    const url = new URL(server.database.urlOf('finegrain_runner'));
    url.password = 'wrong';
    const unreachable = { DATABASE_DIRECT_URL: url.href };
    const denied = startRunner(t, server, { python, args: ['--once'], env: unreachable });
    t.same(await denied.ended, { code: 1, signal: null });
    const none = startRunner(t, server, { python: '/no/python', args: ['--once'] });
    t.same(await none.ended, { code: 1, signal: null });
    t.match(none.log(), /The trainer cannot be started/);
  });

  t.test(
    'SIGKILL: the trainer ends by itself, and when the lease is over another runner takes the run',
    async (t) => {
      const first = startRunner(t, server, { python, name: 'third' });
      const { id } = await queueFake(server, 'work');
      const pid = await trainerPid(server, id, 1);
      const kept = async () => (await server.call('GET', `/v1/runs/${id}/checkpoints`)).body.items.length > 0;
      while (!(await kept())) await sleep(100);
      first.process.kill('SIGKILL');
      t.ok(await untilGone(pid), 'no orphan');

      startRunner(t, server, { python, name: 'fourth', args: [] });
      const run = await untilEnded(server, id);
      t.match(run, {
        state: 'succeeded',
        attempts: [
          { attempt: 1, runner: 'third', outcome: 'lost' },
          { attempt: 2, runner: 'fourth', outcome: 'succeeded' },
        ],
      });
      t.ok((run.result as { resumed_from: number }).resumed_from >= 5, 'from the last checkpoint');
      const sequences = (await eventsOf(server, id)).map(({ sequence }) => sequence);
      t.same(
        sequences,
        Array.from({ length: sequences.length }, (_, index) => index + 1),
        'no gap over attempts',
      );
    },
  );

  t.test('a runner that sleeps through its lease writes nothing more, and its trainer ends', async (t) => {
    // the runner of the test before would take the run
    const sleeper = startRunner(t, server, {
      python,
      name: 'sleeper',
      env: { FINEGRAIN_RUNNER_LABELS: 'here' },
    });
    const { id } = await queueFake(server, 'work', { labels: ['here'] });
    const pid = await trainerPid(server, id, 1);
    sleeper.process.kill('SIGSTOP');
    startRunner(t, server, { python, name: 'other', env: { FINEGRAIN_RUNNER_LABELS: 'here' } });
    const run = await untilEnded(server, id);
    t.match(run.attempts, [
      { runner: 'sleeper', outcome: 'lost' },
      { runner: 'other', outcome: 'succeeded' },
    ]);
    const before = await eventsOf(server, id);
    sleeper.process.kill('SIGCONT');
    t.ok(await untilGone(pid));
    for (let waited = 0; !/"end":"lost"/.test(sleeper.log()) && waited < 5000; waited += 50) await sleep(50);
    t.match(sleeper.log(), /"end":"lost"/);
    t.same((await server.call('GET', `/v1/runs/${id}`)).body, run);
    t.same(await eventsOf(server, id), before);
  });
});
