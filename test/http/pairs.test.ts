import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import canonicalize from 'canonicalize';
import fc from 'fast-check';
import t from 'tap';
import { newPair } from '../../src/services/pairs.ts';
import { holds } from '../domain/holds.ts';
import { startTestServer, type TestServer } from '../support/server.ts';

const ndjson = { 'content-type': 'application/x-ndjson' };

async function newDataset(server: TestServer): Promise<string> {
  return (await server.call('POST', '/v1/datasets', { json: { name: 'pairs' } })).body.id;
}

t.test('the hashes of a pair are those of its canonical JSON (RFC 8785)', async (t) => {
  const sha256 = (value: unknown) => createHash('sha256').update(canonicalize(value)!).digest('hex');
  const text = fc
    .string({ unit: fc.oneof(fc.constantFrom('"', '\\', '\n', '\u0001', '\u2028', 'é', '👍'), fc.string()) })
    .filter((made) => made.isWellFormed());
  const prompt = fc.oneof(
    text,
    fc.array(fc.record({ role: fc.constantFrom('user', 'assistant'), content: text })),
  );
  const metadata = fc.dictionary(text, fc.oneof(text, fc.double({ noNaN: true, noDefaultInfinity: true })));
  holds(
    t,
    fc.property(
      fc.tuple(
        prompt as fc.Arbitrary<string>,
        text,
        text,
        fc.constantFrom('a', 'b', null),
        metadata,
        fc.boolean(),
      ),
      ([prompt, response_a, response_b, preference, metadata, voted]) => {
        const votes = { a: voted ? 2 : 0, b: 0, tie: 0 };
        const pair = newPair({
          external_id: null,
          prompt,
          response_a,
          response_b,
          preference: preference as 'a',
          metadata,
          votes,
        });
        assert.equal(pair.identitySha256, sha256([prompt, response_a, response_b]));
        assert.equal(
          pair.contentSha256,
          sha256([prompt, response_a, response_b, preference, metadata, ...(voted ? [votes] : [])]),
        );
        assert.equal(pair.prompt, canonicalize(prompt));
      },
    ),
    { runs: 200 },
  );
});

