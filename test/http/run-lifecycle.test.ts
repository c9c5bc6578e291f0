// What a client can ask of a run on its way: pause, resume, cancel, retry, priority; runs that wait for others; and what a
// queued run is told to wait for.
import t from 'tap';
import { finishRun, type RunEnding } from '../../src/db/run-execution.ts';
import { registerTinyModel } from '../support/models.ts';
import { claimAs } from '../support/queue.ts';
import { startTestServer } from '../support/server.ts';

const nobody = `run_${'0'.repeat(32)}`;

t.test('the life of a run', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const runner = server.database.open('finegrain_runner');
  const stranger = await server.otherProjectKey();
  const rows = await call('POST', '/v1/artifacts', {
    body: '{"prompt": "Say hello", "response": "Hello."}\n',
    headers: { 'content-type': 'application/x-ndjson' },
  });
  const policy = await registerTinyModel(server, { role: 'policy' });
  const reward = await registerTinyModel(server, { role: 'token_reward' });
  const sft = {
    kind: 'sft',
    spec: { base_model: { scratch: {} }, data: { demonstrations: rows.body.digest } },
  };
  const prompts = { prompts: rows.body.digest };
  const queue = async (more: object = {}) => {
    const { status, body } = await call('POST', '/v1/runs', { json: { ...sft, ...more } });
    if (status !== 202) throw new Error(JSON.stringify(body));
    return body;
  };
  const ask = (id: string, request: string, options = {}) =>
    call('POST', `/v1/runs/${id}/${request}`, options);
  const claim = async () => (await runner.transaction(null, (tx) => claimAs(tx)))!;
  const finish = (
    held: Awaited<ReturnType<typeof claim>>,
    outcome: RunEnding['outcome'],
    more: object = {},
  ) =>
    runner.transaction(null, (tx) =>
      finishRun(tx, held, {
        outcome,
        result: outcome === 'succeeded' ? {} : null,
        failure: outcome === 'failed' ? { reason: 'error', detail: 'd', exit_code: 1, log_tail: [] } : null,
        runArtifacts: [],
        newArtifacts: [],
        model: null,
        alias: null,
        events: [],
        ...more,
      }),
    );

  t.test('pause and resume, while it is queued and while a runner holds it', async (t) => {
    const { id } = await queue();
    t.match(await ask(id, 'pause'), {
      status: 200,
      body: { state: 'paused', desired_state: 'paused', waiting: null },
    });
    t.match(
      await ask(id, 'pause'),
      { status: 200, body: { state: 'paused' } },
      'asking twice is asking once',
    );
    t.match(await ask(id, 'resume'), { status: 200, body: { state: 'queued', desired_state: 'running' } });
    const held = await claim();
    t.match(await ask(id, 'pause'), { status: 200, body: { state: 'pausing', desired_state: 'paused' } });
    await finish(held, 'paused');
    t.match((await call('GET', `/v1/runs/${id}`)).body, {
      state: 'paused',
      attempts: [{ outcome: 'paused' }],
    });
    const events = (await call('GET', `/v1/runs/${id}/events`)).body.items;
    t.same(
      events.map(({ type }: { type: string }) => type),
      ['pause_requested', 'resume_requested', 'attempt_started', 'pause_requested', 'attempt_ended'],
    );
    t.match(await ask(id, 'cancel'), { status: 200, body: { state: 'cancelled' } });
  });

  t.test('what cannot be asked any more is a conflict that says why', async (t) => {
    const { id } = await queue();
    t.match(await ask(id, 'retry'), {
      status: 409,
      body: { code: 'conflict', detail: /queued.*only a failed or cancelled/ },
    });
    const held = await claim();
    await ask(id, 'cancel');
    for (const request of ['pause', 'resume'])
      t.match(await ask(id, request), { status: 409, body: { detail: /about to be cancelled/ } }, request);
    await finish(held, 'cancelled');
    for (const request of ['pause', 'resume', 'cancel'])
      t.match(await ask(id, request), { status: 409 }, request);
    t.match(await call('PATCH', `/v1/runs/${id}`, { json: { priority: 1 } }), { status: 409 });
  });

  t.test('a retry queues a failed run again, whole', async (t) => {
    const { id } = await queue({ time_limit_seconds: 60 });
    await finish(await claim(), 'failed', {
      events: [{ type: 'alarm', code: 'odd', detail: 'd', step: null, value: null, threshold: null }],
    });
    t.match((await call('GET', `/v1/runs/${id}`)).body, { state: 'failed', alarms: [{ code: 'odd' }] });
    t.match(await ask(id, 'retry?restart=true'), {
      status: 200,
      body: {
        state: 'queued',
        failure: null,
        alarms: [],
        finished_at: null,
        attempts: [{ outcome: 'failed' }],
      },
    });
    const held = await claim();
    t.match(held, { fence: 2, seconds_left: 60 });
    await finish(held, 'succeeded');
    t.match(await ask(id, 'retry'), { status: 409 });
    t.match(await ask(id, 'retry?restart=maybe'), { status: 400 });
  });

  t.test('If-Match: nobody steers a run that has moved on', async (t) => {
    const { id } = await queue();
    const etag = (await call('GET', `/v1/runs/${id}`)).headers.get('etag')!;
    await ask(id, 'pause');
    for (const request of ['pause', 'resume', 'cancel', 'retry'])
      t.match(await ask(id, request, { headers: { 'if-match': etag } }), { status: 412 }, request);
    t.match(await call('PATCH', `/v1/runs/${id}`, { json: { priority: 1 }, headers: { 'if-match': etag } }), {
      status: 412,
    });
    await ask(id, 'cancel');
  });

  t.test('the priority decides who is taken first, and can be changed', async (t) => {
    const [first, second] = [await queue(), await queue({ priority: 5 })];
    t.match(await call('PATCH', `/v1/runs/${first.id}`, { json: { priority: 6 } }), {
      status: 200,
      body: { priority: 6 },
    });
    t.match(await call('PATCH', `/v1/runs/${first.id}`, { json: { priority: 1001 } }), { status: 400 });
    t.match(await call('PATCH', `/v1/runs/${first.id}`, { json: {} }), { status: 400 });
    const taken = await claim();
    t.equal(`run_${taken.run_id.replaceAll('-', '')}`, first.id);
    await finish(taken, 'cancelled');
    await ask(second.id, 'cancel');
  });

  t.test('a run waits for those that it comes after, and for those whose models it needs', async (t) => {
    const train = await queue();
    const next = await call('POST', '/v1/runs', {
      json: { kind: 'generate', spec: { model: { run_id: train.id }, prompts }, after: [train.id] },
    });
    t.match(next, {
      status: 202,
      body: { state: 'queued', after: [train.id], waiting: { reason: 'dependencies', detail: /1 of the 1/ } },
    });
    const held = await claim();
    const model = {
      id: '00000000-0000-7000-8000-00000000abcd',
      name: 'm',
      role: 'policy',
      digest: rows.body.digest,
    };
    await finish(held, 'succeeded', {
      model: { ...model, tokenizer_digest: rows.body.digest, files: [], metrics: {} },
    });
    t.match((await call('GET', `/v1/runs/${next.body.id}`)).body, {
      state: 'queued',
      waiting: { reason: 'turn' },
    });
    const taken = await claim();
    t.match(taken, { inputs: { model: { model_id: /^model_/, digest: rows.body.digest } } });
    await finish(taken, 'cancelled');
    const known = await call('POST', '/v1/runs', {
      json: { kind: 'generate', spec: { model: { run_id: train.id }, prompts }, validate_only: true },
    });
    t.match(known, { status: 200, body: { after: [] } }, 'the model is there by now: nothing to wait for');
  });

  t.test('a PPO run may be queued behind the runs that make its policy and its reward model', async (t) => {
    const first = await queue();
    const ppo = await call('POST', '/v1/runs', {
      json: {
        kind: 'ppo',
        spec: { policy: { run_id: first.id }, reward_model: { model_id: reward }, prompts },
      },
    });
    t.match(ppo, { status: 202, body: { after: [first.id] } });
    await finish(await claim(), 'failed');
    t.match((await call('GET', `/v1/runs/${ppo.body.id}`)).body, {
      state: 'failed',
      failure: { reason: 'dependency_failed', detail: new RegExp(`waited for the sft run ${first.id}`) },
    });
    t.match(await ask(ppo.body.id, 'retry'), { status: 409, body: { detail: /retry that one first/ } });
    await ask(first.id, 'retry');
    t.match(await ask(ppo.body.id, 'retry'), { status: 200, body: { waiting: { reason: 'dependencies' } } });
    await ask(first.id, 'cancel');
    t.match((await call('GET', `/v1/runs/${ppo.body.id}`)).body, { state: 'failed' });
  });

  t.test('a model that did not pass its gate is not taken by its run, but by its id', async (t) => {
    const { id } = await queue();
    const model = {
      id: '00000000-0000-7000-8000-00000000abce',
      name: 'm',
      role: 'policy',
      digest: rows.body.digest,
    };
    await finish(await claim(), 'succeeded', {
      result: { gate: { passed: false, checks: [] } },
      model: { ...model, tokenizer_digest: rows.body.digest, files: [], metrics: {} },
    });
    const generate = (form: object) =>
      call('POST', '/v1/runs', {
        json: { kind: 'generate', spec: { model: form, prompts }, validate_only: true },
      });
    t.match(await generate({ run_id: id }), {
      status: 422,
      body: { errors: [{ pointer: '/spec/model/run_id' }] },
    });
    const { model_id } = (await call('GET', `/v1/runs/${id}`)).body;
    t.match(await generate({ model_id }), { status: 200 });
  });

  t.test('runs that cannot be waited for are refused with a pointer', async (t) => {
    const failed = await queue();
    await finish(await claim(), 'failed');
    const samples = await call('POST', '/v1/runs', {
      json: { kind: 'generate', spec: { model: { model_id: policy }, prompts } },
    });
    const theirs = await call('POST', '/v1/artifacts', {
      key: stranger,
      body: '{"prompt": "a", "response": "b"}\n',
      headers: { 'content-type': 'application/x-ndjson' },
    });
    const foreign = await call('POST', '/v1/runs', {
      key: stranger,
      json: { ...sft, spec: { base_model: { scratch: {} }, data: { demonstrations: theirs.body.digest } } },
    });
    const modelOf = (run_id: string) => ({ kind: 'generate', spec: { model: { run_id }, prompts } });
    const refused: [object, number, string][] = [
      [{ ...sft, after: [nobody] }, 404, '/after/0'],
      [{ ...sft, after: ['nonsense'] }, 404, '/after/0'],
      [{ ...sft, after: [samples.body.id, foreign.body.id] }, 404, '/after/1'],
      [{ ...sft, after: [failed.id] }, 422, '/after/0'],
      [modelOf(nobody), 404, '/spec/model/run_id'],
      [modelOf(foreign.body.id), 404, '/spec/model/run_id'],
      [modelOf(failed.id), 422, '/spec/model/run_id'],
      [modelOf(samples.body.id), 422, '/spec/model/run_id'],
      [
        {
          kind: 'ppo',
          spec: { policy: { model_id: policy }, reward_model: { run_id: samples.body.id }, prompts },
        },
        422,
        '/spec/reward_model/run_id',
      ],
    ];
    for (const [json, status, pointer] of refused)
      t.match(await call('POST', '/v1/runs', { json }), { status, body: { errors: [{ pointer }] } }, pointer);
    await ask(samples.body.id, 'cancel');
    await ask(foreign.body.id, 'cancel', { key: stranger });
  });

  t.test('another project finds nothing to steer', async (t) => {
    const { id } = await queue();
    for (const run of [id, nobody]) {
      const key = run === id ? { key: stranger } : {};
      for (const request of ['pause', 'resume', 'cancel', 'retry'])
        t.match(await ask(run, request, key), { status: 404 }, request);
      t.match(await call('PATCH', `/v1/runs/${run}`, { json: { priority: 1 }, ...key }), { status: 404 });
    }
    await ask(id, 'cancel');
  });

  t.test(
    'a queued run that no live runner can take says so; runners are listed with what they have',
    async (t) => {
      const { id } = await queue({ hardware: 'cuda', labels: ['h100'] });
      const waiting = async () => (await call('GET', `/v1/runs/${id}`)).body.waiting;
      t.match(await waiting(), {
        reason: 'no_runner',
        detail: /No live runner has cuda and the labels h100\. Those that live have: cpu/,
      });
      await runner.transaction(null, (tx) => claimAs(tx, 'half', { hardware: ['cuda'], labels: ['a100'] }));
      t.match(await waiting(), { reason: 'no_runner', detail: /cpu; cuda a100/ });
      await runner.transaction(null, (tx) =>
        claimAs(tx, 'right', { hardware: ['cuda', 'cpu'], labels: ['h100', 'x'] }),
      );
      const held = await call('GET', `/v1/runs/${id}`);
      t.match(held.body, { state: 'starting', waiting: null });
      const { items } = (await call('GET', '/v1/runners?limit=500')).body;
      t.match(
        items.find(({ name }: { name: string }) => name === 'right'),
        {
          id: /^runner_[0-9a-f]{32}$/,
          state: 'busy',
          hardware: ['cuda', 'cpu'],
          labels: ['h100', 'x'],
          devices: [],
          busy_since: String,
        },
      );
      t.match(
        items.find(({ name }: { name: string }) => name === 'half'),
        { state: 'idle', busy_since: null },
      );
      await runner.transaction(null, (tx) => claimAs(tx, 'short', { leaseSeconds: 2 }));
      const list = async (query: string) =>
        (await call('GET', `/v1/runners?limit=500&${query}`)).body.items.map(
          ({ name }: { name: string }) => name,
        );
      t.ok((await list('live=true')).includes('short'));
      t.same(await list('live=false'), []);
      const page = (await call('GET', '/v1/runners?limit=1')).body;
      t.equal(page.items.length, 1);
      t.equal((await call('GET', `/v1/runners?limit=1&cursor=${page.next_cursor}`)).body.items.length, 1);
      t.match(await call('GET', '/v1/runners?live=perhaps'), { status: 400 });
    },
  );

  t.test(
    '100 clients that pause and resume at once leave a run in a true state, each change told once',
    async (t) => {
      const { id } = await queue();
      const answers = await Promise.all(
        Array.from({ length: 100 }, (_, n) => ask(id, n % 2 ? 'pause' : 'resume')),
      );
      t.ok(answers.every(({ status }) => status === 200));
      const run = (await call('GET', `/v1/runs/${id}`)).body;
      const told = (await call('GET', `/v1/runs/${id}/events?limit=1000`)).body.items;
      told.forEach(({ sequence, type }: { sequence: number; type: string }, index: number) => {
        t.match(
          { sequence, type },
          { sequence: index + 1, type: index % 2 ? 'resume_requested' : 'pause_requested' },
        );
      });
      t.equal(run.state, told.length % 2 ? 'paused' : 'queued');
      await ask(id, 'cancel');
    },
  );
});
