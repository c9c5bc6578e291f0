// Runs that are paused, run out of time or wait for each other, with runner and trainer as real processes.
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

t.setTimeout(240_000);
t.test('steering', async (t) => {
  const server = await startTestServer(t);
  const python = await fakePython(server.dataDir);
  const { call } = server;
  const works = (id: string, step = 7) =>
    untilRun(server, id, ({ progress }) => (progress?.step ?? 0) > step);

  t.test('a paused run frees its runner and goes on from its checkpoint', async (t) => {
    startRunner(t, server, { python, name: 'one' });
    const { id } = await queueFake(server, 'work');
    const pid = await trainerPid(server, id, 1);
    await works(id);
    t.match((await call('POST', `/v1/runs/${id}/pause`)).body, { state: 'pausing', desired_state: 'paused' });
    t.match(await untilRun(server, id, ({ state }) => state === 'paused'), {
      failure: null,
      finished_at: null,
      attempts: [{ outcome: 'paused' }],
    });
    t.notOk(isAlive(pid));
    const other = await queueFake(server, 'succeed');
    t.match(await untilEnded(server, other.id), { state: 'succeeded' }, 'the runner is free');
    t.match((await call('GET', `/v1/runs/${id}`)).body, { state: 'paused' });

    await call('POST', `/v1/runs/${id}/resume`);
    const run = await untilEnded(server, id);
    t.match(run, { state: 'succeeded', attempts: [{ outcome: 'paused' }, { outcome: 'succeeded' }] });
    t.ok((run.result as { resumed_from: number }).resumed_from > 7);
  });

  t.test('an alarm that pauses leaves the run to somebody who resumes it', async (t) => {
    startRunner(t, server, { python, name: 'alarmed' });
    const { id } = await queueFake(server, 'pause itself');
    t.match(await untilRun(server, id, ({ state }) => state === 'paused'), {
      desired_state: 'paused',
      failure: null,
      alarms: [{ code: 'high_kl', step: 3, value: 0.4, threshold: 0.3, action: 'pause' }],
      attempts: [{ outcome: 'paused' }],
    });
    await call('POST', `/v1/runs/${id}/resume`);
    const run = await untilEnded(server, id);
    t.match(run, { state: 'succeeded', result: { resumed_from: 3 }, alarms: [{ code: 'high_kl' }] });
  });

  t.test('a run that is out of time keeps a checkpoint and fails; a retry ends it', async (t) => {
    startRunner(t, server, { python, name: 'two' });
    const { id } = await queueFake(server, 'work', { time_limit_seconds: 2 });
    const failed = await untilEnded(server, id);
    t.match(failed, {
      state: 'failed',
      time_limit_seconds: 2,
      failure: { reason: 'time_limit', detail: /a retry goes on from there/ },
      attempts: [{ outcome: 'failed' }],
    });
    let run = failed;
    for (let retries = 0; run.state === 'failed' && retries < 30; retries++) {
      await call('POST', `/v1/runs/${id}/retry`);
      run = await untilEnded(server, id);
    }
    t.match(run, { state: 'succeeded', failure: null });
    t.ok((run.result as { resumed_from: number }).resumed_from > 0);
  });

  t.test('a retry with restart passes over the checkpoints', async (t) => {
    startRunner(t, server, { python, name: 'three' });
    const { id } = await queueFake(server, 'work');
    await works(id);
    await call('POST', `/v1/runs/${id}/cancel`);
    t.match(await untilEnded(server, id), { state: 'cancelled' });
    t.match((await call('POST', `/v1/runs/${id}/retry?restart=true`)).body, { state: 'queued' });
    const run = await untilEnded(server, id);
    t.match(run, { state: 'succeeded', result: { resumed_from: 0 } });
  });

  t.test(
    'a chain of runs is queued at once and ends in order, each with the model of the one before',
    async (t) => {
      const first = await queueFake(server, 'succeed');
      const prompts = await call('POST', '/v1/artifacts', {
        body: '{"prompt": "succeed without model"}\n',
        headers: { 'content-type': 'application/x-ndjson' },
      });
      const second = (
        await call('POST', '/v1/runs', {
          json: {
            kind: 'generate',
            spec: { model: { run_id: first.id }, prompts: { prompts: prompts.body.digest } },
          },
        })
      ).body;
      const third = await queueFake(server, 'succeed', { after: [second.id] });
      t.match((await call('GET', `/v1/runs/${third.id}`)).body, { waiting: { reason: 'dependencies' } });
      startRunner(t, server, { python, name: 'four' });
      const ended = await untilEnded(server, third.id);
      const [one, two] = await Promise.all([first, second].map(({ id }) => untilEnded(server, id)));
      t.match([one, two, ended], [{ state: 'succeeded' }, { state: 'succeeded' }, { state: 'succeeded' }]);
      t.ok(one!.finished_at! <= two!.started_at! && two!.finished_at! <= ended.started_at!);
    },
  );

  t.test('a runner is listed while it lives', async (t) => {
    const found = async (name: string) =>
      (await call('GET', '/v1/runners?limit=500')).body.items.find(
        (one: { name: string }) => one.name === name,
      );
    const runner = startRunner(t, server, {
      python,
      name: 'five',
      env: { FINEGRAIN_RUNNER_LABELS: 'here,there' },
    });
    for (let waited = 0; !(await found('five')) && waited < 30_000; waited += 50) await sleep(50);
    t.match(await found('five'), {
      state: 'idle',
      hardware: ['cpu'],
      labels: ['here', 'there'],
      version: /^\d/,
    });
    const { id } = await queueFake(server, 'work', { labels: ['here'] });
    await works(id, 0);
    t.match(await found('five'), { state: 'busy' });
    runner.process.kill('SIGTERM');
    t.match(await runner.ended, { code: 0 });
    t.match(await found('five'), { state: 'stopped', busy_since: null });
    t.match((await eventsOf(server, id)).at(-1), { type: 'attempt_ended', data: { outcome: 'interrupted' } });
    t.match((await call('GET', `/v1/runs/${id}`)).body, {
      state: 'queued',
      waiting: { reason: 'no_runner', detail: /here/ },
    });
  });
});
