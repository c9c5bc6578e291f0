// What of runs is removed in time, and what stays.
import pg from 'pg';
import t from 'tap';
import { type RunRetention, trimRuns } from '../../src/services/run-retention.ts';
import { openEventStream } from '../support/event-stream.ts';
import { type HeldRun, holdRun } from '../support/held-run.ts';
import { startTestServer } from '../support/server.ts';

const rules: RunRetention = {
  checkpoints: 2,
  checkpointDays: 7,
  lastCheckpointDays: 90,
  rolloutDays: 30,
  eventDays: 30,
};

t.test('retention', { timeout: 240_000 }, async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const system = server.database.open('finegrain_system');
  const superuser = new pg.Client({ connectionString: server.database.superuserUrl });
  await superuser.connect();
  t.teardown(() => superuser.end());
  const trim = (changes: Partial<RunRetention> = {}) => trimRuns(system, { ...rules, ...changes });
  const age = (run: HeldRun, days: number) =>
    superuser.query(
      'update finegrain.runs set finished_at = clock_timestamp() - make_interval(days => $2) where id = $1',
      [run.run_id, days],
    );
  const steps = async ({ id }: { id: string }): Promise<number[]> =>
    (await call('GET', `/v1/runs/${id}/checkpoints`)).body.items.map(({ step }: { step: number }) => step);
  const { digest } = await server.services.artifacts.put(
    (async function* () {
      yield 'content';
    })(),
  );
  const files = [{ path: 'checkpoints/a/b', digest, bytes: 7 }];

  t.test('a run that works keeps its newest checkpoints, and one that is being promoted', async (t) => {
    const run = await holdRun(server);
    for (const step of [1, 2, 3, 4, 5]) await run.saveCheckpoint(step, files);
    const promoted = (await call('POST', `/v1/runs/${run.id}/checkpoints/2/promote`, { json: {} })).body;
    t.match(await trim(), { checkpoints: 2 });
    t.same(await steps(run), [5, 4, 2]);
    t.match(await trim(), { checkpoints: 0, rollouts: 0, logs: 0, runs: 0 });
    await call('POST', `/v1/runs/${promoted.id}/cancel`);
    await trim();
    t.same(await steps(run), [5, 4]);
    await run.finish('failed');
    await trim();
    t.same(await steps(run), [5, 4], 'nothing more on the day of its end');
    await age(run, 8);
    await trim();
    t.same(await steps(run), [5], 'after some days the last one');
    await age(run, 91);
    await trim({ lastCheckpointDays: 0 });
    t.same(await steps(run), [5], '0: for ever');
    await trim();
    t.same(await steps(run), []);
  });

  t.test('rollouts and logs go after a while, then events that were for those who watched', async (t) => {
    const run = await holdRun(server, { kind: 'ppo' });
    await run.report([
      { type: 'progress', step: 1, total_steps: 2, fraction: 0.5, eta_seconds: null, stage: 'train' },
    ]);
    await run.report([{ type: 'metrics', step: 1, values: { loss: 1 } }]);
    await run.report([
      { type: 'log', level: 'info', message: 'm' },
      { type: 'alarm', code: 'c', detail: 'd', step: null, value: null, threshold: null },
    ]);
    await run.saveRollouts(1, digest, 1);
    await run.saveCheckpoint(1, files);
    await run.log({ lineCount: 1, newest: ['line'], kept: null });
    await run.finish();
    const counts = { rollouts: 1, logs: 1, runs: 1 };
    await age(run, 29);
    t.match(await trim(), { rollouts: 0, logs: 0, runs: 0 });
    await age(run, 31);
    t.match(await trim({ eventDays: 0 }), { ...counts, runs: 0 });
    t.match(await trim(), { rollouts: 0, logs: 0, runs: 1 });
    t.match(await trim(), { runs: 0 }, 'once');
    const { items } = (await call('GET', `/v1/runs/${run.id}/events`)).body;
    const left = items.map(({ sequence, type }: { sequence: number; type: string }) => [sequence, type]);
    t.same(left, [
      [1, 'attempt_started'],
      [5, 'alarm'],
      [6, 'rollouts'],
      [7, 'checkpoint'],
      [8, 'attempt_ended'],
    ]);
    const page = (await call('GET', `/v1/runs/${run.id}/events?after=1&limit=2`)).body;
    t.match(page, { items: [{ sequence: 5 }, { sequence: 6 }], next_after: 6 });
    const stream = await openEventStream(`${server.url}/v1/runs/${run.id}/events`, server.bootstrapKey, {
      'last-event-id': '3',
    });
    t.equal(await stream.ended, true);
    t.same(
      stream.events.map(({ event }) => event),
      ['alarm', 'rollouts', 'checkpoint', 'attempt_ended', 'end'],
    );
    t.match((await call('GET', `/v1/runs/${run.id}/metrics`)).body, { names: ['loss'] }, 'metrics stay');
    t.match((await call('GET', `/v1/runs/${run.id}/logs`)).body, { attempt: null, lines: [] });
    t.same((await call('GET', `/v1/runs/${run.id}/rollouts`)).body.items, []);
  });
});
