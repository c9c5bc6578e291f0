// Evaluations: what they compare, who judges, and what comes of it. Slices are worked on here, one by one;
// test/jobs/evaluations.test.ts has the worker itself.
import t, { type Test } from 'tap';
import { claimJudgement, lockJudge } from '../../src/db/judgement-tasks.ts';
import { parseId } from '../../src/domain/ids.ts';
import { evaluationSlice } from '../../src/services/evaluation-work.ts';
import { defaultProjectId as project } from '../../src/services/keys.ts';
import type { SliceTimes } from '../../src/services/work-slice.ts';
import { registerTinyModel } from '../support/models.ts';
import { startTestServer } from '../support/server.ts';

t.setTimeout(180_000);

const times: SliceTimes = { sliceMs: 60_000, heartbeatMs: 200, leaseSeconds: 30, troubleSeconds: 15 };

async function setUp(t: Test) {
  const server = await startTestServer(t);
  const { call, database, services } = server;
  const system = database.open('finegrain_system');
  const uuidOf = (id: string) => parseId('evaluation', id)!;
  const sql = <Row extends object>(text: string, values: unknown[] = []) =>
    system.transaction(null, (tx) => tx.query<Row & Record<string, unknown>>(text, values));
  /** One slice, as if the time until it had passed. */
  const slice = async (
    { id }: { id: string },
    changed: Partial<SliceTimes> = {},
    signal = new AbortController().signal,
  ) => {
    await sql(
      'update finegrain.evaluations set due_at = clock_timestamp() where id = $1 and due_at is not null',
      [uuidOf(id)],
    );
    const key = { projectId: project, evaluationId: uuidOf(id) };
    return evaluationSlice(
      { db: system, artifacts: services.artifacts, scoring: services.scoring },
      key,
      signal,
      {
        ...times,
        ...changed,
      },
    );
  };
  const create = async (json: object) => {
    const answer = await call('POST', '/v1/evaluations', { json });
    if (answer.status !== 202) throw new Error(answer.text);
    return answer.body;
  };
  const get = async ({ id }: { id: string }) => (await call('GET', `/v1/evaluations/${id}`)).body;
  const resultOf = async ({ id }: { id: string }) => (await call('GET', `/v1/evaluations/${id}/result`)).body;
  const judge = (id: string, judgements: object[], options: object = {}) =>
    call('POST', `/v1/evaluations/${id}/judgements`, { json: { judgements }, ...options });
  const upload = async (rows: object[]): Promise<string> => {
    const body = rows.map((row) => `${JSON.stringify(row)}\n`).join('');
    const headers = { 'content-type': 'application/x-ndjson' };
    return (await call('POST', '/v1/artifacts', { body, headers })).body.digest;
  };
  return { server, call, sql, slice, create, get, resultOf, judge, upload, uuidOf };
}

const responses = (count: number, text: (n: number) => string) =>
  Array.from({ length: count }, (_, n) => ({ id: `item-${n}`, prompt: `Say ${n}.`, response: text(n) }));

const external = (count: number, options: object = {}) => ({
  candidates: [{ responses: responses(count, (n) => `I say ${n}.`) }],
  baseline: { responses: responses(count, (n) => `Well, ${n}.`) },
  judge: { kind: 'external', ...options },
});

t.test('judgements of a program of mine, from the items to the win rate', async (t) => {
  const { call, create, slice, get, resultOf, judge } = await setUp(t);
  const made = await create({ name: 'mine', ...external(4), options: { confidence_level: 0.9 } });
  t.match(made, {
    id: /^eval_/,
    name: 'mine',
    state: 'preparing',
    candidates: [{ name: 'candidate' }],
    baseline: { name: 'baseline' },
    judge: { kind: 'external', per_item: 1, circular: [], scored_by: null },
    options: { confidence_level: 0.9 },
    runs: [],
    progress: { items: null, judged: 0, total: null, fraction: 0 },
  });
  t.notOk('responses' in made.candidates[0], 'texts are not repeated');
  t.match(
    await judge(made.id, [{ item_id: 'item-0', outcome: 1 }]),
    { status: 409 },
    'there are no items yet',
  );
  t.match(await resultOf(made), { running: true, figures: { win_rate: null, n: 0 } });

  t.equal(await slice(made), null);
  t.match(await get(made), { state: 'judging', progress: { items: 4, judged: 0, total: 4 } });
  const { items, next_after } = (await call('GET', `/v1/evaluations/${made.id}/items?limit=3`)).body;
  t.equal(next_after, 3);
  t.same(items[0], {
    number: 1,
    item_id: 'item-0',
    prompt: 'Say 0.',
    responses: [
      { name: 'baseline', training_seed: null, response: 'Well, 0.' },
      { name: 'candidate', training_seed: null, response: 'I say 0.' },
    ],
  });
  t.match((await call('GET', `/v1/evaluations/${made.id}/items?after=3`)).body, {
    items: [{ item_id: 'item-3' }],
    next_after: null,
  });

  const first = [
    { item_id: 'item-0', outcome: 1, order: 'candidate_first' },
    { item_id: 'item-1', outcome: 0 },
  ];
  t.match(await judge(made.id, first), { status: 200, body: { created: 2, unchanged: 0 } });
  t.match(await judge(made.id, first), { status: 200, body: { created: 0, unchanged: 2 } }, 'sent again');
  t.match(await resultOf(made), { running: true, figures: { win_rate: 0.5, n: 2 } });
  t.match(
    (await resultOf(made)).figures.notes.join(' '),
    /still to come/,
    'a running estimate is called one',
  );
  const last = [
    { item_id: 'item-2', outcome: 0.5, judge: { name: 'other' } },
    { item_id: 'item-3', outcome: null, null_reason: 'timed_out' },
  ];
  t.match(await judge(made.id, last), { status: 200 });
  t.match(await get(made), {
    state: 'succeeded',
    progress: { judged: 4, nulls: 1, total: 4, fraction: 1 },
    finished_at: String,
  });
  const result = await resultOf(made);
  t.match(result, {
    evaluation_id: made.id,
    state: 'succeeded',
    running: false,
    figures: { win_rate: 0.5, n: 3, wins: 1, losses: 1, ties: 1, dropped: { null: 1 }, clusters: 3 },
  });
  t.match(result.figures, { confidence_interval: { level: 0.9 }, length_controlled: { n: 3 } });
});

