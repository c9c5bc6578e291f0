// POST /v1/score as a stream, and the deadline of both forms. A scorer that waits until it is told shows what has left
// while the rest is still to be scored.
import t from 'tap';
import { Value } from 'typebox/value';
import { ScoreEvent } from '../../src/http/routes/score.ts';
import { Problem as ProblemSchema } from '../../src/http/schemas.ts';
import type { ScoringEngine, SequenceScore } from '../../src/scoring/engine.ts';
import { registerTinyModel } from '../support/models.ts';
import { eventually } from '../support/scorer-processes.ts';
import { startTestServer } from '../support/server.ts';

const ndjson = { accept: 'application/x-ndjson' };
const long = 'Hello there, how are you today? '.repeat(5);

/** An engine of which a test says when a sequence is scored, and with what. */
function heldEngine(engine: ScoringEngine) {
  let give: (index: number, score?: SequenceScore) => void = () => {};
  let asked = (): void => {};
  const held = {
    engine: {
      ...engine,
      score(_model, sequences, signal, { onScore } = {}) {
        return new Promise((resolve, reject) => {
          const scores: SequenceScore[] = [];
          signal.addEventListener('abort', () => {
            held.aborted = signal.reason.code;
            reject(signal.reason);
          });
          give = (index, score) => {
            scores[index] = score ?? {
              rewards: new Float32Array(sequences[index]!.responseIds.length).fill(-1),
            };
            onScore?.(index, scores[index]!);
            if (Object.keys(scores).length === sequences.length) resolve(scores);
          };
          asked();
        });
      },
    } as ScoringEngine,
    asked: new Promise<void>((resolve) => {
      asked = resolve;
    }),
    give: (index: number, score?: SequenceScore) => give(index, score),
    aborted: null as string | null,
  };
  return held;
}

