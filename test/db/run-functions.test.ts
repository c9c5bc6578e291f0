// The functions through which runners work: who gets a run, what an old fence can still do (nothing), what is lost.
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { type Database, sqlState } from '../../src/db/pool.ts';
import * as execution from '../../src/db/run-execution.ts';
import { cancelRun, insertRun, selectAttempts, selectRun, selectRunEvents } from '../../src/db/runs.ts';
import { createTestDatabase } from '../support/database.ts';

const project = '00000000-0000-7000-8000-000000000000';
const digest = `sha256:${'0'.repeat(64)}`;

t.test('run functions', async (t) => {
  const database = await createTestDatabase(t);
  const api = database.open('finegrain_api');
  const runner = database.open('finegrain_runner');
  const system = database.open('finegrain_system');
  let lastId = 0;

  const queue = async (settings: { hardware?: string; labels?: string[]; maxAttempts?: number } = {}) => {
    const id = `00000000-0000-7000-8000-${String(++lastId).padStart(12, '0')}`;
    await api.transaction(project, (tx) =>
      insertRun(tx, {
        projectId: project,
        id,
        kind: 'sft',
        spec: {},
        inputs: {},
        hardware: settings.hardware ?? 'cpu',
        labels: settings.labels ?? [],
        maxAttempts: settings.maxAttempts ?? 3,
      }),
    );
    return id;
  };
  const claim = (name = 'one', { leaseSeconds = 60, hardware = ['cpu'], labels = [] as string[] } = {}) =>
    runner.transaction(null, (tx) => execution.claimRun(tx, { name, hardware, labels, leaseSeconds }));
  const call = <T>(work: (tx: Parameters<Parameters<Database['transaction']>[1]>[0]) => Promise<T>) =>
    runner.transaction(null, work);
  const run = (id: string) => api.transaction(project, async (tx) => (await selectRun(tx, id))!);
  const events = (id: string) =>
    api.transaction(project, (tx) => selectRunEvents(tx, id, { after: 0, limit: 1000 }));
  const attempts = (id: string) => api.transaction(project, (tx) => selectAttempts(tx, [id]));
  const ending = (outcome: execution.RunEnding['outcome']): execution.RunEnding => ({
    outcome,
    result: outcome === 'succeeded' ? { ok: true } : null,
    failure: outcome === 'failed' ? { reason: 'error' } : null,
    runArtifacts: [],
    newArtifacts: [],
    model: null,
    alias: null,
  });
  const finish = (held: execution.FencedRun, outcome: execution.RunEnding['outcome'], more = {}) =>
    call((tx) => execution.finishRun(tx, held, { ...ending(outcome), ...more }));

  t.test('two runners that claim at the same time never get the same run, the oldest first', async (t) => {
    const ids = [await queue(), await queue(), await queue()];
    const claims = await Promise.all([claim('one'), claim('two'), claim('three'), claim('four')]);
    t.same(claims.flatMap((row) => row?.run_id ?? []).sort(), ids);
    t.equal(claims.filter((row) => row === undefined).length, 1);
    for (const held of claims) if (held) await finish(held, 'cancelled');
  });

  t.test('a run goes to a runner that has its hardware and all of its labels', async (t) => {
    const id = await queue({ hardware: 'cuda', labels: ['a100', 'fast'] });
    t.equal(await claim('cpu', { labels: ['a100', 'fast'] }), undefined);
    t.equal(await claim('slow', { hardware: ['cuda'], labels: ['a100'] }), undefined);
    const held = await claim('right', { hardware: ['cpu', 'cuda'], labels: ['fast', 'a100', 'more'] });
    t.match(held, { run_id: id, project_id: project, fence: 1, kind: 'sft', checkpoint: null });
    await finish(held!, 'failed');
    t.match(await run(id), { state: 'failed', failure: { reason: 'error' } });
  });

  t.test('under an old fence nothing is written, and the runner is told so', async (t) => {
    const id = await queue();
    const old = (await claim('old', { leaseSeconds: 0.01 }))!;
    await sleep(30);
    const held = (await claim('new'))!;
    t.match(held, { run_id: id, fence: 2 });
    const before = [await run(id), await events(id), await attempts(id)];

    t.equal(await call((tx) => execution.heartbeatRun(tx, old, 60)), null);
    t.equal(await call((tx) => execution.reportRunEvents(tx, old, [{ type: 'log' }])), false);
    t.equal(await call((tx) => execution.saveRunCheckpoint(tx, old, 7, [])), false);
    const model = {
      id: randomUUID(),
      name: 'm',
      role: 'policy',
      digest,
      tokenizer_digest: digest,
      files: [],
      metrics: {},
    };
    t.equal(await finish(old, 'succeeded', { model, alias: 'policy' }), false);
    t.same([await run(id), await events(id), await attempts(id)], before);
    t.same(await api.transaction(project, (tx) => tx.query('select * from finegrain.models')), []);

    t.equal(await call((tx) => execution.heartbeatRun(tx, held, 60)), 'running');
    t.equal(await finish(held, 'succeeded', { model, alias: 'policy' }), true);
    t.match(await run(id), { state: 'succeeded', model_id: model.id, result: { ok: true } });
    t.equal(await finish(held, 'failed'), false, 'an attempt ends once');
    t.equal(await call((tx) => execution.heartbeatRun(tx, held, 60)), null);
  });

  t.test(
    'a lost attempt goes back to the queue with its checkpoint, and fails the run after max_attempts',
    async (t) => {
      const id = await queue({ maxAttempts: 2 });
      const first = (await claim('first', { leaseSeconds: 0.01 }))!;
      const files = [{ path: 'checkpoints/a', digest, bytes: 1 }];
      await call((tx) => execution.saveRunCheckpoint(tx, first, 5, files));
      await sleep(30);
      t.equal(await system.transaction(null, execution.reapLostAttempts), 1);
      t.equal(await system.transaction(null, execution.reapLostAttempts), 0, 'once');
      t.match(await run(id), { state: 'queued', failure: null });

      const second = (await claim('second', { leaseSeconds: 0.01 }))!;
      t.match(second, { run_id: id, fence: 2, checkpoint: { step: 5, files } });
      await sleep(30);
      t.equal(await claim('third'), undefined, 'claiming reaps as well');
      t.match(await run(id), { state: 'failed', failure: { reason: 'lost', detail: /second/ } });
      t.match(await attempts(id), [{ outcome: 'lost' }, { outcome: 'lost' }]);
    },
  );

  t.test('a lease that is renewed is not lost', async (t) => {
    await queue();
    const held = (await claim('one', { leaseSeconds: 0.01 }))!;
    await sleep(30);
    t.equal(
      await call((tx) => execution.heartbeatRun(tx, held, 60)),
      'running',
      'late, but nobody else came',
    );
    t.equal(await system.transaction(null, execution.reapLostAttempts), 0);
    await finish(held, 'cancelled');
  });

  t.test('an interrupted attempt queues the run again and does not count as lost', async (t) => {
    const id = await queue({ maxAttempts: 1 });
    await finish((await claim())!, 'interrupted');
    t.match(await run(id), { state: 'queued', max_attempts: 1, finished_at: null });
    const held = (await claim())!;
    t.equal(held.fence, 2);
    await finish(held, 'succeeded');
    t.match(await run(id), { state: 'succeeded' });
  });

  t.test('cancelling: a queued run at once, a held one by its runner, an ended one never', async (t) => {
    const queued = await queue();
    t.equal(await api.transaction(project, (tx) => cancelRun(tx, queued)), true);
    t.match(await run(queued), { state: 'cancelled', desired_state: 'cancelled', finished_at: Date });
    t.equal(await claim(), undefined);
    t.equal(await api.transaction(project, (tx) => cancelRun(tx, queued)), false);

    const id = await queue();
    const held = (await claim())!;
    for (const _ of [1, 2]) t.equal(await api.transaction(project, (tx) => cancelRun(tx, id)), true);
    t.match(await run(id), { state: 'starting', desired_state: 'cancelled' });
    t.equal((await events(id)).filter(({ type }) => type === 'cancel_requested').length, 1);
    t.equal(await call((tx) => execution.heartbeatRun(tx, held, 60)), 'cancelled');
    const newArtifacts = [{ digest, bytes: 1, media_type: 'text/plain' }];
    t.equal(await finish(held, 'succeeded', { newArtifacts }), true);
    t.match(await run(id), { state: 'cancelled', result: null }, 'too late to succeed');
    t.same(await api.transaction(project, (tx) => tx.query('select * from finegrain.artifacts')), []);

    const lost = await queue();
    await claim('lost', { leaseSeconds: 0.01 });
    await api.transaction(project, (tx) => cancelRun(tx, lost));
    await sleep(30);
    await system.transaction(null, execution.reapLostAttempts);
    t.match(
      await run(lost),
      { state: 'cancelled' },
      'a lost run that should be cancelled is not queued again',
    );
  });

  t.test('progress, alarms and the state follow the events', async (t) => {
    const id = await queue();
    const held = (await claim())!;
    const report = (...list: object[]) => call((tx) => execution.reportRunEvents(tx, held, list));
    await report(
      { type: 'progress', step: 1 },
      { type: 'alarm', code: 'x', step: 1 },
      { type: 'progress', step: 2 },
    );
    await report(
      { type: 'metrics', values: {} },
      { type: 'alarm', code: 'x', step: 3 },
      { type: 'alarm', code: 'y' },
    );
    t.match(await run(id), {
      state: 'running',
      progress: { step: 2 },
      alarms: [{ code: 'x', step: 1 }, { code: 'y' }],
    });
    await finish(held, 'failed');
  });

  t.test('event numbers have no gaps when runner and API write at the same time', async (t) => {
    const id = await queue();
    const held = (await claim())!;
    await Promise.all([
      ...Array.from({ length: 20 }, (_, batch) =>
        call((tx) => execution.reportRunEvents(tx, held, Array(batch % 4).fill({ type: 'log', batch }))),
      ),
      ...Array.from({ length: 5 }, () => call((tx) => execution.heartbeatRun(tx, held, 60))),
      api.transaction(project, (tx) => cancelRun(tx, id)),
      call(async (tx) => {
        await execution.reportRunEvents(tx, held, [{ type: 'log' }]);
        throw new Error('rolled back');
      }).catch(() => {}),
    ]);
    await finish(held, 'cancelled');
    const numbers = (await events(id)).map(({ sequence }) => sequence);
    t.same(
      numbers,
      Array.from({ length: numbers.length }, (_, index) => index + 1),
    );
    t.equal(numbers.length, 30 + 3);
    t.equal((await run(id)).last_event, numbers.length);
  });

  t.test('a failure half-way through the end of a run leaves nothing behind', async (t) => {
    const id = await queue();
    const held = (await claim())!;
    const model = {
      id: randomUUID(),
      name: 'm',
      role: 'no such role',
      digest,
      tokenizer_digest: digest,
      files: [],
    };
    await t.rejects(
      finish(held, 'succeeded', { model, newArtifacts: [{ digest, bytes: 1, media_type: 'a/b' }] }),
    );
    t.match(await run(id), { state: 'starting' });
    t.same(await api.transaction(project, (tx) => tx.query('select * from finegrain.artifacts')), []);
    await finish(held, 'failed');
  });

  t.test('queueing wakes whoever listens, when the transaction commits', async (t) => {
    let woken = 0;
    const stopListening = execution.listenForRuns(
      database.urlOf('finegrain_runner'),
      () => woken++,
      (error) => t.fail(error),
    );
    while (woken === 0) await sleep(10); // as it connects
    await queue();
    for (let waited = 0; woken < 2 && waited < 5000; waited += 10) await sleep(10);
    t.equal(woken, 2);
    await stopListening();
    await finish((await claim())!, 'cancelled');
  });

  t.test('the role of a runner reads and writes no table', async (t) => {
    const tables = await system.transaction(null, (tx) =>
      tx.query<{ name: string }>(
        "select relname as name from pg_class where relnamespace = 'finegrain'::regnamespace and relkind = 'r'",
      ),
    );
    for (const { name } of tables) {
      for (const statement of [`select from finegrain.${name}`, `delete from finegrain.${name}`]) {
        const state = await call((tx) => tx.query(statement)).then(() => 'done', sqlState);
        t.equal(state, '42501', statement);
      }
    }
    for (const statement of [
      'select finegrain.reap_lost_attempts()',
      "select finegrain.append_run_events(gen_random_uuid(), gen_random_uuid(), 1, '[]')",
      'select finegrain.authenticate(null)',
      'select finegrain.list_projects(null, 10)',
    ]) {
      t.equal(await call((tx) => tx.query(statement)).then(() => 'done', sqlState), '42501', statement);
    }
  });
});