t.test('what is judged once is judged once, and wrong judgements store nothing', async (t) => {
  const { create, slice, judge, get, call } = await setUp(t);
  const made = await create({
    ...external(2),
    candidates: [
      { name: 'a', training_seed: 1, responses: responses(2, () => 'one') },
      { name: 'a', training_seed: 2, responses: responses(2, () => 'two') },
      { name: 'b', responses: responses(1, () => 'three') },
    ],
  });
  await slice(made);
  t.match(
    await get(made),
    { progress: { items: 2, total: 6, judged: 1, nulls: 1 } },
    'b says nothing to item-1',
  );
  const refused: [object, number, string][] = [
    [{ item_id: 'item-9', candidate: 'b', outcome: 1 }, 422, '/judgements/1/item_id'],
    [{ item_id: 'item-0', outcome: 1 }, 422, '/judgements/1/candidate'],
    [{ item_id: 'item-0', candidate: 'a', outcome: 1 }, 422, '/judgements/1/candidate'],
    [{ item_id: 'item-0', candidate: 'c', outcome: 1 }, 422, '/judgements/1/candidate'],
    [{ item_id: 'item-0', candidate: 'b', outcome: null }, 422, '/judgements/1/null_reason'],
    [{ item_id: 'item-0', candidate: 'b', outcome: 1, null_reason: 'x' }, 422, '/judgements/1/null_reason'],
    [{ item_id: 'item-0', candidate: 'b', outcome: 1.0000001 }, 400, '/judgements/1/outcome'],
    [{ item_id: 'item-0', candidate: 'b', outcome: 'NaN' }, 400, '/judgements/1/outcome'],
    [{ item_id: 'item-0', candidate: 'a', training_seed: 1, outcome: 0.25 }, 409, '/judgements/1'],
  ];
  const good = { item_id: 'item-0', candidate: 'a', training_seed: 1, outcome: 1 };
  for (const [bad, status, pointer] of refused)
    t.match(
      await judge(made.id, [good, bad]),
      { status, body: { errors: [{ pointer }] } },
      JSON.stringify(bad),
    );
  t.match(await get(made), { progress: { judged: 1 } }, 'all or none');
  t.match(await judge(made.id, [good, { ...good, order: 'baseline_first' }]), { body: { created: 2 } });
  t.match(await judge(made.id, [{ ...good, outcome: 0 }]), { status: 409, body: { code: 'conflict' } });
  const { items } = (await call('GET', `/v1/evaluations/${made.id}/judgements?state=judged&limit=2`)).body;
  t.match(items, [
    { candidate: 'a', training_seed: 1, outcome: 1, judge: { kind: 'external', name: 'external' } },
    {},
  ]);
});

t.test('two people at the last two judgements end it once', async (t) => {
  const { create, slice, judge, get } = await setUp(t);
  const made = await create(external(20, { per_item: 2 }));
  await slice(made);
  const all = (name: string) =>
    Array.from({ length: 20 }, (_, n) =>
      judge(made.id, [{ item_id: `item-${n}`, outcome: n % 2, judge: { name } }]),
    );
  const answers = await Promise.all([...all('ann'), ...all('bob')]);
  t.ok(answers.every(({ status }) => status === 200));
  t.match(await get(made), { state: 'succeeded', progress: { judged: 40, total: 40 } });
  t.match(await judge(made.id, [{ item_id: 'item-0', outcome: 1, judge: { name: 'eve' } }]), {
    status: 200,
    body: { created: 1 },
  });
  t.match(await get(made), { state: 'succeeded', progress: { judged: 41, total: 41 } }, 'a late one is kept');
});

t.test('a reward model judges, in slices, each pair once', async (t) => {
  const { server, create, slice, get, resultOf, call, judge } = await setUp(t);
  const model = await registerTinyModel(server, { alias: 'token-reward' });
  const made = await create({
    candidates: [
      { name: 'short', responses: responses(40, (n) => `Say ${n}.`) },
      { name: 'same', responses: responses(40, () => 'The harbor is nice.') },
    ],
    baseline: { responses: responses(40, () => 'The harbor is nice.') },
    judge: { kind: 'reward' },
  });
  t.match(made.judge, { scored_by: { id: model, alias: 'token-reward' }, circular: [], tie_margin: 0 });
  await slice(made);
  t.match(await get(made), { state: 'judging' });
  await slice(made, { sliceMs: 0 });
  const { progress } = await get(made);
  t.equal(progress.judged, 32, 'a slice ends after a batch');
  const broken = new AbortController();
  broken.abort();
  await slice(made, {}, broken.signal);
  t.match(
    await get(made),
    { state: 'judging', progress: { judged: 32 } },
    'a worker that is to stop judges nothing',
  );
  await slice(made);
  t.match(await get(made), { state: 'succeeded', progress: { judged: 80, nulls: 0, total: 80 } });
  const { figures } = await resultOf(made);
  t.match(figures, {
    n: 80,
    candidates: [{ candidate: 'short' }, { candidate: 'same', win_rate: 0.5, ties: 40 }],
  });
  const { items } = (await call('GET', `/v1/evaluations/${made.id}/judgements?limit=1`)).body;
  const { reward_candidate, reward_baseline } = items[0].detail;
  const scored = (
    await call('POST', '/v1/score', {
      json: { prompt: 'Say 0.', responses: ['Say 0.', 'The harbor is nice.'], include_eos: true },
    })
  ).body.results;
  t.equal(reward_candidate, scored[0].reward, 'as POST /v1/score has it');
  t.equal(reward_baseline, scored[1].reward);
  t.equal(items[0].outcome, reward_candidate > reward_baseline ? 1 : 0);

  const people = Array.from({ length: 10 }, (_, n) => ({
    item_id: `item-${n}`,
    candidate: 'short',
    outcome: n % 2,
    judge: { kind: 'person', name: 'ann' },
  }));
  t.match(await judge(made.id, people), { body: { created: 10 } });
  const after = (await resultOf(made)).figures;
  t.equal(after.n, 80, 'people beside a reward model do not change its figure');
  t.match(after, { agreement: { items: 10 }, prediction_powered: { people_items: 10 } });

  const wide = await create({ ...external(3), judge: { kind: 'reward', tie_margin: 1e9 } });
  await slice(wide);
  await slice(wide);
  t.match(await resultOf(wide), { figures: { ties: 3, win_rate: 0.5 } });
  const refused = await registerTinyModel(server, { changes: { 'golden.json': null } });
  const failing = await create({ ...external(3), judge: { kind: 'reward', model: refused } });
  await slice(failing);
  t.match(await slice(failing), /given up: The model cannot be served/);
  t.match(await get(failing), { state: 'failed', failure: { reason: 'judge_refused' } });
});

