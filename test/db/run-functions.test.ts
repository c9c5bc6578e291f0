// The functions through which runners work: who gets a run, what an old fence can still do (nothing), what is lost.
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import t from 'tap';
import { v7 as uuidv7 } from 'uuid';
import { type Database, sqlState } from '../../src/db/pool.ts';
import * as execution from '../../src/db/run-execution.ts';
import { selectLiveRunners } from '../../src/db/runners.ts';
import {
  appendRunEvents,
  lockRun,
  moveRun,
  renewRun,
  selectAttempts,
  selectRun,
  selectRunEvents,
  selectRunsForShare,
} from '../../src/db/runs.ts';
import {
  type RunRequest,
  type RunStanding,
  runMoves,
  runStates,
  standingAfter,
} from '../../src/domain/run-states.ts';
import { createTestDatabase } from '../support/database.ts';
import { type ClaimSettings, claimAs, queueRow } from '../support/queue.ts';

const project = '00000000-0000-7000-8000-000000000000';
const digest = `sha256:${'0'.repeat(64)}`;

t.test('run functions', async (t) => {
  const database = await createTestDatabase(t);
  const api = database.open('finegrain_api');
  const runner = database.open('finegrain_runner');
  const system = database.open('finegrain_system');
  let lastId = 0;
  const superuser = new pg.Client({ connectionString: database.superuserUrl });
  await superuser.connect();
  t.teardown(() => superuser.end());

  const queue = async (settings: Parameters<typeof queueRow>[3] = {}) => {
    const id = `00000000-0000-7000-8000-${String(++lastId).padStart(12, '0')}`;
    await api.transaction(project, (tx) => queueRow(tx, project, id, settings));
    return id;
  };
  const claim = (name = 'one', settings: ClaimSettings = {}) =>
    runner.transaction(null, (tx) => claimAs(tx, name, settings));
  /** As the API does it. */
  const ask = (id: string, request: RunRequest) =>
    api.transaction(project, async (tx) => {
      await lockRun(tx, id);
      const next = standingAfter((await selectRun(tx, id)) as RunStanding, request);
      if (!next) return false;
      await appendRunEvents(tx, id, [{ type: `${request}_requested` }]);
      await moveRun(tx, id, next);
      return true;
    });
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
    events: [],
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
    t.equal(await call((tx) => execution.reportRunEvents(tx, old, 1, [{ type: 'log' }])), false);
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

  t.test(
    'an attempt that its runner gives up counts as lost, and its reason becomes that of the run in the end',
    async (t) => {
      const id = await queue({ maxAttempts: 2 });
      const failure = { reason: 'disk_full' };
      const first = (await claim('first'))!;
      t.equal(await finish(first, 'lost', { failure }), true);
      t.match(await run(id), { state: 'queued', failure: null });
      t.match((await events(id)).at(-1), { type: 'attempt_ended', payload: { outcome: 'lost', failure } });

      const second = (await claim('second'))!;
      const asked = [first, second, { run_id: randomUUID(), fence: 1 }];
      t.same(
        await call((tx) => execution.selectEndedAttempts(tx, asked)),
        [{ run_id: id, fence: 1 }],
        'which attempts have ended: not those that live, nor those that nobody knows',
      );
      t.equal(await finish(second, 'lost', { failure }), true);
      t.match(await run(id), { state: 'failed', failure });

      await api.transaction(project, (tx) => renewRun(tx, id, { restart: false }));
      const third = (await claim('third'))!;
      t.equal(await ask(id, 'pause'), true);
      t.equal(await finish(third, 'lost', { failure }), true);
      t.match(await run(id), { state: 'paused', failure: null }, 'it was to be paused anyway');
      t.equal(await ask(id, 'cancel'), true);
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
    t.equal(await ask(queued, 'cancel'), true);
    t.match(await run(queued), { state: 'cancelled', desired_state: 'cancelled', finished_at: Date });
    t.equal(await claim(), undefined);
    t.equal(await ask(queued, 'cancel'), false);

    const id = await queue();
    const held = (await claim())!;
    t.equal(await ask(id, 'cancel'), true);
    t.match(await run(id), { state: 'starting', desired_state: 'cancelled' });
    t.equal(await call((tx) => execution.heartbeatRun(tx, held, 60)), 'cancelled');
    const newArtifacts = [{ digest, bytes: 1, media_type: 'text/plain' }];
    t.equal(await finish(held, 'succeeded', { newArtifacts }), true);
    t.match(await run(id), { state: 'cancelled', result: null }, 'too late to succeed');
    t.same(await api.transaction(project, (tx) => tx.query('select * from finegrain.artifacts')), []);

    const lost = await queue();
    await claim('lost', { leaseSeconds: 0.01 });
    await ask(lost, 'cancel');
    await sleep(30);
    await system.transaction(null, execution.reapLostAttempts);
    t.match(
      await run(lost),
      { state: 'cancelled' },
      'a lost run that should be cancelled is not queued again',
    );
  });

  t.test(
    'pausing: a queued run at once, a held one with its checkpoint; resumed, it waits for a runner',
    async (t) => {
      const queued = await queue();
      t.equal(await ask(queued, 'pause'), true);
      t.match(await run(queued), { state: 'paused', desired_state: 'paused', finished_at: null });
      t.equal(await claim(), undefined);
      t.equal(await ask(queued, 'resume'), true);

      const held = (await claim())!;
      t.equal(held.run_id, queued);
      await ask(queued, 'pause');
      t.match(await run(queued), { state: 'pausing' });
      t.equal(await call((tx) => execution.heartbeatRun(tx, held, 60)), 'paused');
      t.equal(await finish(held, 'paused'), true);
      t.match(await run(queued), { state: 'paused' });
      t.match(await attempts(queued), [{ outcome: 'paused' }]);

      await ask(queued, 'resume');
      const again = (await claim())!;
      t.equal(again.fence, 2);
      await ask(queued, 'pause');
      await ask(queued, 'resume');
      t.match(await run(queued), { state: 'running', desired_state: 'running' });
      await finish(again, 'paused');
      t.match(await run(queued), { state: 'queued' }, 'stopped for a pause that is no longer wanted');
      const third = (await claim())!;
      await ask(queued, 'pause');
      await finish(third, 'succeeded');
      t.match(await run(queued), { state: 'succeeded' }, 'it was done before it could pause');
    },
  );

  t.test('a paused run whose runner is lost meanwhile is paused', async (t) => {
    const id = await queue();
    await claim('gone', { leaseSeconds: 0.01 });
    await ask(id, 'pause');
    await sleep(30);
    t.equal(await system.transaction(null, execution.reapLostAttempts), 1);
    t.match(await run(id), { state: 'paused', desired_state: 'paused' });
    await ask(id, 'cancel');
  });

  t.test('a retry counts attempts, time and, with restart, checkpoints anew', async (t) => {
    const id = await queue({ maxAttempts: 1, timeLimitSeconds: 100 });
    const first = (await claim('first', { leaseSeconds: 0.01 }))!;
    t.equal(first.seconds_left, 100);
    await call((tx) => execution.saveRunCheckpoint(tx, first, 5, []));
    await sleep(30);
    await system.transaction(null, execution.reapLostAttempts);
    t.match(await run(id), { state: 'failed', failure: { reason: 'lost' } });

    await api.transaction(project, (tx) => renewRun(tx, id, { restart: false }));
    t.match(await run(id), { state: 'queued', failure: null, finished_at: null, desired_state: 'running' });
    const second = (await claim())!;
    t.match(second, { fence: 2, checkpoint: { step: 5 }, seconds_left: 100 });
    await sleep(30);
    await finish(second, 'interrupted');
    const third = (await claim('third', { leaseSeconds: 0.01 }))!;
    t.ok(third.seconds_left! < 99.98, 'the time of both attempts counts');
    await sleep(30);
    await system.transaction(null, execution.reapLostAttempts);
    t.match(await run(id), { state: 'failed' });

    await api.transaction(project, (tx) => renewRun(tx, id, { restart: true }));
    const fourth = (await claim())!;
    t.match(fourth, { fence: 4, checkpoint: null, seconds_left: 100 });
    await call((tx) => execution.saveRunCheckpoint(tx, fourth, 3, []));
    await finish(fourth, 'interrupted');
    const fifth = (await claim())!;
    t.match(fifth, { checkpoint: { step: 3 } }, 'not the older one of a later step');
    await finish(fifth, 'cancelled');
  });

  t.test('Postgres refuses every move that the table of states does not have', async (t) => {
    const listed = await system.transaction(null, (tx) =>
      tx.query<{ from_state: string; to_state: string }>('select * from finegrain.run_moves()'),
    );
    t.same(
      listed.map(({ from_state, to_state }) => `${from_state} ${to_state}`).sort(),
      runStates.flatMap((from) => runMoves[from].map((to) => `${from} ${to}`)).sort(),
      'SQL and TypeScript have the same table',
    );
    const ended = (state: string) => ['succeeded', 'failed', 'cancelled'].includes(state);
    const place = (id: string, state: string) =>
      superuser.query(`update finegrain.runs set state = $2, finished_at = $3, failure = $4 where id = $1`, [
        id,
        state,
        ended(state) ? new Date() : null,
        state === 'failed' ? '{}' : null,
      ]);
    for (const from of runStates) {
      for (const to of runStates) {
        if (from === to) continue;
        const id = await queue({ hardware: 'cuda' });
        await superuser.query('alter table finegrain.runs disable trigger run_moves');
        await place(id, from);
        await superuser.query('alter table finegrain.runs enable trigger run_moves');
        const outcome = await place(id, to).then(
          () => 'done',
          ({ code }) => code,
        );
        t.equal(outcome, runMoves[from].includes(to) ? 'done' : '23514', `${from} → ${to}`);
        await superuser.query('alter table finegrain.runs disable trigger run_moves');
        await place(id, 'cancelled');
        await superuser.query('alter table finegrain.runs enable trigger run_moves');
      }
    }
    const insert = api.transaction(project, (tx) =>
      tx.query(
        `insert into finegrain.runs (project_id, id, kind, spec, inputs, max_attempts, state) values ($1, $2, 'sft', '{}', '{}', 1, 'running')`,
        [project, randomUUID()],
      ),
    );
    await t.rejects(insert, { code: '23514' }, 'a run begins as queued');
  });

  t.test('the highest priority first, equal ones by age, over all that a runner has', async (t) => {
    const low = await queue({ priority: -1 });
    const old = await queue({ hardware: 'cuda' });
    const young = await queue();
    const high = await queue({ priority: 7, hardware: 'cuda' });
    await queue({ priority: 9, labels: ['elsewhere'] });
    const order: string[] = [];
    for (const _ of [1, 2, 3, 4]) {
      const held = (await claim('one', { hardware: ['cpu', 'cuda'] }))!;
      order.push(held.run_id);
      await finish(held, 'cancelled');
    }
    t.same(order, [high, old, young, low]);
    await finish((await claim('there', { labels: ['elsewhere'] }))!, 'cancelled');
  });

  t.test('a run that waits for others is taken when all have succeeded', async (t) => {
    const first = await queue();
    const second = await queue();
    const waits = await queue({
      after: [first, second],
      inputs: { model: { run_id: first }, data: { rows: digest } },
    });
    const [a, b] = [(await claim())!, (await claim())!];
    t.equal(await claim(), undefined);
    t.match(await run(waits), { state: 'queued', waits_for: 2, after: [first, second] });
    const model = {
      id: randomUUID(),
      name: 'm',
      role: 'policy',
      digest,
      tokenizer_digest: digest,
      files: [],
      metrics: {},
    };
    await Promise.all([finish(a, 'succeeded', { model }), finish(b, 'succeeded')]);
    const held = (await claim())!;
    t.match(held, {
      run_id: waits,
      inputs: {
        model: { model_id: `model_${model.id.replaceAll('-', '')}`, digest, files: [] },
        data: { rows: digest },
      },
    });
    await finish(held, 'cancelled');
    t.equal(
      (await run(await queue({ after: [first] }))).waits_for,
      0,
      'what has succeeded is not waited for',
    );
    await finish((await claim())!, 'cancelled');
  });

  t.test('a run that fails, or is cancelled, fails all that wait for it, with the reason', async (t) => {
    for (const outcome of ['failed', 'cancelled'] as const) {
      const first = await queue();
      const next = await queue({ after: [first] });
      const last = await queue({ after: [next] });
      const paused = await queue({ after: [first] });
      await ask(paused, 'pause');
      const held = (await claim())!;
      if (outcome === 'cancelled') await ask(first, 'cancel');
      await finish(held, outcome);
      const failure = { reason: 'dependency_failed' };
      t.match(await run(next), {
        state: 'failed',
        failure: { ...failure, detail: new RegExp(`ended as ${outcome}`) },
      });
      t.match(await run(last), { state: 'failed', failure });
      t.match(await run(paused), { state: 'failed', failure });
      t.match(await events(last), [{ type: 'dependency_failed', payload: { run_id: String } }]);

      await api.transaction(project, (tx) => renewRun(tx, first, { restart: false }));
      await api.transaction(project, (tx) => renewRun(tx, next, { restart: false }));
      t.match(await run(next), { state: 'queued', waits_for: 1 }, 'retried, it waits again');
      await finish((await claim())!, 'succeeded');
      t.match(await run(next), { waits_for: 0 });
      await finish((await claim())!, 'cancelled');
    }
  });

  t.test(
    'a model that did not pass its gate fails those that need it, not those that only come after',
    async (t) => {
      const first = await queue();
      const needs = await queue({ after: [first], inputs: { reward_model: { run_id: first } } });
      const follows = await queue({ after: [first] });
      const model = {
        id: randomUUID(),
        name: 'm',
        role: 'token_reward',
        digest,
        tokenizer_digest: digest,
        files: [],
        metrics: {},
      };
      await finish((await claim())!, 'succeeded', { model, result: { gate: { passed: false } } });
      t.match(await run(needs), { state: 'failed', failure: { detail: /did not pass its gate/ } });
      t.match(await run(follows), { state: 'queued', waits_for: 0 });
      await finish((await claim())!, 'cancelled');
    },
  );

  t.test('runs that are made while the one that they wait for ends never wait for ever', async (t) => {
    for (let round = 0; round < 10; round++) {
      const first = await queue();
      const held = (await claim())!;
      const make = () =>
        api.transaction(project, async (tx) => {
          await selectRunsForShare(tx, [first]);
          const id = `00000000-0000-7000-8000-${String(++lastId).padStart(12, '0')}`;
          await queueRow(tx, project, id, { after: [first] });
          return id;
        });
      const [, ...made] = await Promise.all([finish(held, 'succeeded'), make(), make(), make()]);
      for (const id of made) {
        t.match(await run(id as string), { waits_for: 0 });
        await ask(id as string, 'cancel');
      }
    }
  });

  t.test(
    'a clock that is set back: a live runner keeps its run, a dead one loses it after the length of its lease',
    async (t) => {
      const id = await queue();
      await claim('one', { leaseSeconds: 0.2 });
      // as if the clock had shown an hour more when the lease was given
      await superuser.query(
        `update finegrain.run_attempts set heartbeat_at = heartbeat_at + interval '1 hour', lease_expires_at = lease_expires_at + interval '1 hour' where run_id = $1`,
        [id],
      );
      t.equal(await system.transaction(null, execution.reapLostAttempts), 0);
      await sleep(250);
      t.equal(await system.transaction(null, execution.reapLostAttempts), 1);
      await ask(id, 'cancel');
    },
  );

  t.test('a batch of events that is sent twice, and a checkpoint that is, are written once', async (t) => {
    const id = await queue();
    const held = (await claim())!;
    for (const _ of [1, 2]) {
      t.equal(await call((tx) => execution.reportRunEvents(tx, held, 1, [{ type: 'log', n: 1 }])), true);
      t.equal(await call((tx) => execution.saveRunCheckpoint(tx, held, 5, [])), true);
    }
    await call((tx) => execution.reportRunEvents(tx, held, 2, [{ type: 'log', n: 2 }]));
    t.same(
      (await events(id)).map(({ type }) => type),
      ['attempt_started', 'log', 'checkpoint', 'log'],
    );
    await finish(held, 'failed', {
      events: [
        { type: 'alarm', code: 'x' },
        { type: 'alarm', code: 'x' },
      ],
    });
    t.match(await run(id), { alarms: [{ code: 'x' }] });
    t.equal(((await run(id)).alarms as unknown[]).length, 1);
  });

  t.test(
    'runners that live are known by what they have; one that stops or falls silent is not',
    async (t) => {
      const live = () =>
        api
          .transaction(project, (tx) => selectLiveRunners(tx))
          .then((rows) => rows.filter(({ version }) => version === 'v'));
      const record = (name: string) => ({
        id: uuidv7(),
        name,
        hardware: ['cpu', 'cuda'],
        labels: ['h100'],
        devices: [{ name: 'H100' }],
        version: 'v',
        leaseSeconds: 60,
        pollSeconds: 10,
      });
      const [one, two] = [record('one'), record('two')];
      for (const each of [one, two]) await call((tx) => execution.registerRunner(tx, each));
      t.match(await live(), [
        {
          name: 'one',
          hardware: ['cpu', 'cuda'],
          labels: ['h100'],
          devices: [{ name: 'H100' }],
          busy_since: null,
        },
        { name: 'two' },
      ]);
      await queue();
      const held = (await call((tx) => execution.claimRun(tx, one.id)))!;
      t.match(await live(), [{ busy_since: Date }, { busy_since: null }]);
      await finish(held, 'cancelled');
      t.match(await live(), [{ busy_since: null }, {}]);
      await call((tx) => execution.stopRunner(tx, one.id));
      await superuser.query(
        "update finegrain.runners set seen_at = seen_at - interval '51 seconds' where id = $1",
        [two.id],
      );
      t.same(await live(), []);
      await call((tx) => execution.claimRun(tx, two.id));
      t.match(await live(), [{ name: 'two' }], 'whoever looks for work lives');
      await t.rejects(
        call((tx) => execution.claimRun(tx, randomUUID())),
        { code: 'P0002' },
      );
    },
  );

  t.test('progress, alarms and the state follow the events', async (t) => {
    const id = await queue();
    const held = (await claim())!;
    let batch = 0;
    const report = (...list: object[]) => call((tx) => execution.reportRunEvents(tx, held, ++batch, list));
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

  t.test('an alarm that asks for it pauses a run that nobody cancels, once', async (t) => {
    const id = await queue();
    const held = (await claim())!;
    let batch = 0;
    const report = (...list: object[]) => call((tx) => execution.reportRunEvents(tx, held, ++batch, list));
    await report({ type: 'alarm', code: 'x', action: 'warn' });
    t.match(await run(id), { state: 'running', desired_state: 'running' });
    await report({ type: 'log' }, { type: 'alarm', code: 'y', action: 'pause' });
    t.match(await run(id), { state: 'pausing', desired_state: 'paused' });
    await finish(held, 'interrupted');
    t.match(await run(id), { state: 'paused', desired_state: 'paused' });

    const other = await queue();
    const cancelled = (await claim())!;
    await superuser.query("update finegrain.runs set desired_state = 'cancelled' where id = $1", [other]);
    await call((tx) =>
      execution.reportRunEvents(tx, cancelled, 1, [{ type: 'alarm', code: 'y', action: 'pause' }]),
    );
    t.match(await run(other), { state: 'running', desired_state: 'cancelled' });
    await finish(cancelled, 'cancelled');
  });

  t.test('event numbers have no gaps when runner and API write at the same time', async (t) => {
    const id = await queue();
    const held = (await claim())!;
    await Promise.all([
      (async () => {
        for (let batch = 0; batch < 20; batch++)
          await call((tx) =>
            execution.reportRunEvents(tx, held, 1 + batch, Array(batch % 4).fill({ type: 'log', batch })),
          );
      })(),
      ...Array.from({ length: 5 }, () => call((tx) => execution.heartbeatRun(tx, held, 60))),
      ask(id, 'cancel'),
      call(async (tx) => {
        await execution.reportRunEvents(tx, held, 99, [{ type: 'log' }]);
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
