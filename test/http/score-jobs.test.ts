// Score jobs: what is asked for, what comes out line by line, and what becomes of a job whose worker or scorer fails.
// Slices are worked on here, one by one; test/jobs/score-jobs.test.ts has the worker itself.
import { createHash } from 'node:crypto';
import { gunzipSync } from 'node:zlib';
import t, { type Test } from 'tap';
import { parseId } from '../../src/domain/ids.ts';
import { Problem } from '../../src/errors.ts';
import type { ScoringEngine } from '../../src/scoring/engine.ts';
import { collectArtifacts } from '../../src/services/artifact-collection.ts';
import { defaultProjectId as project } from '../../src/services/keys.ts';
import { scoreSlice } from '../../src/services/score-job-work.ts';
import type { SliceTimes } from '../../src/services/work-slice.ts';
import { registerTinyModel } from '../support/models.ts';
import { startReceiver } from '../support/receiver.ts';
import { type RequestOptions, startTestServer } from '../support/server.ts';

t.setTimeout(180_000);

const times: SliceTimes = { sliceMs: 60_000, heartbeatMs: 200, leaseSeconds: 30, troubleSeconds: 15 };

async function setUp(t: Test) {
  const server = await startTestServer(t);
  const { call, database, services } = server;
  const model = await registerTinyModel(server, { alias: 'token-reward' });
  const system = database.open('finegrain_system');
  const sql = <Row extends object>(text: string, values: unknown[] = []) =>
    system.transaction(null, (tx) => tx.query<Row & Record<string, unknown>>(text, values));
  const upload = async (rows: unknown[] | string, options: RequestOptions = {}): Promise<string> => {
    const body = typeof rows === 'string' ? rows : rows.map((row) => `${JSON.stringify(row)}\n`).join('');
    const headers = { 'content-type': 'application/x-ndjson' };
    return (await call('POST', '/v1/artifacts', { body, headers, ...options })).body.digest;
  };
  const create = async (json: object) => {
    const answer = await call('POST', '/v1/score-jobs', { json });
    if (answer.status !== 202) throw new Error(answer.text);
    return answer.body;
  };
  const get = async ({ id }: { id: string }) => (await call('GET', `/v1/score-jobs/${id}`)).body;
  const uuidOf = ({ id }: { id: string }) => parseId('scoreJob', id)!;
  /** One slice, as if the time until it had passed. */
  const slice = async (
    job: { id: string },
    changed: Partial<SliceTimes> = {},
    scoring: ScoringEngine = services.scoring,
    signal = new AbortController().signal,
  ) => {
    await sql(
      'update finegrain.score_jobs set due_at = clock_timestamp() where id = $1 and due_at is not null',
      [uuidOf(job)],
    );
    const key = { projectId: project, jobId: uuidOf(job) };
    return scoreSlice({ db: system, artifacts: services.artifacts, scoring }, key, signal, {
      ...times,
      ...changed,
    });
  };
  const download = async (digest: string): Promise<Buffer> => {
    const response = await fetch(`${server.url}/v1/artifacts/${digest}`, {
      headers: { authorization: `Bearer ${server.bootstrapKey}` },
    });
    const content = Buffer.from(await response.arrayBuffer());
    t.equal(`sha256:${createHash('sha256').update(content).digest('hex')}`, digest);
    return content;
  };
  // biome-ignore lint/suspicious/noExplicitAny: tests read what the document promises
  const linesOf = async (job: any): Promise<any[]> => {
    const content = await download(job.result.digest);
    return gunzipSync(content)
      .toString()
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line));
  };
  return {
    server,
    call,
    sql,
    services,
    system,
    model,
    upload,
    create,
    get,
    slice,
    download,
    linesOf,
    uuidOf,
  };
}

const rows = (count: number) =>
  Array.from({ length: count }, (_, n) => ({
    id: `row-${n}`,
    prompt: `Say ${n % 7}.`,
    response: `Hello ${n} there.`,
  }));