t.test('candidates of a run to come, and of files', async (t) => {
  const { server, call, create, slice, get, upload, sql } = await setUp(t);
  const policy = await registerTinyModel(server, { role: 'policy', alias: 'policy' });
  const baseline = { artifact: await upload(responses(3, (n) => `file ${n}`)) };
  const prompts = {
    items: [
      { id: 'item-1', prompt: 'Say 1.' },
      { id: 'item-7', prompt: 'Say 7.' },
    ],
  };
  const made = await create({
    candidates: [{ model: { model_id: policy }, seed: 3, hyperparameters: { max_new_tokens: 5 } }],
    baseline,
    prompts,
    judge: { kind: 'external' },
  });
  t.match(made, {
    state: 'preparing',
    runs: [{ responder: 'candidate', own: true, state: 'queued' }],
    prompts: { prompts: /^sha256:/ },
  });
  const runId = made.runs[0].run_id;
  t.match((await call('GET', `/v1/runs/${runId}`)).body, {
    kind: 'generate',
    spec: { seed: 3, hyperparameters: { max_new_tokens: 5 }, prompts: { prompts: made.prompts.prompts } },
  });
  t.equal(await slice(made), null);
  t.match(await get(made), { state: 'preparing' }, 'nothing to do before the run ends');

  const output = await upload([{ id: 'item-1', prompt: 'Say 1.', response: 'run 1' }]);
  for (const [state, artifacts] of [
    ['starting', '[]'],
    ['running', '[]'],
    ['succeeded', JSON.stringify([{ name: 'responses.ndjson', digest: output, bytes: 9, media_type: 'x' }])],
  ])
    await sql(
      `update finegrain.runs set state = $2, artifacts = $3,
         finished_at = case when $2 = 'succeeded' then now() end where id = $1`,
      [parseId('run', runId)!, state, artifacts],
    );
  const [{ due_at }] = (await sql<{ due_at: Date | null }>('select due_at from finegrain.evaluations')) as [
    { due_at: Date | null },
  ];
  t.ok(due_at, 'the end of the run wakes it');
  await slice(made);
  t.match(await get(made), { state: 'judging', progress: { items: 2, judged: 1, nulls: 1 } });
  const { items } = (await call('GET', `/v1/evaluations/${made.id}/items`)).body;
  t.match(items, [
    { item_id: 'item-1', responses: [{ response: 'file 1' }, { response: 'run 1' }] },
    { item_id: 'item-7', prompt: 'Say 7.', responses: [{ response: null }, { response: null }] },
  ]);

  const next = await create({
    candidates: [{ generate_run_id: runId }],
    baseline,
    judge: { kind: 'external' },
  });
  await slice(next);
  t.match(await get(next), {
    state: 'judging',
    runs: [{ own: false, state: 'succeeded' }],
    progress: { items: 3 },
  });

  const cancelled = await create({
    candidates: [{ model: { alias: 'policy' } }],
    baseline,
    prompts,
    judge: { kind: 'external' },
  });
  const cancel = () => call('POST', `/v1/evaluations/${cancelled.id}/cancel`);
  t.match(await cancel(), { status: 200, body: { state: 'cancelled', runs: [{ state: 'cancelled' }] } });
  t.match(await cancel(), { status: 200, body: { state: 'cancelled' } });

  const failing = await create({
    candidates: ['one', 'other'].map((name) => ({ name, model: { alias: 'policy' } })),
    baseline,
    prompts,
    judge: { kind: 'external' },
  });
  await call('POST', `/v1/runs/${failing.runs[0].run_id}/cancel`);
  t.match(await slice(failing), /given up/);
  t.match(
    await get(failing),
    {
      state: 'failed',
      failure: { reason: 'run_failed' },
      runs: [{ state: 'cancelled' }, { state: 'cancelled' }],
    },
    'nobody waits for what the other run would write',
  );
});

t.test('cancelling keeps what is judged', async (t) => {
  const { create, slice, judge, get, resultOf, call } = await setUp(t);
  const made = await create(external(3));
  await slice(made);
  await judge(made.id, [{ item_id: 'item-0', outcome: 1 }]);
  t.match(await resultOf(made), { running: true, figures: { summary: /^So far: The candidate wins 100/ } });
  const { headers } = await call('GET', `/v1/evaluations/${made.id}`);
  t.match(await call('POST', `/v1/evaluations/${made.id}/cancel`, { headers: { 'if-match': '"x"' } }), {
    status: 412,
  });
  t.match(
    await call('POST', `/v1/evaluations/${made.id}/cancel`, {
      headers: { 'if-match': headers.get('etag')! },
    }),
    { status: 200, body: { state: 'cancelled' } },
  );
  t.match(await get(made), { state: 'cancelled', progress: { judged: 1, total: 3 } });
  const { figures, running } = await resultOf(made);
  t.match(
    { figures, running },
    { figures: { n: 1, win_rate: 1, summary: /^The candidate wins/ }, running: false },
  );
  t.match(figures.notes.join(' '), /cancelled before every judgement/);
});

