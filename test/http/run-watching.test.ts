// What can be read of a run: metrics, logs, rollouts, checkpoints; and a model from a checkpoint.
import { gzipSync } from 'node:zlib';
import t from 'tap';
import { holdRun } from '../support/held-run.ts';
import { startTestServer } from '../support/server.ts';

t.test('watching a run', { timeout: 240_000 }, async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const { artifacts } = server.services;
  const stranger = await server.otherProjectKey();
  const put = async (content: string | Buffer) =>
    artifacts.put(
      (async function* () {
        yield content;
      })(),
    );
  const metric = (step: number, values: object) => ({ type: 'metrics', step, values });

  t.test('metrics: all points where there are few, buckets where there are many', async (t) => {
    const run = await holdRun(server);
    const path = `/v1/runs/${run.id}/metrics`;
    t.same((await call('GET', path)).body, { names: [], series: [] });
    const points = Array.from({ length: 250 }, (_, i) => i + 1);
    for (
      let from = 0;
      from < 250;
      from += 70 // in the middle of a block, too
    )
      await run.report(
        points
          .slice(from, from + 70)
          .map((step) => metric(step, { loss: 1 / step, ...(step % 2 ? { odd: null } : {}) })),
      );
    await run.report([{ type: 'log', level: 'info', message: 'no metric' }]);
    t.same((await call('GET', path)).body, { names: ['loss', 'odd'], series: [] });
    const { series } = (await call('GET', `${path}?names=loss,%20odd,none`)).body;
    t.same(
      series[0].points,
      points.map((step) => {
        const value = 1 / step;
        return { step, last_step: step, min: value, max: value, mean: value, last: value, count: 1 };
      }),
    );
    t.equal(series[1].points.length, 125);
    t.match(series[1].points[0], { step: 1, min: null, max: null, mean: null, last: null, count: 1 });
    t.same(series[2], { name: 'none', points: [] });
    const few = (await call('GET', `${path}?names=loss&points=10`)).body.series[0].points;
    t.equal(few.length, 10);
    t.match(few[0], { step: 1, max: 1, count: 25 });
    t.match(few[9], { last_step: 250, min: 1 / 250, last: 1 / 250 });
    t.equal((await call('GET', `/v1/runs/${run.id}/events?limit=1000`)).body.items.length, 252);
    await run.finish('cancelled');
  });

  t.test(
    'metrics: of a step that is repeated the newer value counts, and a restart begins anew',
    async (t) => {
      const first = await holdRun(server);
      await first.report([metric(1, { loss: 1 }), metric(2, { loss: 2 }), metric(3, { loss: 3 })]);
      const second = await first.again();
      t.equal(await first.report([metric(9, { loss: 9 })]), false, 'nothing under an old fence');
      await second.report([metric(2, { loss: 20 })]);
      const read = async () => {
        const { body } = await call('GET', `/v1/runs/${first.id}/metrics?names=loss`);
        return body.series[0].points.map(({ step, last }: { step: number; last: number }) => [step, last]);
      };
      t.same(await read(), [
        [1, 1],
        [2, 20],
        [3, 3],
      ]);
      await second.finish('failed');
      await call('POST', `/v1/runs/${first.id}/retry?restart=true`);
      t.same(await read(), []);
      await call('POST', `/v1/runs/${first.id}/cancel`);
    },
  );

  t.test('logs: the last lines while an attempt works, and all of it after', async (t) => {
    const first = await holdRun(server);
    const path = `/v1/runs/${first.id}/logs`;
    t.same((await call('GET', path)).body, {
      attempt: null,
      lines: [],
      line_count: 0,
      whole: null,
      updated_at: null,
    });
    const newest = ['one', 'two', 'three'];
    await first.log({ lineCount: 10, newest, kept: null });
    t.match((await call('GET', `${path}?tail=2`)).body, {
      attempt: 1,
      lines: ['two', 'three'],
      line_count: 10,
      whole: null,
    });
    const text = { headers: { accept: 'text/plain' } };
    t.equal((await call('GET', path, text)).text, 'one\ntwo\nthree\n');
    const whole = await put(gzipSync('zero\none\ntwo\nthree\nfour\n'));
    await first.log({ lineCount: 11, newest: ['four'], kept: { ...whole, complete: true } });
    const second = await first.again();
    t.match((await call('GET', path)).body, {
      attempt: 1,
      lines: ['four'],
      whole: { ...whole, complete: true },
    });
    t.equal((await call('GET', path, text)).text, 'zero\none\ntwo\nthree\nfour\n');
    await second.log({ lineCount: 1, newest: ['again'], kept: null });
    t.equal(await first.log({ lineCount: 99, newest: ['late'], kept: null }), false);
    t.match((await call('GET', path)).body, { attempt: 2, lines: ['again'] });
    t.match((await call('GET', `${path}?attempt=1`)).body, { attempt: 1, lines: ['four'] });
    t.match(await call('GET', `${path}?attempt=3`), {
      status: 404,
      body: { errors: [{ pointer: '/attempt' }] },
    });
    t.match(await call('GET', path, { headers: { accept: 'image/png' } }), { status: 406 });
    await second.finish('cancelled');
  });

  const rollout = (n: number) => ({
    id: `prompt-${n}`,
    prompt: [{ role: 'user', content: `Say ${n}` }],
    response: 'a b',
    token_ids: [1, 2],
    tokens: ['a', ' b'],
    finish_reason: 'length',
    rewards: [0, -1],
    kl: [0, 0.5],
    values: [0, null],
    advantages: [0, 0],
    logprobs: [-1, -2],
  });

  t.test('rollouts: steps, and the responses of a step, page by page', async (t) => {
    const run = await holdRun(server, { kind: 'ppo' });
    const path = `/v1/runs/${run.id}/rollouts`;
    const rows = Array.from({ length: 25 }, (_, n) => rollout(n));
    const { digest } = await put(gzipSync(rows.map((row) => `${JSON.stringify(row)}\n`).join('')));
    for (const step of [5, 10, 15]) t.equal(await run.saveRollouts(step, digest, 25), true);
    t.equal(await run.saveRollouts(15, digest, 25), true, 'said twice');
    const steps = (await call('GET', `${path}?limit=2`)).body;
    t.match(steps.items, [{ step: 5, attempt: 1, count: 25 }, { step: 10 }]);
    const rest = (await call('GET', `${path}?limit=2&cursor=${steps.next_cursor}`)).body;
    t.match(rest, { items: [{ step: 15 }], next_cursor: null });
    const seen: object[] = [];
    for (let cursor: string | null = ''; cursor !== null; ) {
      const page: { items: object[]; next_cursor: string | null } = (
        await call('GET', `${path}?step=10&limit=10${cursor && `&cursor=${cursor}`}`)
      ).body;
      t.ok(page.items.length <= 10);
      seen.push(...page.items);
      cursor = page.next_cursor;
    }
    t.same(seen, rows);
    t.match(await call('GET', `${path}?step=11`), { status: 404, body: { errors: [{ pointer: '/step' }] } });
    t.match(await call('GET', `${path}?step=5&cursor=${steps.next_cursor}`), {
      status: 422,
      body: { code: 'invalid_cursor' },
    });
    const events = (await call('GET', `/v1/runs/${run.id}/events`)).body.items;
    t.equal(events.filter(({ type }: { type: string }) => type === 'rollouts').length, 3);
    const second = await run.again();
    t.equal(await run.saveRollouts(20, digest, 25), false, 'nothing under an old fence');
    await second.saveRollouts(20, `sha256:${'9'.repeat(64)}`, 1);
    t.match(await call('GET', `${path}?step=20`), { status: 422, body: { code: 'unprocessable' } });
    await second.finish('cancelled');
  });

  t.test('checkpoints: list, download, promote', async (t) => {
    const rows = await put('{"prompt": "p", "response": "r"}');
    const inputs = { model: { scratch: {} }, data: { rows: rows.digest } };
    const spec = { seed: 3, name: 'mine', alias: 'policy', base_model: { scratch: {} } };
    const run = await holdRun(server, { inputs, spec, labels: ['big'], priority: 3 }, { labels: ['big'] });
    const path = `/v1/runs/${run.id}/checkpoints`;
    const manifest = await put('{"step": 5}');
    const filesOf = (step: number) => [{ path: `checkpoints/step-${step}/manifest.json`, ...manifest }];
    for (const step of [5, 10, 15]) await run.saveCheckpoint(step, filesOf(step));
    const page = (await call('GET', `${path}?limit=2`)).body;
    t.match(page.items, [
      { step: 15, attempt: 1, bytes: 11, files: [{ path: 'manifest.json', ...manifest }] },
      { step: 10 },
    ]);
    const rest = (await call('GET', `${path}?limit=2&cursor=${page.next_cursor}`)).body;
    t.match(rest, { items: [{ step: 5 }], next_cursor: null });
    const file = await call('GET', `${path}/5/files/manifest.json`);
    t.match(file, { status: 200, text: '{"step": 5}' });
    t.equal(file.headers.get('etag'), `"${manifest.digest}"`);
    t.equal((await call('GET', `${path}/5/files/nothing`)).status, 404);
    t.equal((await call('GET', `${path}/6/files/manifest.json`)).status, 404);
    await run.finish('failed');

    const promoted = await call('POST', `${path}/10/promote`, { json: {} });
    t.match(promoted, {
      status: 202,
      body: {
        kind: 'sft',
        state: 'queued',
        spec: { seed: 3, name: 'mine at step 10', base_model: { scratch: {} } },
        labels: ['big'],
        priority: 3,
        promoted_from: { run_id: run.id, step: 10 },
      },
    });
    t.notOk('alias' in promoted.body.spec, 'no alias moves unless it is asked for');
    t.match((await call('GET', `/v1/runs/${promoted.body.id}`)).body, promoted.body);
    t.match((await call('GET', `/v1/runs/${run.id}`)).body, { promoted_from: null });
    const named = await call('POST', `${path}/10/promote`, { json: { name: 'best', alias: 'policy' } });
    t.match(named.body.spec, { name: 'best', alias: 'policy' });
    const keyed = { json: {}, headers: { 'idempotency-key': 'once' } };
    const [once, twice] = [
      await call('POST', `${path}/15/promote`, keyed),
      await call('POST', `${path}/15/promote`, keyed),
    ];
    t.equal(once.body.id, twice.body.id);
    for (const { body } of [promoted, named, once]) await call('POST', `/v1/runs/${body.id}/cancel`);

    t.equal((await call('POST', `${path}/7/promote`, { json: {} })).status, 404);
    t.equal((await call('POST', `${path}/10/promote`, { json: {}, key: stranger })).status, 404);
    t.match(await call('POST', `${path}/10/promote`, { json: { alias: 'token-reward' } }), {
      status: 422,
      body: { errors: [{ pointer: '/alias' }] },
    });
    t.match(await call('POST', `${path}/10/promote`, { json: { colour: 1 } }), { status: 400 });

    const generate = await holdRun(server, { kind: 'generate', inputs });
    await generate.saveCheckpoint(1, filesOf(1));
    t.match(await call('POST', `/v1/runs/${generate.id}/checkpoints/1/promote`, { json: {} }), {
      status: 422,
      body: { detail: /makes no model/ },
    });
    await generate.finish('cancelled');
    const lost = await holdRun(server, { inputs });
    await lost.saveCheckpoint(1, [{ path: 'checkpoints/a/b', digest: `sha256:${'9'.repeat(64)}`, bytes: 1 }]);
    t.match(await call('POST', `/v1/runs/${lost.id}/checkpoints/1/promote`, { json: {} }), {
      status: 422,
      body: { detail: /missing from the artifact store/ },
    });
    t.equal((await call('GET', `/v1/runs/${lost.id}/checkpoints/1/files/b`)).status, 422);
    await lost.finish('cancelled');
  });
});