t.test('score jobs', async (t) => {
  const {
    server,
    call,
    sql,
    services,
    system,
    model,
    upload,
    create,
    get,
    slice,
    download,
    linesOf,
    uuidOf,
  } = await setUp(t);

  t.test('a file: the columns of /v1/score, a line for each row, errors in their place', async (t) => {
    const conversation = [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Hi' },
    ];
    const text = [
      JSON.stringify({ id: 'one', prompt: 'Say hello.', response: 'Hello there.' }),
      '',
      JSON.stringify({ id: 7, prompt: conversation, response: 'Hi 🙂!', mine: 'kept nowhere' }),
      '   ',
      '{"prompt": "broken',
      JSON.stringify({ id: 'no response', prompt: 'Say hello.' }),
      JSON.stringify({ prompt: 'Say hello.', response: 'long '.repeat(500) }),
      '[1]',
      JSON.stringify({ id: 'nul', prompt: 'a\0b', response: '' }),
      JSON.stringify({ prompt: 'Say hello.', response: '' }),
    ].join('\r\n');
    const artifact = await upload(text);
    const job = await create({ input: { artifact }, unit: 'byte', include_eos: true });
    t.match(job, {
      id: /^sjob_/,
      state: 'queued',
      model: { id: model, alias: 'token-reward', shared: false },
      input: { artifact },
      unit: 'byte',
      truncate: false,
      include_eos: true,
      progress: { done: 0, failed: 0, total: null, tokens: 0, fraction: 0 },
      result: null,
      failure: null,
      started_at: null,
      finished_at: null,
    });
    t.equal(await slice(job), null);
    const done = await get(job);
    t.match(done, {
      state: 'succeeded',
      progress: { done: 8, failed: 5, total: 8, fraction: 1 },
      result: { media_type: 'application/gzip' },
      finished_at: String,
    });
    const lines = await linesOf(done);
    t.match(lines, [
      { line: 1, id: 'one', status: 'ok' },
      { line: 3, id: 7, status: 'ok' },
      { line: 5, id: null, status: 'error', code: 'malformed_json', detail: /not valid JSON/ },
      {
        line: 6,
        id: 'no response',
        status: 'error',
        code: 'invalid_row',
        pointer: '/response',
        detail: 'is missing',
      },
      { line: 7, id: null, status: 'error', code: 'too_long' },
      { line: 8, id: null, status: 'error', code: 'invalid_row', detail: 'is not a JSON object' },
      { line: 9, id: null, status: 'error', code: 'ill_formed_text', pointer: '/prompt' },
      { line: 10, id: null, status: 'ok', tokens: [''] },
    ]);
    const json = {
      items: [
        { prompt: 'Say hello.', response: 'Hello there.' },
        { prompt: conversation, response: 'Hi 🙂!' },
      ],
      unit: 'byte',
      include_eos: true,
    };
    const { results } = (await call('POST', '/v1/score', { json })).body;
    for (const [index, result] of results.entries()) {
      const { line: _, id: __, ...columns } = lines[index];
      t.same(columns, result, 'equal to the answer of /v1/score, to the last bit');
    }
    const tokens = lines
      .filter(({ status }) => status === 'ok')
      .reduce((sum, line) => sum + line.prompt_token_count + line.token_ids.length, 0);
    t.equal(done.progress.tokens, tokens);
    const head = await call('GET', `/v1/artifacts/${done.result.digest}`);
    t.equal(head.headers.get('content-type'), 'application/gzip');
    t.equal(head.headers.get('content-length'), String(done.result.bytes));
    t.equal(await slice(job), null, 'a slice of a job that has ended does nothing');
  });

  t.test('a snapshot: responses, edits, or all', async (t) => {
    const dataset = (await call('POST', '/v1/datasets', { json: { name: 'scored' } })).body.id;
    const pairs = [1, 2].map((n) => ({
      external_id: `${n}`,
      prompt: `Say ${n}.`,
      response_a: `Hello ${n}.`,
      response_b: `Damn ${n}.`,
      preference: 'a',
    }));
    const { items } = (await call('POST', `/v1/datasets/${dataset}/pairs`, { json: { pairs } })).body;
    const edits = [
      { pair_id: items[0].id, edited_response: 'Dear 1.', editor: { kind: 'person', name: 'x' } },
    ];
    await call('POST', '/v1/edits', { json: { edits } });
    const split = { train: 1, validation: 0, test: 0, seed: 0 };
    const snapshot = (await call('POST', '/v1/snapshots', { json: { dataset_ids: [dataset], split } })).body;
    const exported = (await call('GET', `/v1/snapshots/${snapshot.id}/export`)).text.trim().split('\n');
    const [first, second] = exported.map((line) => JSON.parse(line));
    const both = ({ key }: { key: string }) => [`${key}/a`, `${key}/b`];
    const editsOf = ({ key, edits }: { key: string; edits: [] }) => edits.map((_, n) => `${key}/edits/${n}`);
    const expected = {
      responses: [...both(first), ...both(second)],
      edits: [...editsOf(first), ...editsOf(second)],
      all: [...both(first), ...editsOf(first), ...both(second), ...editsOf(second)],
    };
    for (const [what, ids] of Object.entries(expected)) {
      const job = await create({ input: { snapshot_id: snapshot.id, what } });
      t.match(job, { input: { snapshot_id: snapshot.id, what }, progress: { total: ids.length } });
      await slice(job);
      const lines = await linesOf(await get(job));
      t.same(
        lines.map(({ line, id, status }) => [line, id, status]),
        ids.map((id, index) => [index + 1, id, 'ok']),
        what,
      );
    }
    t.match(await create({ input: { snapshot_id: snapshot.id } }), { input: { what: 'responses' } });
  });

  t.test(
    'cut into slices anywhere, a job ends with the same bytes, and its parts are for the collector',
    async (t) => {
      const artifact = await upload(rows(1000));
      const undisturbed = await create({ input: { artifact } });
      await slice(undisturbed);
      const whole = await get(undisturbed);
      t.match(whole.progress, { done: 1000, failed: 0, total: 1000 });

      const cut = await create({ input: { artifact } });
      const seen: number[] = [];
      const parts = new Set<string>();
      for (let slices = 0; (await get(cut)).state !== 'succeeded'; slices++) {
        await slice(cut, { sliceMs: 0 });
        const { progress, state } = await get(cut);
        seen.push(progress.done);
        const named = await sql<{ digest: string }>(
          'select digest from finegrain.score_job_parts where score_job_id = $1',
          [uuidOf(cut)],
        );
        if (state === 'running') t.equal(named.length, slices + 1);
        for (const { digest } of named) parts.add(digest);
        await collectArtifacts(
          { db: system, artifacts: services.artifacts },
          { graceSeconds: 0, spared: new Set() },
        );
      }
      t.same(seen, [256, 512, 768, 1000, 1000], 'a batch a slice, then the result');
      t.same((await get(cut)).result, whole.result);
      t.same(await sql('select from finegrain.score_job_parts'), [], 'no part is named any more');
      t.equal(parts.size, 4);
      for (const part of parts) t.notOk(await services.artifacts.has(part), 'and the collector has had it');
      t.equal((await linesOf(await get(cut))).length, 1000, 'the result stays');
    },
  );

  t.test('nothing to score is a result without lines', async (t) => {
    for (const text of [' \n\n', '\n', '\n'.repeat(9 * 1024 ** 2)]) {
      const job = await create({ input: { artifact: await upload(text) } });
      await slice(job);
      const done = await get(job);
      t.match(done, { state: 'succeeded', progress: { done: 0, total: 0 } });
      t.equal(gunzipSync(await download(done.result.digest)).length, 0);
    }
  });

  t.test('the model is the one of the moment when the job was made', async (t) => {
    const other = await registerTinyModel(server, { changes: { 'config.json': (text) => `${text} ` } });
    const job = await create({ model: 'token-reward', input: { artifact: await upload(rows(1)) } });
    await call('PUT', '/v1/aliases/token-reward', { json: { model_id: other } });
    await slice(job);
    t.match(await get(job), { state: 'succeeded', model: { id: model, alias: 'token-reward' } });
    const doomed = await create({ model, input: { artifact: await upload(rows(2)) } });
    t.match(await call('DELETE', `/v1/models/${model}`), { status: 204 });
    await slice(doomed);
    t.match(
      await get(doomed),
      { state: 'succeeded', model: { id: model, alias: null } },
      'even when it is deleted',
    );
  });

  t.test('cancelled: at once, also while a slice is at work, and for good', async (t) => {
    const artifact = await upload(rows(3000));
    const job = await create({ input: { artifact } });
    const working = slice(job, { heartbeatMs: 20 });
    while ((await get(job)).progress.done === 0);
    const { headers } = await call('GET', `/v1/score-jobs/${job.id}`);
    t.match(await call('POST', `/v1/score-jobs/${job.id}/cancel`, { headers: { 'if-match': '"another"' } }), {
      status: 412,
    });
    t.match(await call('POST', `/v1/score-jobs/${job.id}/cancel`), {
      status: 200,
      body: { state: 'cancelled', result: null, finished_at: String },
    });
    t.equal(await working, null);
    const ended = await call('GET', `/v1/score-jobs/${job.id}`);
    t.ok(ended.body.progress.done < 3000);
    t.not(ended.headers.get('etag'), headers.get('etag'));
    const etag = ended.headers.get('etag')!;
    t.equal(
      (await call('GET', `/v1/score-jobs/${job.id}`, { headers: { 'if-none-match': etag } })).status,
      304,
    );
    t.same(
      (await call('POST', `/v1/score-jobs/${job.id}/cancel`)).body,
      ended.body,
      'again, it changes nothing',
    );
    t.same(await sql('select from finegrain.score_job_parts'), []);
    t.same(await sql('select from graphile_worker.jobs where key = $1', [`score-jobs/${uuidOf(job)}`]), []);
    t.equal(await slice(job), null);
    const done = await create({ input: { artifact: await upload(rows(1)) } });
    await slice(done);
    t.match((await call('POST', `/v1/score-jobs/${done.id}/cancel`)).body, { state: 'succeeded' });
  });

  t.test('a slice that was overtaken changes nothing', async (t) => {
    const job = await create({ input: { artifact: await upload(rows(600)) } });
    const late: ScoringEngine = {
      ...services.scoring,
      async score(...given) {
        const scores = await services.scoring.score(...given);
        if (!overtaken) {
          overtaken = true;
          t.equal(await slice(job), null, 'the other one does all of it');
        }
        return scores;
      },
    };
    let overtaken = false;
    t.equal(await slice(job, {}, late), null);
    t.match(await get(job), { state: 'succeeded', progress: { done: 600 } });
    t.equal((await linesOf(await get(job))).length, 600);
  });

  t.test('an item that ends its scorer costs its own line', async (t) => {
    const deadly = 'Hello 17 there.';
    const job = await create({ input: { artifact: await upload(rows(40)) } });
    const tokenizer = await services.scoring.tokenizer((await modelRow())!);
    const { tokenIds } = await tokenizer.encodeResponse(deadly);
    const dying: ScoringEngine = {
      ...services.scoring,
      async score(model, sequences, signal) {
        if (sequences.some(({ responseIds }) => Array.from(responseIds).join() === tokenIds.join()))
          throw new Problem(
            'unavailable',
            'The process that scores with this model ended unexpectedly, twice.',
          );
        return services.scoring.score(model, sequences, signal);
      },
    };
    t.equal(await slice(job, {}, dying), null);
    const done = await get(job);
    t.match(done, { state: 'succeeded', progress: { done: 40, failed: 1 } });
    t.match((await linesOf(done))[17], { line: 18, id: 'row-17', status: 'error', code: 'model_failed' });
  });

  async function modelRow() {
    const [row] = await sql<{ digest: string; files: [] }>(
      'select digest, files from finegrain.models order by id desc limit 1',
    );
    return row;
  }

  t.test('trouble rests longer and longer, is given up after eight slices in vain, and told', async (t) => {
    const receiver = await startReceiver(t);
    const json = { url: receiver.url('/jobs'), events: ['score_job.failed', 'score_job.succeeded'] };
    const hook = (await call('POST', '/v1/webhooks', { json })).body;
    const artifact = await upload(rows(5));
    const job = await create({ input: { artifact } });
    const away = async () => {
      throw new Problem('unavailable', 'Nothing works today.');
    };
    const broken: ScoringEngine = { ...services.scoring, score: away, warm: away };
    const rests: number[] = [];
    for (let n = 0; n < 8; n++) {
      t.match(await slice(job, {}, broken), /rests for \d+ s: .*Nothing works today/s);
      const [row] = await sql<{ rest: number }>(
        'select round(extract(epoch from due_at - clock_timestamp()))::int as rest from finegrain.score_jobs where id = $1',
        [uuidOf(job)],
      );
      rests.push(row!.rest);
    }
    t.same(rests, [15, 30, 60, 120, 240, 480, 900, 900]);
    t.match(await get(job), { state: 'running' });
    t.match(await slice(job), /given up/);
    t.match(await get(job), { state: 'failed', failure: { reason: 'no_progress' }, result: null });

    const good = await create({ input: { artifact } });
    t.match(await slice(good, {}, broken), /rests/);
    t.equal(await slice(good), null);
    t.match(await get(good), { state: 'succeeded' });
    const { items } = (await call('GET', `/v1/webhooks/${hook.id}/deliveries`)).body;
    t.match(
      items.map(({ type, data }: { type: string; data: object }) => ({ type, data })),
      [
        { type: 'score_job.succeeded', data: { score_job_id: good.id, state: 'succeeded' } },
        { type: 'score_job.failed', data: { score_job_id: job.id, state: 'failed' } },
      ],
    );
  });

  t.test('a model that cannot be served fails the job with the reason', async (t) => {
    const refused = await registerTinyModel(server, { changes: { 'golden.json': null } });
    const job = await create({ model: refused, input: { artifact: await upload(rows(3)) } });
    t.match(await slice(job), /given up: The model cannot be served: golden\.json is missing/);
    t.match(await get(job), {
      state: 'failed',
      failure: { reason: 'model_refused', detail: /golden\.json is missing/ },
      progress: { done: 0, total: 3 },
    });
  });

  t.test('a worker that is told to stop leaves the job as it was', async (t) => {
    const job = await create({ input: { artifact: await upload(rows(300)) } });
    const stopping = new AbortController();
    const slow: ScoringEngine = {
      ...services.scoring,
      score: (model, sequences, signal) => {
        stopping.abort(new Error('SIGTERM'));
        return services.scoring.score(model, sequences, signal);
      },
    };
    t.equal(await slice(job, {}, slow, stopping.signal), null);
    t.match(await get(job), { state: 'running', progress: { done: 0 } });
    const [row] = await sql(
      'select troubles, due_at <= clock_timestamp() as due from finegrain.score_jobs where id = $1',
      [uuidOf(job)],
    );
    t.same(row, { troubles: 0, due: true });
    await slice(job);
    t.match(await get(job), { state: 'succeeded' });
  });

  t.test('lists, by state', async (t) => {
    const all = (await call('GET', '/v1/score-jobs?limit=500')).body.items;
    t.same(
      all,
      [...all].sort((a: { id: string }, b: { id: string }) => (a.id < b.id ? -1 : 1)),
    );
    const failed = (await call('GET', '/v1/score-jobs?state=failed')).body.items;
    t.equal(failed.length, 2);
    const page = (await call('GET', '/v1/score-jobs?limit=2')).body;
    t.same(
      (await call('GET', `/v1/score-jobs?limit=2&cursor=${page.next_cursor}`)).body.items,
      all.slice(2, 4),
    );
  });

  t.test('errors', async (t) => {
    const artifact = await upload(rows(1));
    const none = `sha256:${'0'.repeat(64)}`;
    const policy = await registerTinyModel(server, { role: 'policy' });
    const send = (json: object) => call('POST', '/v1/score-jobs', { json });
    t.match(await send({ input: {} }), { status: 422, body: { errors: [{ pointer: '/input' }] } });
    t.match(await send({ input: { artifact, snapshot_id: 'snap_1' } }), { status: 422 });
    t.match(await send({ input: { artifact, what: 'all' } }), {
      status: 422,
      body: { errors: [{ pointer: '/input/what' }] },
    });
    t.match(await send({ input: { artifact: none } }), {
      status: 404,
      body: { errors: [{ pointer: '/input/artifact' }] },
    });
    t.match(await send({ input: { snapshot_id: 'snap_1' } }), {
      status: 404,
      body: { errors: [{ pointer: '/input/snapshot_id' }] },
    });
    t.match(await send({ input: { artifact }, model: 'nothing' }), {
      status: 404,
      body: { errors: [{ pointer: '/model' }] },
    });
    t.match(await send({ input: { artifact }, model: policy }), {
      status: 422,
      body: { errors: [{ pointer: '/model' }] },
    });
    for (const wrong of [
      {},
      { input: artifact },
      { input: { artifact, more: 1 } },
      { input: { artifact }, unit: 'line' },
      { input: { artifact }, webhook: 'x' },
    ])
      t.match(await send(wrong), { status: 400 }, JSON.stringify(wrong));
    t.match(await call('GET', '/v1/score-jobs/sjob_1'), { status: 404 });
    t.match(await call('POST', '/v1/score-jobs/sjob_1/cancel'), { status: 404 });
    t.match(await call('GET', '/v1/score-jobs?state=lost'), { status: 400 });
  });

  t.test('a project has a thousand jobs at a time, whatever others have', async (t) => {
    const artifact = await upload(rows(1));
    const { id } = await create({ input: { artifact } });
    const copies = `insert into finegrain.score_jobs (project_id, id, request, inputs, source_bytes)
      select project_id, gen_random_uuid(), request, inputs, source_bytes
      from finegrain.score_jobs, generate_series(1, 999) where id = $1`;
    await sql(copies, [uuidOf({ id })]);
    const answer = await call('POST', '/v1/score-jobs', { json: { input: { artifact } } });
    t.match(answer, { status: 429, body: { code: 'overloaded', detail: /1000 score jobs/ } });
    t.equal(answer.headers.get('retry-after'), '60');
    await sql('delete from finegrain.score_jobs where due_at is not null');
    t.match(await create({ input: { artifact } }), { state: 'queued' });
  });

  t.test('an Idempotency-Key makes one job', async (t) => {
    const json = { input: { artifact: await upload(rows(1)) } };
    const headers = { 'idempotency-key': 'job' };
    const answers = await Promise.all([1, 2].map(() => call('POST', '/v1/score-jobs', { json, headers })));
    t.same(
      answers.map(({ status }) => status),
      [202, 202],
    );
    t.equal(answers[0]!.body.id, answers[1]!.body.id);
  });

  t.test('security', async (t) => {
    const artifact = await upload(rows(1));
    const job = await create({ input: { artifact } });
    const key = await server.otherProjectKey();
    t.same((await call('GET', '/v1/score-jobs', { key })).body.items, []);
    t.match(await call('GET', `/v1/score-jobs/${job.id}`, { key }), { status: 404 });
    t.match(await call('POST', `/v1/score-jobs/${job.id}/cancel`, { key }), { status: 404 });
    await slice(job);
    const { digest } = (await get(job)).result;
    t.match(
      await call('GET', `/v1/artifacts/${digest}`, { key }),
      { status: 404 },
      'the result is of this project',
    );
    await upload(rows(2), { key });
    t.match(await call('POST', '/v1/score-jobs', { json: { input: { artifact } }, key }), { status: 404 });
    t.match(
      await call('POST', '/v1/score-jobs', {
        json: { input: { artifact } },
        key: await server.keyWith('read'),
      }),
      {
        status: 403,
      },
    );
  });
});