t.test('exports', async (t) => {
  const { create, slice, judge, call } = await setUp(t);
  const made = await create({
    candidates: [{ name: 'a "quoted", name', responses: responses(2, (n) => `I say ${n}.`) }],
    baseline: { responses: [responses(2, () => 'Well.')[0]] },
    judge: { kind: 'external' },
  });
  await slice(made);
  await judge(made.id, [
    { item_id: 'item-0', outcome: 0.75, judge: { name: 'gpt' }, order: 'candidate_first' },
    { item_id: 'item-1', outcome: 1, judge: { kind: 'person', name: '=HYPERLINK("x")' } },
  ]);
  const lines = (await call('GET', `/v1/evaluations/${made.id}/export`)).text.trimEnd().split('\n');
  t.match(
    lines.map((line) => JSON.parse(line)),
    [
      { item_id: 'item-0', prompt: 'Say 0.', judgements: [{ outcome: 0.75, judge_name: 'gpt' }] },
      {
        item_id: 'item-1',
        responses: [{ response: null }, {}],
        judgements: [{ null_reason: 'no_response' }],
      },
    ],
  );
  const csv = (await call('GET', `/v1/evaluations/${made.id}/export?format=csv`)).text.split('\r\n');
  t.equal(csv.length, 5);
  t.match(csv, [
    /^item_id/,
    /^item-0/,
    /nobody 1/,
    `item-1,"a ""quoted"", name",,person,"'=HYPERLINK(""x"")",,1,,8,`,
  ]);
  t.equal(csv[1], 'item-0,"a ""quoted"", name",,external,gpt,candidate_first,0.75,,8,5');
  t.same((await call('GET', `/v1/evaluations/${made.id}/export?format=alpaca_eval`)).body, [
    {
      instruction: 'Say 0.',
      output_1: 'Well.',
      generator_1: 'baseline',
      output_2: 'I say 0.',
      generator_2: 'a "quoted", name',
      annotator: 'gpt',
      preference: 1.75,
    },
  ]);
});

t.test('people judge without knowing whose the responses are, each pair once', async (t) => {
  const { server, call, create, slice, get, resultOf, sql } = await setUp(t);
  const key = await server.keyWith('evaluations:judge');
  const made = await create({
    ...external(6),
    judge: { kind: 'person', per_item: 2, instructions: 'Which says its number?' },
  });
  await slice(made);
  t.match(await get(made), { state: 'judging', progress: { total: 12 } });
  const claim = (judge: string, limit = 1, more: object = {}) =>
    call('POST', '/v1/judgement-tasks/claim', { json: { judge, limit, ...more }, key });
  const task = (id: string, verb: string, json: object) =>
    call('POST', `/v1/judgement-tasks/${id}/${verb}`, { json, key });

  const ann = (await claim('ann', 10)).body;
  t.equal(ann.items.length, 6, 'no pair twice to the same judge');
  t.equal(ann.open, 0);
  t.equal(ann.items[0].instructions, 'Which says its number?');
  const orders = new Set();
  for (const { id, lease_token, prompt, responses: shown } of ann.items) {
    t.same(Object.values(shown).sort(), [`I say ${prompt.slice(4)}`, `Well, ${prompt.slice(4)}`]);
    t.notMatch(JSON.stringify(shown), /candidate|baseline/);
    const verdict = shown.first.startsWith('I') ? 'first' : 'second';
    orders.add(verdict);
    t.match(await task(id, 'heartbeat', { lease_token, lease_seconds: 60 }), {
      status: 200,
      body: { state: 'leased' },
    });
    t.match(await task(id, 'submit', { lease_token, verdict }), { status: 200, body: { state: 'judged' } });
    t.match(await task(id, 'submit', { lease_token, verdict }), { status: 200 }, 'sent again');
    t.match(await task(id, 'submit', { lease_token, verdict: 'tie' }), { status: 409 });
  }
  t.match(await resultOf(made), { running: true, figures: { win_rate: 1, n: 6 } }, 'whatever the order');
  t.match((await claim('ann')).body, { items: [], open: 0 });

  const [bob] = (await claim('bob')).body.items;
  t.match(await task(bob.id, 'submit', { lease_token: 'wrong', verdict: 'tie' }), { status: 409 });
  t.match(await task(bob.id, 'release', { lease_token: bob.lease_token }), {
    status: 200,
    body: { state: 'open' },
  });
  t.match(await task(bob.id, 'submit', { lease_token: bob.lease_token, verdict: 'tie' }), { status: 409 });
  const [again] = (await claim('bob')).body.items;
  t.equal(again.id, bob.id, 'what was given back comes again');
  t.match(await task(again.id, 'skip', { lease_token: again.lease_token, reason: 'dull' }), { status: 200 });
  const others = (await claim('bob', 10)).body;
  t.equal(others.items.length, 5, 'what was skipped does not');
  await sql('update finegrain.judgements set lease_expires_at = clock_timestamp() where id = $1', [
    parseId('judgement', others.items[0].id),
  ]);
  t.match(
    await task(others.items[0].id, 'submit', { lease_token: others.items[0].lease_token, verdict: 'tie' }),
    { status: 409, body: { detail: /lease ran out/ } },
  );
  for (const { id, lease_token } of others.items.slice(1))
    await task(id, 'submit', { lease_token, verdict: 'tie' });
  const rest = (await claim('eve', 10)).body.items;
  t.equal(rest.length, 2);
  for (const { id, lease_token } of rest) await task(id, 'submit', { lease_token, verdict: 'tie' });
  t.match(await get(made), { state: 'succeeded', progress: { judged: 12, total: 12 } });
  t.match(await resultOf(made), { running: false, figures: { n: 12, win_rate: 0.75, clusters: 6 } });

  const none = await create(external(1));
  t.match(await claim('ann', 1, { evaluation_id: none.id }), { status: 409 });
  t.equal(
    (await call('GET', `/v1/evaluations/${made.id}`, { key })).status,
    403,
    'a judge sees nothing else',
  );
  t.match(
    await call('POST', '/v1/evaluations', {
      json: { ...external(1), judge: { kind: 'person' }, people: {} },
    }),
    {
      status: 422,
      body: { errors: [{ pointer: '/people' }] },
    },
  );
});

