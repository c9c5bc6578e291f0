// What a runner sends of a run while it works and at its end; and a checkpoint that becomes a model.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { fakePython, queueFake, startRunner, untilEnded, untilRun } from '../support/runner.ts';
import { startTestServer } from '../support/server.ts';

t.setTimeout(240_000);

t.test('a watched run', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  startRunner(t, server, { python: await fakePython(server.dataDir) });

  t.test('metrics, rollouts and the newest lines of the log can be read before it ends', async (t) => {
    const go = join(server.dataDir, 'go');
    const { id } = await queueFake(server, `watched = ${go}`);
    const path = `/v1/runs/${id}`;
    const read = async (what: string) => (await call('GET', `${path}/${what}`)).body;
    while ((await read('metrics?names=loss')).series[0].points.length < 300) await sleep(50);
    while ((await read('rollouts')).items.length < 2) await sleep(50);
    while ((await read('logs')).line_count < 1202) await sleep(50); // with its process id
    t.match((await call('GET', path)).body, { state: 'running' });
    t.match(await read('metrics?names=loss,odd&points=3'), {
      names: ['loss', 'odd'],
      series: [
        { points: [{ step: 1, max: 1, count: 100 }, { count: 100 }, { last_step: 300, last: 1 / 300 }] },
        { points: [{ min: null, count: 10 }, {}, {}] },
      ],
    });
    t.match(await read('rollouts'), { items: [{ step: 5, attempt: 1, count: 30 }, { step: 10 }] });
    const page = await read('rollouts?step=10&limit=20');
    t.match(page.items[0], { response: 'a\0 b', tokens: ['a\0', ' b'] });
    t.match(page.items.at(-1), { id: 'prompt-19', values: [0, null] });
    const log = await read('logs?tail=500');
    t.match(log, { attempt: 1, whole: null });
    t.equal(log.lines.length, 500);
    t.ok(log.lines.includes('stderr 1200'));

    await writeFile(go, '');
    await untilEnded(server, id);
    const { whole, line_count } = await read('logs');
    t.match(whole, { digest: String, complete: true });
    const { text } = await call('GET', `${path}/logs`, { headers: { accept: 'text/plain' } });
    const lines = text.trimEnd().split('\n');
    t.equal(lines.length, line_count);
    t.ok(lines.includes('stderr 1') && lines.includes('stderr 1200') && lines.includes('warning: look here'));
    t.match((await read('rollouts?step=5&limit=500')).items.length, 30);
  });

  t.test('a checkpoint of a cancelled run becomes a model without further training', async (t) => {
    const { id } = await queueFake(server, 'work');
    await untilRun(server, id, ({ progress }) => (progress?.step ?? 0) > 12);
    await call('POST', `/v1/runs/${id}/cancel`);
    await untilEnded(server, id);
    const { items } = (await call('GET', `/v1/runs/${id}/checkpoints`)).body;
    const { step } = items.at(-1);
    const { text } = await call('GET', `/v1/runs/${id}/checkpoints/${step}/files/state.json`);
    t.match(JSON.parse(text), { step });
    const promoted = await call('POST', `/v1/runs/${id}/checkpoints/${step}/promote`, {
      json: { alias: 'promoted' },
    });
    const run = await untilEnded(server, promoted.body.id);
    t.match(run, {
      state: 'succeeded',
      result: { finished_at: step },
      promoted_from: { run_id: id, step },
      attempts: [{ attempt: 1, outcome: 'succeeded' }],
    });
    t.equal((await call('GET', '/v1/models/promoted')).body.id, run.model_id);
    t.match((await call('GET', `/v1/runs/${id}`)).body, { state: 'cancelled', model_id: null });
  });
});
