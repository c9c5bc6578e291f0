// What becomes of a run when its trainer does well, fails, dies, talks nonsense or does not listen.
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
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
t.test('attempts', async (t) => {
  const server = await startTestServer(t);
  const runner = startRunner(t, server, {
    python: await fakePython(server.dataDir),
    env: { FINEGRAIN_TRAINER_SILENCE_SECONDS: '3' },
  });
  const execute = async (behaviour: string, request = {}, spec = {}) =>
    untilEnded(server, (await queueFake(server, behaviour, request, spec)).id);

  t.test('a run that succeeds has a model, artifacts and a result, and moves its alias', async (t) => {
    const run = await execute('succeed', {}, { alias: 'policy', name: 'first policy' });
    t.match(run, {
      state: 'succeeded',
      failure: null,
      result: { metrics: { validation_loss: 1.5 } },
      attempts: [{ attempt: 1, runner: 'one', outcome: 'succeeded' }],
      artifacts: [{ name: 'notes.txt', bytes: 5, media_type: 'text/plain' }],
    });
    const model = await server.call('GET', `/v1/models/${run.model_id}`);
    t.match(model.body, {
      name: 'first policy',
      role: 'policy',
      run_id: run.id,
      metrics: { validation_loss: 1.5 },
    });
    t.same(
      model.body.files.map(({ path }: { path: string }) => path),
      ['config.json', 'finegrain.json', 'model.safetensors', 'tokenizer.json'],
    );
    const file = await server.call('GET', `/v1/models/${run.model_id}/files/config.json`);
    t.equal(file.text, 'config.json of succeed');
    t.equal((await server.call('GET', '/v1/models/policy')).body.id, run.model_id);
    t.equal((await server.call('GET', `/v1/artifacts/${run.artifacts[0]!.digest}`)).text, 'notes');
    t.same(
      (await eventsOf(server, run.id)).map(({ type }) => type).filter((type) => /attempt/.test(type)),
      ['attempt_started', 'attempt_ended'],
    );
  });

  t.test(
    'what a trainer says is kept as text that can be stored; what it should not say is passed over',
    async (t) => {
      const run = await execute('talk');
      t.match(run, {
        state: 'succeeded',
        progress: { step: 1000, total_steps: 1000, fraction: 1, stage: 'train' },
        alarms: [{ code: 'odd', detail: 'd', step: 1, value: 2, threshold: 3, action: 'warn' }],
        result: { text: 'a\ufffdb' },
      });
      const events = await eventsOf(server, run.id);
      t.ok(events.some(({ data }) => data.message === 'NUL \ufffd and surrogate \ufffd end'));
      t.ok(events.filter(({ type }) => type === 'progress').length < 10, 'one progress a batch');
      t.match(runner.log(), /this is no JSON/);
      t.match(runner.log(), /longer than a megabyte/);
    },
  );

  t.test('a crash is told with its exit code and the last words of the trainer', async (t) => {
    const { state, failure, model_id, attempts } = await execute('crash');
    t.match(
      { state, failure, model_id, attempts },
      {
        state: 'failed',
        failure: { reason: 'crashed', exit_code: 3, detail: /exit code 3/ },
        model_id: null,
        attempts: [{ outcome: 'failed' }],
      },
    );
    t.equal(attempts.length, 1, 'a trainer that fails is not tried again');
    t.same(
      failure!.log_tail,
      Array.from({ length: 50 }, (_, index) => `line ${index + 11}`),
    );
  });

  const failures: [string, object][] = [
    ['fail', { reason: 'unstable', detail: 'The loss is no number.', exit_code: 1 }],
    ['no result', { reason: 'protocol', exit_code: 0 }],
    ['no model', { reason: 'outputs', detail: /must make a policy model/ }],
    ['escape', { reason: 'outputs', detail: /outside its work folder/ }],
  ];
  for (const [behaviour, failure] of failures) {
    t.test(`a trainer that does "${behaviour}" fails its run`, async (t) => {
      t.match(await execute(behaviour), { state: 'failed', failure, model_id: null, artifacts: [] });
    });
  }

  t.test(
    'a trainer that is killed, hangs or finds the disk full is tried again, up to max_attempts',
    async (t) => {
      const reasons: [string, object][] = [
        ['die', { reason: 'crashed', detail: /SIGKILL.*memory/, exit_code: null }],
        ['hang', { reason: 'hung', detail: /said nothing/ }],
        ['fill the disk', { reason: 'disk_full', detail: /ENOSPC/ }],
      ];
      for (const [behaviour, failure] of reasons) {
        const run = await execute(behaviour, { max_attempts: 2 });
        t.match(run, { state: 'failed', failure, model_id: null, artifacts: [] }, behaviour);
        t.match(run.attempts, [{ outcome: 'lost' }, { outcome: 'lost' }]);
        t.match(
          (await eventsOf(server, run.id))
            .filter(({ type }) => type === 'attempt_ended')
            .map(({ data }) => data),
          [
            { outcome: 'lost', failure },
            { outcome: 'lost', failure },
          ],
        );
      }
    },
  );

  t.test('the trainer sees no database, no key, and none of what else the runner has', async (t) => {
    const { result } = await execute('environment');
    const { environment } = result as { environment: Record<string, string> };
    t.match(environment, { PATH: String, PYTHONPATH: /runners$/, FINEGRAIN_TRAINER_THREADS: '1' });
    t.same(
      Object.keys(environment).filter((name) => /DATABASE|KEY|ARTIFACTS|RUNNER|LEASE/.test(name)),
      [],
    );
    t.notMatch(JSON.stringify(environment), /postgres:|no trainer sees/);
  });

  t.test('what a trainer has started ends with it', async (t) => {
    const run = await execute('leave a child');
    t.match(run, { state: 'failed', failure: { exit_code: 5 } });
    const told = (await eventsOf(server, run.id)).map(({ data }) => String(data.message ?? ''));
    const child = Number(told.find((message) => /^\d+$/.test(message)));
    t.ok(child > 0);
    for (let waited = 0; isAlive(child) && waited < 3000; waited += 50) await sleep(50);
    t.notOk(isAlive(child));
  });

  t.test('a run that is cancelled while it works ends so, with its trainer', async (t) => {
    const { id } = await queueFake(server, 'work');
    const pid = await trainerPid(server, id, 1);
    await untilRun(server, id, ({ progress }) => (progress?.step ?? 0) > 3);
    const { status, body } = await server.call('POST', `/v1/runs/${id}/cancel`);
    t.match({ status, body }, { status: 200, body: { state: 'running', desired_state: 'cancelled' } });
    t.match(await untilEnded(server, id), {
      state: 'cancelled',
      failure: null,
      model_id: null,
      attempts: [{ outcome: 'cancelled' }],
    });
    t.notOk(isAlive(pid));
    const again = await server.call('POST', `/v1/runs/${id}/cancel`);
    t.match(again, { status: 409, body: { code: 'conflict' } });
  });

  t.test('a run outlives the connections of its runner', async (t) => {
    const { id } = await queueFake(server, 'work');
    const client = new pg.Client({ connectionString: server.database.superuserUrl });
    await client.connect();
    t.teardown(() => client.end());
    for (const step of [5, 20, 35]) {
      await untilRun(server, id, ({ progress }) => (progress?.step ?? 0) > step);
      const { rowCount } = await client.query(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'finegrain_runner' and datname = current_database()",
      );
      t.ok(rowCount! > 0);
    }
    t.match(await untilEnded(server, id), {
      state: 'succeeded',
      attempts: [{ attempt: 1, outcome: 'succeeded' }],
    });
    const steps = (await eventsOf(server, id)).flatMap(({ type, data }) =>
      type === 'progress' ? [Number(data.step)] : [],
    );
    t.same(
      steps,
      [...new Set(steps)].sort((a, b) => a - b),
      'nothing twice, nothing out of order',
    );
    t.equal(steps.at(-1), 60);
  });

  t.test('a runner that is asked to stop ends with 0', async (t) => {
    runner.process.kill('SIGTERM');
    t.same(await runner.ended, { code: 0, signal: null });
  });
});