t.test('people check some of what a program judges', async (t) => {
  const { call, create, slice, get, judge, resultOf } = await setUp(t);
  const made = await create({ ...external(30), people: { items: 10, instructions: 'Look well.' } });
  await slice(made);
  t.match(await get(made), {
    progress: { total: 30, beside: { judged: 0, total: 10 } },
    people: { per_item: 1 },
  });
  await judge(
    made.id,
    Array.from({ length: 30 }, (_, n) => ({ item_id: `item-${n}`, outcome: n % 3 ? 1 : 0 })),
  );
  t.match(await get(made), { state: 'succeeded' }, 'people are not waited for');
  t.match(
    await call('POST', `/v1/evaluations/${made.id}/cancel`),
    { body: { state: 'succeeded' } },
    'too late',
  );
  const { items } = (await call('POST', '/v1/judgement-tasks/claim', { json: { judge: 'ann', limit: 50 } }))
    .body;
  t.equal(items.length, 10);
  for (const { id, lease_token, responses: shown } of items)
    await call('POST', `/v1/judgement-tasks/${id}/submit`, {
      json: { lease_token, verdict: shown.first.startsWith('I') ? 'first' : 'second' },
    });
  t.match(await get(made), { progress: { judged: 30, beside: { judged: 10, total: 10 } } });
  t.match(await resultOf(made), {
    figures: {
      n: 30,
      agreement: { judge: 'external', items: 10 },
      prediction_powered: { people_items: 10, judge_items: 20 },
    },
  });
});

t.test('programs beside people are checked by them, each for itself', async (t) => {
  const { slice, create, resultOf, judge } = await setUp(t);
  const made = await create({ ...external(20), judge: { kind: 'person' } });
  await slice(made);
  const by = (kind: string, name: string, count: number, outcome: (n: number) => number) =>
    judge(
      made.id,
      Array.from({ length: count }, (_, n) => ({
        item_id: `item-${n}`,
        outcome: outcome(n),
        judge: { kind, name },
      })),
    );
  t.match(await by('person', 'ann', 10, (n) => n % 2), { body: { created: 10 } });
  t.match(await by('llm', 'good', 20, (n) => n % 2), { body: { created: 20 } });
  t.match(await by('external', 'poor', 8, () => 1), { body: { created: 8 } });
  const { figures, other_judges } = await resultOf(made);
  t.match(figures, { n: 10, win_rate: 0.5, agreement: null });
  t.match(other_judges, [
    {
      judge: { kind: 'llm', name: 'good' },
      figures: {
        n: 20,
        win_rate: 0.5,
        agreement: { judge: 'good', items: 10, accuracy: 1, kappa: 1, people: [{ name: 'ann' }] },
        prediction_powered: { people_items: 10, judge_items: 10 },
      },
    },
    {
      judge: { kind: 'external', name: 'poor' },
      figures: { n: 8, win_rate: 1, agreement: { items: 8, accuracy: 0.5, kappa: 0 } },
    },
  ]);
});

t.test('what goes out as annotations is what the win rate is of, and comes in again', async (t) => {
  const { call, create, slice, judge, get, resultOf } = await setUp(t);
  const trained = (training_seed: string | number) => ({
    name: 'tuned',
    training_seed,
    responses: responses(2, (n) => `I say ${n}, ${training_seed}.`),
  });
  const { baseline } = external(2);
  const twice = await call('POST', '/v1/evaluations', {
    json: { candidates: [trained(1), trained('1')], baseline, judge: { kind: 'external' } },
  });
  t.match(twice, { status: 422, body: { errors: [{ pointer: '/candidates/1/name' }] } }, 'one training');

  const made = await create({
    candidates: [trained(0), trained(1)],
    baseline,
    judge: { kind: 'external', per_item: 2 },
  });
  await slice(made);
  t.match(await judge(made.id, [{ item_id: 'item-0', outcome: 1 }]), {
    status: 422,
    body: { detail: /has "tuned", 0; "tuned", 1/ },
  });
  const orders = ['candidate_first', 'baseline_first'];
  const judgements = [0, 1].flatMap((n) =>
    ['0', '1'].flatMap((training_seed) =>
      orders.map((order, k) => ({ item_id: `item-${n}`, training_seed, order, outcome: k / (n + 1) })),
    ),
  );
  t.match(await judge(made.id, judgements), { status: 200 });
  await judge(made.id, [
    { item_id: 'item-0', training_seed: 0, outcome: 1, judge: { kind: 'person', name: 'ann' } },
  ]);
  t.match(await get(made), { state: 'succeeded' });
  const annotations = (await call('GET', `/v1/evaluations/${made.id}/export?format=alpaca_eval`)).body;
  t.match(
    annotations.map((one: { generator_2: string; preference: number }) => [one.generator_2, one.preference]),
    [
      ['tuned 0', 1.5],
      ['tuned 1', 1.5],
      ['tuned 0', 1.25],
      ['tuned 1', 1.25],
    ],
  );
  const imported = await call('POST', '/v1/evaluations/import', { json: { annotations } });
  t.equal(imported.status, 201, imported.text);
  const { win_rate } = (await resultOf(imported.body)).figures;
  t.equal(win_rate, (await resultOf(made)).figures.win_rate);
});