t.test('pairs', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const dataset = await newDataset(server);
  const path = `/v1/datasets/${dataset}/pairs`;

  t.test('batch: all or nothing, repeats add nothing', async (t) => {
    const pairs = [
      {
        external_id: 'one',
        prompt: 'p',
        response_a: ' a\r\n',
        response_b: 'b',
        preference: 'a',
        metadata: { n: 1.5, deep: { list: [null, 'é'] } },
      },
      { prompt: [{ role: 'user', content: 'héllo 👩‍👩‍👧' }], response_a: '', response_b: 'b' },
    ];
    const created = await call('POST', path, { json: { pairs } });
    t.match(created, {
      status: 201,
      body: {
        created: 2,
        unchanged: 0,
        items: [{ external_id: 'one', status: 'created' }, { external_id: null }],
      },
    });
    const again = await call('POST', path, { json: { pairs: [...pairs, pairs[0]] } });
    t.match(again.body, { created: 0, unchanged: 3 });
    t.same(again.body.items[0].id, created.body.items[0].id);

    const stored = await call('GET', `/v1/pairs/${created.body.items[0].id}`);
    t.match(stored.body, { ...pairs[0], dataset_id: dataset }, 'strings exactly, metadata equal');
    t.match((await call('GET', `/v1/pairs/${created.body.items[1].id}`)).body, {
      ...pairs[1],
      preference: null,
      metadata: {},
    });

    const conflict = await call('POST', path, {
      json: {
        pairs: [
          { prompt: 'new', response_a: 'a', response_b: 'b' },
          { ...pairs[0], response_a: 'other' },
        ],
      },
    });
    t.match(conflict, { status: 409, body: { code: 'conflict', errors: [{ pointer: '/pairs/1' }] } });
    t.equal((await call('GET', path)).body.items.length, 2, 'nothing of a refused batch is stored');
  });

  t.test('batch: error', async (t) => {
    const good = { prompt: 'p2', response_a: 'a', response_b: 'b' };
    t.match(await call('POST', path, { json: { pairs: [] } }), {
      status: 400,
      body: { errors: [{ pointer: '/pairs' }] },
    });
    t.match(await call('POST', path, { json: { pairs: [good, { ...good, preference: 'c' }] } }), {
      status: 400,
      body: { errors: [{ pointer: '/pairs/1/preference' }] },
    });
    t.match(await call('POST', path, { json: { pairs: [{ ...good, extra: 1 }] } }), {
      status: 400,
      body: { errors: [{ pointer: '/pairs/0/extra' }] },
    });
    t.match(await call('POST', path, { json: { pairs: [{ ...good, prompt: '' }] } }), { status: 400 });
    t.match(await call('POST', '/v1/datasets/ds_none/pairs', { json: { pairs: [good] } }), { status: 404 });
  });

  t.test('import: three row formats, bad rows by line, good rows kept, repeatable', async (t) => {
    const id = await newDataset(server);
    const rows = [
      '\ufeff{"external_id":"x1","prompt":"p","response_a":"a","response_b":"b","preference":"b","source":"web"}',
      '',
      '{"prompt":"q","chosen":"good","rejected":"bad","id":7}\r',
      '{"prompt":[{"role":"user","content":"q"}],"chosen":[{"role":"assistant","content":"yes"}],"rejected":[{"role":"assistant","content":"no"}]}',
      '{"instruction":"do","input":"it","output_1":"1","output_2":"2","preference":2}',
      '{"prompt":"broken"',
      '{"prompt":"p","response_a":"a"}',
      '{"external_id":"x1","prompt":"p","response_a":"other","response_b":"b"}',
      '{"prompt":"\\u0000","response_a":"a","response_b":"b"}',
      '[1]',
      '{"prompt":"last, without a newline","response_a":"a","response_b":"b"}',
    ];
    const first = await call('POST', `/v1/datasets/${id}/pairs/import`, {
      body: rows.join('\n'),
      headers: ndjson,
    });
    t.match(first, {
      status: 200,
      body: { received: 10, created: 5, unchanged: 0, rejected: 5, errors_truncated: false },
    });
    t.match(first.body.errors, [
      { line: 6, code: 'malformed_json' },
      { line: 7, code: 'invalid_row', pointer: '/response_b', detail: 'is missing' },
      { line: 8, code: 'conflict', pointer: '/external_id' },
      { line: 9, code: 'ill_formed_text', pointer: '/prompt' },
      { line: 10, code: 'invalid_row' },
    ]);
    const again = await call('POST', `/v1/datasets/${id}/pairs/import`, {
      body: rows.join('\n'),
      headers: ndjson,
    });
    t.match(again.body, { created: 0, unchanged: 5, rejected: 5 });

    const { items } = (await call('GET', `/v1/datasets/${id}/pairs`)).body;
    t.match(items, [
      { external_id: 'x1', preference: 'b', metadata: { source: 'web' } },
      { external_id: '7', response_a: 'good', response_b: 'bad', preference: 'a' },
      { response_a: 'yes', response_b: 'no', preference: 'a' },
      { prompt: 'do\n\nit', response_a: '1', response_b: '2', preference: 'b' },
      { prompt: 'last, without a newline', preference: null },
    ]);

    const exported = await call('GET', `/v1/datasets/${id}/pairs/export`);
    t.equal(exported.headers.get('content-type'), 'application/x-ndjson');
    t.same(
      exported.text
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line)),
      items,
    );
    for (const headers of [ndjson, { 'content-type': 'application/jsonl' }]) {
      const back = await call('POST', `/v1/datasets/${id}/pairs/import`, { body: exported.text, headers });
      t.match(back.body, { created: 0, unchanged: 5, rejected: 0 }, 'an export goes back in, adding nothing');
    }
  });

  t.test('import: a stream of many rows in small chunks, cut at any byte', async (t) => {
    const id = await newDataset(server);
    const text = Array.from(
      { length: 2500 },
      (_, i) => `${JSON.stringify({ prompt: `ü ${i}`, response_a: 'a', response_b: 'b' })}\n`,
    ).join('');
    const bytes = new TextEncoder().encode(text);
    let at = 0;
    const body = new ReadableStream({
      pull(controller) {
        if (at >= bytes.length) return controller.close();
        controller.enqueue(bytes.subarray(at, at + 997));
        at += 997;
      },
    });
    t.match((await call('POST', `/v1/datasets/${id}/pairs/import`, { body, headers: ndjson })).body, {
      received: 2500,
      created: 2500,
    });
    t.match((await call('GET', `/v1/datasets/${id}/stats`)).body, {
      pairs: 2500,
      preferences: { undecided: 2500 },
    });
  });

  t.test('import: without a body it says what to send', async (t) => {
    const refused = {
      status: 400,
      body: { code: 'invalid_request', detail: /There is no body: send NDJSON/ },
    };
    t.match(await call('POST', `${path}/import`), refused);
    t.match(await call('POST', `${path}/import`, { json: {} }), {
      status: 415,
      body: { detail: /send NDJSON/ },
    });
  });

  t.test('import: many errors are counted, the first hundred listed', async (t) => {
    const { body } = await call('POST', `${path}/import`, { body: 'x\n'.repeat(150), headers: ndjson });
    t.match(body, { received: 150, rejected: 150, errors_truncated: true });
    t.equal(body.errors.length, 100);
  });

  t.test(
    'import: a client that breaks off leaves what was committed, and a repeat adds the rest',
    async (t) => {
      const id = await newDataset(server);
      const row = (i: number): string =>
        `${JSON.stringify({ prompt: `row ${i}`, response_a: 'a', response_b: 'b' })}\n`;
      const controller = new AbortController();
      const body = new ReadableStream({
        start(stream) {
          stream.enqueue(new TextEncoder().encode(Array.from({ length: 1500 }, (_, i) => row(i)).join('')));
        },
      });
      const stored = async () => (await call('GET', `/v1/datasets/${id}/stats`)).body.pairs;
      const importing = t.rejects(
        call('POST', `/v1/datasets/${id}/pairs/import`, { body, headers: ndjson, signal: controller.signal }),
      );
      while ((await stored()) === 0) await sleep(50);
      controller.abort();
      await importing;
      t.equal(await stored(), 1000);
      const all = Array.from({ length: 1500 }, (_, i) => row(i)).join('');
      t.match((await call('POST', `/v1/datasets/${id}/pairs/import`, { body: all, headers: ndjson })).body, {
        created: 500,
        unchanged: 1000,
      });
    },
  );

  t.test('preference and delete', async (t) => {
    const { body } = await call('POST', path, {
      json: { pairs: [{ prompt: 'pref', response_a: 'a', response_b: 'b' }] },
    });
    const pair = `/v1/pairs/${body.items[0].id}`;
    t.match(await call('PATCH', pair, { json: { preference: 'b' } }), {
      status: 200,
      body: { preference: 'b' },
    });
    t.match(await call('PATCH', pair, { json: { preference: 'x' } }), { status: 400 });
    t.match(await call('DELETE', pair), { status: 204, text: '' });
    t.match(await call('GET', pair), { status: 404 });
  });

  t.test('security', async (t) => {
    const { body } = await call('POST', path, {
      json: { pairs: [{ prompt: 'mine', response_a: 'a', response_b: 'b' }] },
    });
    const pair = `/v1/pairs/${body.items[0].id}`;
    const stranger = await server.otherProjectKey();
    for (const [method, url, options] of [
      ['GET', path, {}],
      ['POST', path, { json: { pairs: [{ prompt: 'x', response_a: 'a', response_b: 'b' }] } }],
      ['POST', `${path}/import`, { body: '{}', headers: ndjson }],
      ['GET', `${path}/export`, {}],
      ['GET', pair, {}],
      ['PATCH', pair, { json: { preference: 'a' } }],
      ['DELETE', pair, {}],
    ] as const) {
      t.match(
        await call(method, url, { ...options, key: stranger }),
        { status: 404, body: { code: 'not_found' } },
        `${method} ${url} of another project`,
      );
    }
    t.match(await call('GET', pair), { status: 200 });
  });
});