t.test('POST /v1/score as a stream', async (t) => {
  const server = await startTestServer(t);
  const { call, url, bootstrapKey } = server;
  const id = await registerTinyModel(server, { alias: 'token-reward' });
  const { scoring } = server.services;
  t.afterEach(() => {
    server.services.scoring = scoring;
  });
  const score = (json: unknown, headers: Record<string, string> = ndjson) =>
    call('POST', '/v1/score', { json, headers });
  const lines = (text: string) => {
    t.ok(text.endsWith('\n'), 'every line is whole');
    const events = text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    for (const event of events)
      t.ok(Value.Check({ Problem: ProblemSchema }, ScoreEvent, event), `${event.event} as the document says`);
    return events;
  };
  /** Sends a request and reads its answer line by line. */
  const open = async (json: unknown, signal: AbortSignal | null = null) => {
    const response = await fetch(`${url}/v1/score`, {
      method: 'POST',
      headers: { authorization: `Bearer ${bootstrapKey}`, 'content-type': 'application/json', ...ndjson },
      body: JSON.stringify(json),
      signal,
    });
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    return {
      response,
      async line() {
        for (;;) {
          const end = text.indexOf('\n');
          if (end !== -1) {
            const line = JSON.parse(text.slice(0, end));
            text = text.slice(end + 1);
            return line;
          }
          const { value, done } = await reader.read();
          if (done) return null;
          text += value;
        }
      },
    };
  };

  await t.test('says what the JSON says, item by item', async (t) => {
    const request = {
      prompt: 'Say hello.',
      responses: ['Hello there', long, '', 'I am fine.'],
      unit: 'byte',
    };
    const whole = (await score(request, {})).body;
    const answer = await score(request);
    t.equal(answer.headers.get('content-type'), 'application/x-ndjson');
    t.match(answer.headers.get('vary'), /Accept/);
    const [begin, ...rest] = lines(answer.text);
    t.same(begin, { event: 'begin', model: whole.model, unit: 'byte', count: 4 });
    t.same(rest.pop(), { event: 'end', ok: 3, failed: 1 });
    rest.sort((a, b) => a.index - b.index);
    t.same(
      rest,
      whole.results.map((result: object, index: number) => ({ event: 'result', index, ...result })),
    );
    t.equal(begin.model.id, id);

    const events = (await score(request, { accept: 'text/event-stream' })).text.split('\n\n');
    t.equal(events.pop(), '');
    t.match(events[0], /^event: begin\ndata: \{"event":"begin"/);
    t.match(events.at(-1), 'event: end\ndata: {"event":"end","ok":3,"failed":1}');
    t.equal(events.length, 6);
  });

  await t.test('JSON is the default; the best of what is accepted is sent', async (t) => {
    const type = async (accept: string) =>
      (await score({ prompt: 'Hi', responses: ['Hello'] }, { accept })).headers
        .get('content-type')
        ?.split(';')[0];
    t.equal(await type('*/*'), 'application/json');
    t.equal(await type('application/json, application/x-ndjson'), 'application/json');
    t.equal(await type('application/json;q=0.5, text/event-stream'), 'text/event-stream');
    t.equal(await type('text/event-stream;q=0.5, application/x-ndjson;q=0.9'), 'application/x-ndjson');
    t.match(await score({}, { accept: 'text/html' }), { status: 406 });
  });

  await t.test('a result leaves while others are still to be scored, in any order', async (t) => {
    const held = heldEngine(scoring);
    server.services.scoring = held.engine;
    const answering = open({ prompt: 'Say hello.', responses: ['Hello', long, 'I am fine.'] });
    await held.asked;
    held.give(1); // the second of the two that can be scored
    const { response, line } = await answering;
    t.equal(response.status, 200);
    t.match(await line(), { event: 'begin', count: 3 });
    t.match(
      [await line(), await line()].sort((a, b) => a.index - b.index),
      [
        { index: 1, status: 'error', code: 'too_long' },
        { index: 2, status: 'ok', reward: Number },
      ],
    );
    held.give(0, { error: { code: 'not_finite', detail: 'NaN' } });
    t.match(await line(), { event: 'result', index: 0, status: 'error', code: 'not_finite' });
    t.same(await line(), { event: 'end', ok: 1, failed: 2 });
    t.equal(await line(), null);
  });

  await t.test('what goes wrong before the first result is a problem with its status', async (t) => {
    t.match(await score({ prompt: 'Hi', responses: ['a'], model: 'nothing' }), { status: 404 });
    const broken = await registerTinyModel(server, { changes: { 'golden.json': null } });
    const answer = await score({ prompt: 'Hi', responses: [long, 'a'], model: broken });
    t.match(answer, { status: 422, body: { code: 'unprocessable', detail: /golden\.json is missing/ } });
    t.match(answer.headers.get('content-type'), /problem\+json/);
  });

  await t.test('what goes wrong later is the last line, and the results before it stand', async (t) => {
    const held = heldEngine(scoring);
    server.services.scoring = {
      ...held.engine,
      async score(model, sequences, signal, { onScore } = {}) {
        const first = new Promise<void>((resolve) => {
          void held.engine.score(model, sequences, signal, {
            onScore(index, score) {
              onScore?.(index, score);
              resolve();
            },
          });
        });
        await first;
        throw new Error('a secret of the service');
      },
    };
    const answering = open({ prompt: 'Say hello.', responses: ['Hello', 'there', 'friend'] });
    await held.asked;
    held.give(1);
    const { line } = await answering;
    t.match([await line(), await line()], [{ event: 'begin' }, { index: 1, status: 'ok' }]);
    const last = await line();
    t.match(last, {
      event: 'problem',
      ok: 1,
      failed: 0,
      unscored: [0, 2],
      problem: { code: 'internal_error', status: 500, request_id: String },
    });
    t.notMatch(JSON.stringify(last), /secret/);
    t.ok(Value.Check({ Problem: ProblemSchema }, ScoreEvent, last), 'as the document says');
    t.equal(await line(), null);
  });

  await t.test('a client that goes away takes its work back', async (t) => {
    const held = heldEngine(scoring);
    server.services.scoring = held.engine;
    const client = new AbortController();
    const answering = open({ prompt: 'Say hello.', responses: ['Hello', 'there'] }, client.signal);
    await held.asked;
    held.give(0);
    const { line } = await answering;
    await line();
    client.abort();
    await t.rejects(async () => {
      while (await line());
    });
    while (held.aborted === null) await new Promise((resolve) => setTimeout(resolve, 10));
    t.equal(held.aborted, 'unavailable');
  });

  await t.test('a deadline', async (t) => {
    const request = { prompt: 'Say hello.', responses: ['Hello', 'there'], deadline_ms: 200 };
    t.match((await score({ ...request, deadline_ms: 600_000 }, {})).body.results, [
      { status: 'ok' },
      { status: 'ok' },
    ]);
    const held = heldEngine(scoring);
    server.services.scoring = held.engine;
    const late = { status: 422, body: { code: 'deadline_exceeded', detail: /within 200 ms/ } };
    t.match(await score(request, {}), late, 'for JSON a problem');
    t.equal(held.aborted, 'deadline_exceeded', 'and the work is taken back');
    t.match(await score(request), late, 'a stream that has not begun: the same');
    const versions = { prompt: 'Hi', original: 'a', edited: 'b', deadline_ms: 200 };
    t.match(await call('POST', '/v1/score/compare', { json: versions }), late);

    const again = heldEngine(scoring);
    server.services.scoring = again.engine;
    const answering = score(request);
    await again.asked;
    again.give(1);
    const events = lines((await answering).text);
    t.match(events, [
      { event: 'begin' },
      { index: 1, status: 'ok' },
      { event: 'problem', ok: 1, failed: 0, unscored: [0], problem: { code: 'deadline_exceeded' } },
    ]);

    server.services.scoring = { ...scoring, tokenizer: () => new Promise(() => {}) };
    t.match(await score(request, {}), late, 'a model that takes long to load is not waited for');
    for (const deadline_ms of [0, 1.5, 600_001, '200'])
      t.match(await score({ ...request, deadline_ms }, {}), {
        status: 400,
        body: { errors: [{ pointer: '/deadline_ms' }] },
      });
  });

  await t.test(
    'the first result leaves long before the last; a client that reads late gets everything',
    async (t) => {
      const responses = new Array(256).fill('a'.repeat(50));
      const { response, line } = await open({ prompt: 'Hi', responses, unit: 'byte' });
      t.equal(response.status, 200);
      t.match(await line(), { event: 'begin', count: 256 });
      t.ok(scoring.figures().queuedTokens > 0, 'others are still to be scored');
      await eventually(() => scoring.figures().queuedTokens === 0);
      const seen = new Set<number>();
      let last = null;
      for (let next = await line(); next; next = await line()) {
        if (next.event === 'result') seen.add(next.index);
        last = next;
      }
      t.equal(seen.size, 256);
      t.same(last, { event: 'end', ok: 256, failed: 0 });
    },
  );
});