t.test('annotations of AlpacaEval, in and out', async (t) => {
  const { call, resultOf, judge } = await setUp(t);
  const annotations = Array.from({ length: 30 }, (_, n) => ({
    instruction: `Instruction ${n % 15}`,
    output_1: `baseline ${n % 15}`,
    generator_1: 'gpt4_turbo',
    output_2: `answer ${n}`,
    generator_2: n < 15 ? 'one' : 'two',
    annotator: 'weighted',
    preference: n === 3 ? null : n === 4 ? 0 : 1 + (n % 5) / 4,
    price_per_example: 0.01,
  }));
  const send = (json: object) => call('POST', '/v1/evaluations/import', { json });
  const made = await send({ name: 'imported', annotations });
  t.match(made, {
    status: 201,
    body: {
      state: 'succeeded',
      candidates: [{ name: 'one' }, { name: 'two' }],
      baseline: { name: 'gpt4_turbo' },
    },
  });
  t.match(made.body.progress, { items: 15, judged: 30, nulls: 1, total: 30 });
  const { figures } = await resultOf(made.body);
  t.match(figures, {
    n: 29,
    dropped: { null: 1 },
    candidates: [
      { candidate: 'one', n: 14 },
      { candidate: 'two', n: 15 },
    ],
  });
  const out = (await call('GET', `/v1/evaluations/${made.body.id}/export?format=alpaca_eval`)).body;
  t.equal(out.length, 30);
  const again = (await send({ annotations: out })).body;
  t.same((await resultOf(again)).figures, figures, 'out and in again: the same figures');
  const item = (await call('GET', `/v1/evaluations/${made.body.id}/items?limit=1`)).body.items[0].item_id;
  t.match(
    await judge(made.body.id, [
      { item_id: item, candidate: 'one', outcome: 1, judge: { kind: 'person', name: 'ann' } },
    ]),
    {
      status: 200,
    },
  );

  const [first] = annotations;
  for (const [bad, pointer] of [
    [[first, { ...first, generator_1: 'other' }], '/annotations'],
    [[first, first], '/annotations/1'],
    [[first, { ...first, annotator: 'other', output_1: 'another' }], '/annotations/1'],
    [[{ ...first, preference: 2.5 }], '/annotations/0/preference'],
    [Array.from({ length: 9 }, (_, n) => ({ ...first, generator_2: `model ${n}` })), '/annotations'],
  ] as const)
    t.match(await send({ annotations: bad }), { status: 422, body: { errors: [{ pointer }] } }, pointer);
});

t.test('what cannot be compared is told where it stands', async (t) => {
  const { server, call, create, slice, get, upload } = await setUp(t);
  await registerTinyModel(server, { role: 'policy', alias: 'policy' });
  const one = { responses: responses(1, () => 'x') };
  const judge = { kind: 'external' };
  const refused: [object, number, string][] = [
    [{ candidates: [{}], baseline: one, judge }, 422, '/candidates/0'],
    [
      { candidates: [{ ...one, artifact: `sha256:${'00'.repeat(32)}` }], baseline: one, judge },
      422,
      '/candidates/0',
    ],
    [{ candidates: [one, { ...one, name: 'candidate 1' }], baseline: one, judge }, 422, '/candidates/1/name'],
    [{ candidates: [{ ...one, name: 'baseline' }], baseline: one, judge }, 422, '/candidates/0/name'],
    [{ candidates: [{ ...one, seed: 1 }], baseline: one, judge }, 422, '/candidates/0/seed'],
    [
      { candidates: [{ artifact: `sha256:${'00'.repeat(32)}` }], baseline: one, judge },
      404,
      '/candidates/0/artifact',
    ],
    [
      { candidates: [one], baseline: { generate_run_id: `run_${'0'.repeat(32)}` }, judge },
      404,
      '/baseline/generate_run_id',
    ],
    [{ candidates: [{ model: { alias: 'policy' } }], baseline: one, judge }, 422, '/prompts'],
    [
      {
        candidates: [{ model: { alias: 'none' } }],
        baseline: one,
        judge,
        prompts: { items: [{ id: 'a', prompt: 'b' }] },
      },
      422,
      '/candidates/0/model/alias',
    ],
    [{ candidates: [one], baseline: one, judge, prompts: {} }, 422, '/prompts'],
    [
      { candidates: [one], baseline: one, judge, prompts: { snapshot_id: `snap_${'0'.repeat(32)}` } },
      404,
      '/prompts/snapshot_id',
    ],
    [{ candidates: [one], baseline: one, judge: { kind: 'reward', model: 'none' } }, 404, '/judge/model'],
    [{ candidates: [one], baseline: one, judge: { kind: 'reward', model: 'policy' } }, 422, '/judge/model'],
    [
      { candidates: [{ responses: [...one.responses, ...one.responses] }], baseline: one, judge },
      422,
      '/candidates/0/responses/1/id',
    ],
    [{ candidates: [], baseline: one, judge }, 400, '/candidates'],
    [{ candidates: [one], baseline: one, judge, further: 1 }, 400, '/further'],
  ];
  for (const [json, status, pointer] of refused)
    t.match(
      await call('POST', '/v1/evaluations', { json }),
      { status, body: { errors: [{ pointer }] } },
      `${status} ${pointer}`,
    );
  t.equal((await call('GET', '/v1/evaluations')).body.items.length, 0, 'nothing is left of them');
  t.equal((await call('GET', '/v1/runs')).body.items.length, 0, 'nor of their runs');

  const twice = await upload([...one.responses, ...one.responses]);
  const late: [object, RegExp][] = [
    [{ candidates: [{ artifact: twice }], baseline: one, judge }, /two responses to "item-0"/],
    [{ candidates: [{ responses: [{ id: 'a', response: 'b' }] }], baseline: one, judge }, /prompt of "a"/],
    [
      {
        candidates: [{ responses: [{ id: 'item-0', prompt: 'Say 1.', response: 'b' }] }],
        baseline: one,
        judge,
      },
      /Candidate 1 answers another prompt than others have under the id "item-0"/,
    ],
    [
      {
        candidates: [one],
        baseline: one,
        judge,
        prompts: {
          items: [
            { id: 'item-0', prompt: 'Say 0.' },
            { id: 'item-0', prompt: 'Say 1.' },
          ],
        },
      },
      /two prompts with the id "item-0"/,
    ],
    [
      {
        candidates: [one],
        baseline: { artifact: await upload([{ id: 'i'.repeat(501), response: 'b' }]) },
        judge,
      },
      /An id has 501 characters/,
    ],
  ];
  for (const [json, detail] of late) {
    const made = await create(json);
    await slice(made);
    t.match(await get(made), { state: 'failed', failure: { reason: 'bad_responses', detail } });
  }
});

t.test('more judgements than can be made at once are refused before any is made', async (t) => {
  const { create, slice, get, upload } = await setUp(t);
  const many = { artifact: await upload(responses(5000, () => 'x')) };
  const made = await create({
    candidates: Array.from({ length: 8 }, () => many),
    baseline: many,
    judge: { kind: 'external', per_item: 9 },
  });
  t.match(await slice(made), /given up: 8 candidates on 5000 items are 360000 judgements/);
  t.match(await get(made), {
    state: 'failed',
    failure: { reason: 'bad_responses' },
    progress: { items: null },
  });
});

t.test('a judge that trained the candidate is circular, and trained policies say so', async (t) => {
  const { server, call, create, sql, slice, resultOf, upload } = await setUp(t);
  const reward = await registerTinyModel(server, { alias: 'token-reward' });
  const policy = await registerTinyModel(server, {
    role: 'policy',
    alias: 'policy',
    changes: { 'config.json': (text) => `${text} ` },
  });
  const files: object[] = [];
  const digestOf = async (model: string) => (await call('GET', `/v1/models/${model}`)).body.digest;
  const rewardDigest = await digestOf(reward);
  await sql(
    `insert into finegrain.runs (project_id, id, kind, spec, inputs, hardware, max_attempts)
     values ($1, gen_random_uuid(), 'ppo', '{}', $2, 'cpu', 3)`,
    [
      project,
      JSON.stringify({
        model: { scratch: {} },
        // registered another time, under another id
        reward_model: { model_id: policy, digest: rewardDigest, files },
      }),
    ],
  );
  await sql(
    "update finegrain.models set run_id = (select id from finegrain.runs where kind = 'ppo') where id = $1",
    [parseId('model', policy)!],
  );
  const made = await create({
    candidates: [{ name: 'tuned', model: { model_id: policy } }],
    baseline: { responses: responses(1, () => 'x') },
    prompts: { items: [{ id: 'item-0', prompt: 'Say 0.' }] },
    judge: { kind: 'reward' },
  });
  t.same(made.judge.circular, ['tuned']);
  await slice(made);
  const { figures } = await resultOf(made);
  t.match(figures.notes.join(' '), /Circular: the judge is a reward model that tuned was trained by/);
  const before = await create({
    candidates: [{ responses: responses(1, () => 'x') }],
    baseline: { name: 'before', generate_run_id: made.runs[0].run_id },
    judge: { kind: 'reward' },
  });
  t.same(before.judge.circular, ['before'], 'a baseline that the judge trained has an advantage, too');

  const written = await upload([{ id: 'item-0', prompt: 'Say 0.', response: 'y' }]);
  await sql('update finegrain.runs set artifacts = $2 where id = $1', [
    parseId('run', made.runs[0].run_id),
    JSON.stringify([{ name: 'responses.ndjson', digest: written, bytes: 9, media_type: 'x' }]),
  ]);
  const file = await create({
    candidates: [{ name: 'file', artifact: written }],
    baseline: { responses: responses(1, () => 'x') },
    judge: { kind: 'reward' },
  });
  t.same(file.judge.circular, ['file'], 'as the file that a run wrote, too');
});

t.test('a person may have the name of the judge, and items without a response no judge at all', async (t) => {
  const { call, create, slice, judge, resultOf } = await setUp(t);
  const made = await create({
    candidates: [{ name: 'tuned', responses: responses(5, (n) => `I say ${n}.`) }],
    baseline: { responses: responses(5, (n) => `Well, ${n}.`).slice(1) },
    judge: { kind: 'external' },
    people: {},
  });
  await slice(made);
  const items = [1, 2, 3, 4].map((n) => ({ item_id: `item-${n}`, outcome: n % 2, judge: { name: 'ann' } }));
  t.match(await judge(made.id, items), { body: { created: 4 } });
  const claimed = (await call('POST', '/v1/judgement-tasks/claim', { json: { judge: 'ann', limit: 9 } }))
    .body;
  t.equal(claimed.items.length, 4);
  const { id, lease_token } = claimed.items[0];
  await call('POST', `/v1/judgement-tasks/${id}/submit`, { json: { lease_token, verdict: 'tie' } });
  await judge(made.id, [
    { item_id: 'item-1', outcome: 1, judge: { kind: 'person', name: 'bob' } },
    { item_id: 'item-2', outcome: 1, judge: { kind: 'person', name: 'bob' } },
  ]);
  const { figures } = await resultOf(made);
  t.match(figures, { n: 4, nulls: { by_reason: [{ reason: 'no_response', count: 1 }] } });
  t.match(figures.summary, /^"tuned" wins 50\.0 % of 4 judgements/);
  t.match(figures.agreement, { judge: 'ann' });
  t.same(figures.agreement.people.map(({ name }: { name: string }) => name).sort(), ['ann', 'bob']);
  t.match(figures.notes.join(' '), /right for whatever judge, if the items that people judged were drawn/);
  t.notMatch(figures.notes.join(' '), /counts the judgements of all judges alike/);

  const other = claimed.items[1];
  const { item_id } = (await call('GET', `/v1/evaluations/${made.id}/judgements?limit=200`)).body.items.find(
    (one: { id: string }) => one.id === other.id,
  );
  const order = other.responses.first.startsWith('I') ? 'candidate_first' : 'baseline_first';
  t.match(
    await judge(made.id, [{ item_id, outcome: 1, order, judge: { kind: 'person', name: 'ann' } }]),
    { status: 409, body: { detail: /has claimed this item/ } },
    'not without the lease',
  );
});

t.test('who claims a pair and posts a judgement of it at once is told, once', async (t) => {
  const { server, create, slice, judge } = await setUp(t);
  const made = await create({ ...external(1), judge: { kind: 'person', per_item: 2 } });
  await slice(made);
  const system = server.database.open('finegrain_api');
  let posted: ReturnType<typeof judge> | undefined;
  await system.transaction(project, async (tx) => {
    await lockJudge(tx, project, 'ann');
    const filter = { judgeName: 'ann', evaluationId: null };
    const claimed = await claimJudgement(tx, filter, { leaseSeconds: 60, leaseHash: Buffer.alloc(32) });
    const order = claimed!.candidate_first ? 'candidate_first' : 'baseline_first';
    posted = judge(made.id, [
      { item_id: 'item-0', outcome: 1, order, judge: { kind: 'person', name: 'ann' } },
    ]);
    for (let waits = 0; waits === 0; )
      waits = (await tx.query('select from pg_locks where not granted')).length;
  });
  t.match(await posted, { status: 409, body: { detail: /has claimed this item/ } });
});

t.test('people judge drawn items in an order that is drawn, too', async (t) => {
  const { call, create, slice } = await setUp(t);
  const made = await create({ ...external(40), people: { items: 20 } });
  await slice(made);
  const { items } = (await call('POST', '/v1/judgement-tasks/claim', { json: { judge: 'ann', limit: 50 } }))
    .body;
  const numbers = items.map(({ prompt }: { prompt: string }) => Number(prompt.match(/\d+/)![0]));
  t.equal(numbers.length, 20);
  const ascents = numbers.slice(1).filter((number: number, k: number) => number > numbers[k]).length;
  t.ok(ascents > 3 && ascents < 16, `who stops early has judged no first part of a file: ${numbers}`);
});

t.test('a run that ends while the evaluation looks at it wakes it all the same', async (t) => {
  const { server, create, sql, uuidOf } = await setUp(t);
  await registerTinyModel(server, { role: 'policy', alias: 'policy' });
  const made = await create({
    candidates: [{ model: { alias: 'policy' } }],
    baseline: { responses: responses(1, () => 'x') },
    prompts: { items: [{ id: 'item-0', prompt: 'Say 0.' }] },
    judge: { kind: 'external' },
  });
  const { database, services } = server;
  const system = database.open('finegrain_system');
  await sql('update finegrain.evaluations set due_at = now()');
  const moves = (states: string[]) =>
    states.map((state) =>
      sql(
        `update finegrain.runs set state = $2, finished_at = case when $2 = 'failed' then now() end,
           failure = case when $2 = 'failed' then '{"reason": "x"}'::jsonb end where id = $1`,
        [parseId('run', made.runs[0].run_id)!, state],
      ),
    );
  let transactions = 0;
  const db: typeof system = {
    ...system,
    async transaction(projectId, work) {
      const done = await system.transaction(projectId, work);
      if (++transactions === 2) for (const state of ['starting', 'failed']) await moves([state])[0];
      return done;
    },
  };
  const key = { projectId: project, evaluationId: uuidOf(made.id) };
  const { artifacts, scoring } = services;
  await evaluationSlice({ db, artifacts, scoring }, key, new AbortController().signal, times);
  const [{ due_at }] = (await sql<{ due_at: Date | null }>('select due_at from finegrain.evaluations')) as [
    { due_at: Date | null },
  ];
  t.ok(due_at, 'it does not rest for ever');
});

t.test('cancelling and the end of a run do not wait for each other', async (t) => {
  const { server, call, create } = await setUp(t);
  await registerTinyModel(server, { role: 'policy', alias: 'policy' });
  const made = await create({
    candidates: [{ model: { alias: 'policy' } }],
    baseline: { responses: responses(1, () => 'x') },
    prompts: { items: [{ id: 'item-0', prompt: 'Say 0.' }] },
    judge: { kind: 'external' },
  });
  const run = parseId('run', made.runs[0].run_id)!;
  const system = server.database.open('finegrain_system');
  let cancelled: ReturnType<typeof call> | undefined;
  await system.transaction(null, async (tx) => {
    await tx.query('select from finegrain.runs where id = $1 for no key update', [run]);
    cancelled = call('POST', `/v1/evaluations/${made.id}/cancel`);
    for (let waits = 0; waits === 0; )
      waits = (await tx.query('select from pg_locks where not granted')).length;
    await tx.query(
      "update finegrain.runs set state = 'cancelled', desired_state = 'cancelled', finished_at = now() where id = $1",
      [run],
    );
  });
  t.match(await cancelled, { status: 200, body: { state: 'cancelled' } });
});

t.test('of another project nothing is seen', async (t) => {
  const { server, create, call } = await setUp(t);
  const made = await create(external(1));
  const key = await server.otherProjectKey();
  for (const path of ['', '/items', '/judgements', '/result', '/export'])
    t.equal((await call('GET', `/v1/evaluations/${made.id}${path}`, { key })).status, 404, path);
  t.same((await call('GET', '/v1/evaluations', { key })).body.items, []);
});
