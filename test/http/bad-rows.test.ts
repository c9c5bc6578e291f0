// What docs/data.md says of each kind of bad input, in the order of its table. Every bad row stands between two good ones,
// which must come through as they are.
import t from 'tap';
import { startTestServer } from '../support/server.ts';

t.setTimeout(180_000);

const ndjson = { 'content-type': 'application/x-ndjson' };
const editor = { kind: 'person', name: 'ann' };

interface Case {
  what: string;
  /** a line, or several */
  line: string | Uint8Array;
  /** null: taken */
  error: { code: string; pointer: string; detail?: RegExp } | null;
  /** of the pair that comes of it */
  stored?: object;
  status?: number;
}

const pair = (change: object = {}): string =>
  JSON.stringify({ prompt: 'p', response_a: 'a', response_b: 'b', ...change });
const nested = (levels: number): string => `${'['.repeat(levels)}${']'.repeat(levels)}`;
const invalid = (pointer: string, detail?: RegExp) => ({
  code: 'invalid_row',
  pointer,
  ...(detail ? { detail } : {}),
});

const cases: Case[] = [
  { what: 'invalid JSON', line: '{"prompt":"p",', error: { code: 'malformed_json', pointer: '' } },
  { what: 'two values in a line', line: '{} {}', error: { code: 'malformed_json', pointer: '' } },
  { what: 'NaN', line: pair().replace('"p"', 'NaN'), error: { code: 'malformed_json', pointer: '' } },
  {
    what: 'bytes that are not UTF-8',
    line: Buffer.concat([Buffer.from('{"prompt":"'), Buffer.from([0xff]), Buffer.from('"}')]),
    error: { code: 'malformed_json', pointer: '', detail: /UTF-8/ },
  },
  {
    what: 'NUL, escaped',
    line: pair({ response_a: 'a\0' }),
    error: { code: 'ill_formed_text', pointer: '/response_a', detail: /NUL/ },
  },
  {
    what: 'NUL, raw',
    line: pair().replace('"a"', '"a\0"'),
    error: { code: 'malformed_json', pointer: '' },
  },
  {
    what: 'a lone surrogate',
    line: pair().replace('"a"', '"\\ud83d"'),
    error: { code: 'ill_formed_text', pointer: '/response_a', detail: /surrogate/ },
  },
  {
    what: 'a lone surrogate in metadata',
    line: pair({ metadata: { deep: ['x'] } }).replace('"x"', '"\\udc4d"'),
    error: { code: 'ill_formed_text', pointer: '/metadata/deep/0' },
  },
  {
    what: 'NUL in a key',
    line: pair({ metadata: { 'a\0': 1 } }),
    error: { code: 'ill_formed_text', pointer: '/metadata' },
  },
  {
    what: 'a byte order mark before a line',
    line: `\ufeff${pair({ external_id: 'bom' })}`,
    error: null,
    stored: { external_id: 'bom', prompt: 'p' },
  },
  {
    what: 'a byte order mark in a text',
    line: pair({ external_id: 'bom in text', prompt: '\ufeffp' }),
    error: null,
    stored: { prompt: '\ufeffp' },
  },
  {
    what: 'CRLF at the end of a line',
    line: `${pair({ external_id: 'crlf' })}\r`,
    error: null,
    stored: { external_id: 'crlf' },
  },
  {
    what: 'CRLF in a text',
    line: pair({ external_id: 'crlf in text', response_a: ' a\r\n' }),
    error: null,
    stored: { response_a: ' a\r\n' },
  },
  { what: 'blank lines', line: '\n  \n\r', error: null },
  {
    what: 'a line of 5 MB',
    line: pair({ external_id: 'long', prompt: 'é'.repeat(900_000), metadata: { x: 'y'.repeat(3_200_000) } }),
    error: null,
    stored: { external_id: 'long', prompt: 'é'.repeat(900_000) },
  },
  {
    what: 'a text of 5 MB',
    line: pair({ response_b: 'b'.repeat(5_000_000) }),
    error: invalid('/response_b', /1000000/),
  },
  {
    what: 'a line of 9 MB',
    line: pair({ metadata: { x: 'y'.repeat(9_000_000) } }),
    error: { code: 'line_too_long', pointer: '' },
  },
  {
    what: 'nesting of 65 levels',
    line: pair({ metadata: { x: 0 } }).replace('0', nested(63)),
    error: invalid('', /64 levels/),
  },
  {
    what: 'nesting of a million levels',
    line: pair({ metadata: { x: 0 } }).replace('0', nested(1_000_000)),
    error: invalid('', /64 levels/),
  },
  { what: 'no object', line: '[1]', error: invalid('', /JSON object/) },
  { what: 'a number as a response', line: pair({ response_a: 5 }), error: invalid('/response_a') },
  { what: 'no response', line: pair({ response_a: undefined }), error: invalid('/response_a', /missing/) },
  { what: 'an unknown preference', line: pair({ preference: 'c' }), error: invalid('/preference') },
  { what: 'a text as metadata', line: pair({ metadata: 'x' }), error: invalid('/metadata') },
  {
    what: 'an unknown role',
    line: pair({ prompt: [{ role: 'robot', content: 'x' }] }),
    error: invalid('/prompt/0/role'),
  },
  {
    what: 'a number beyond doubles',
    line: pair({ metadata: { x: 7 } }).replace('7', '1e400'),
    error: invalid('/metadata/x', /1.8e308/),
  },
  {
    what: 'an id again, with other content',
    line: pair({ external_id: 'before', response_a: 'other' }),
    error: { code: 'conflict', pointer: '/external_id' },
  },
  {
    what: 'no id, the same texts, another preference',
    line: `${pair({ prompt: 'no id' })}\n${pair({ prompt: 'no id', preference: 'b' })}`,
    error: { code: 'conflict', pointer: '' },
    stored: { prompt: 'no id', preference: null },
  },
  {
    what: 'a column beside and inside metadata',
    line: pair({ source: 'x', metadata: { source: 'y' } }),
    error: invalid('/source', /both/),
  },
  {
    what: 'keys that pollute prototypes',
    line: '{"external_id":"proto","prompt":"p","response_a":"a","response_b":"b","__proto__":{"polluted":1},"metadata":{"constructor":{"prototype":{"polluted":2}}}}',
    error: null,
    stored: { external_id: 'proto' },
  },
  { what: 'an empty prompt', line: pair({ prompt: '' }), error: invalid('/prompt') },
  { what: 'an empty conversation', line: pair({ prompt: [] }), error: invalid('/prompt') },
  {
    what: 'empty responses',
    line: pair({ external_id: 'empty', response_a: '', response_b: '' }),
    error: null,
    stored: { response_a: '', response_b: '' },
  },
  {
    what: 'identical responses',
    line: pair({ external_id: 'identical', response_b: 'a' }),
    error: null,
    stored: { response_a: 'a', response_b: 'a' },
  },
];

t.test('bad input', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const good = (external_id: string) =>
    pair({ external_id, prompt: `${external_id} “é” 👍`, metadata: { n: 1.5 } });

  t.test('rows: each has its answer, and its neighbours come through', async (t) => {
    for (const { what, line, error, stored } of cases) {
      const { id } = (await call('POST', '/v1/datasets', { json: { name: what } })).body;
      const path = `/v1/datasets/${id}/pairs`;
      const body = Buffer.concat([
        Buffer.from(`${good('before')}\n`),
        Buffer.from(line as string),
        Buffer.from(`\n${good('after')}\n`),
      ]);
      const answer = await call('POST', `${path}/import`, { body, headers: ndjson });
      t.equal(answer.status, 200, what);
      t.match(answer.body.errors, error ? [error] : [], what);
      t.equal(answer.body.rejected, error ? 1 : 0, what);
      const { items } = (await call('GET', path)).body;
      const others = items.slice(1, -1);
      for (const [item, external_id] of [
        [items[0], 'before'],
        [items.at(-1), 'after'],
      ])
        t.match(item, JSON.parse(good(external_id)), `${what}: ${external_id}`);
      t.equal(others.length, stored ? 1 : 0, `${what}: nothing else`);
      if (stored) t.match(others[0], stored, what);
      if (what.includes('pollute')) {
        t.equal(
          JSON.stringify(others[0].metadata),
          '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":2}}}',
          'kept as they are',
        );
        t.notOk('polluted' in {}, 'and nothing else has them');
      }
    }
  });

  t.test('edits: equal to the original, of the preferred response', async (t) => {
    const { id } = (await call('POST', '/v1/datasets', { json: { name: 'edits' } })).body;
    const pairs = [
      { external_id: 'p', prompt: 'p', response_a: 'one two', response_b: 'one three', preference: 'a' },
      { external_id: 'same', prompt: 'p', response_a: 'one two', response_b: 'one two', preference: 'a' },
    ];
    await call('POST', `/v1/datasets/${id}/pairs`, { json: { pairs } });
    const edits: [object, string][] = [
      [{ pair_external_id: 'p', edited_response: 'one three' }, 'unchanged'],
      [{ pair_external_id: 'p', side: 'a', edited_response: 'one two!' }, 'stale'],
      [{ pair_external_id: 'same', edited_response: 'one four' }, 'accepted'],
      [{ pair_external_id: 'p', edited_response: '' }, 'accepted'],
    ];
    const rows = edits.map(([edit]) => ({ ...edit, dataset_id: id, editor }));
    const batch = await call('POST', '/v1/edits', { json: { edits: rows } });
    t.same(
      batch.body.items.map(({ status }: { status: string }) => status),
      edits.map(([, status]) => status),
    );
    const body = rows.map((row) => `${JSON.stringify(row)}\n`).join('');
    t.match((await call('POST', '/v1/edits/import', { body, headers: ndjson })).body, {
      created: 0,
      unchanged: 4,
    });
  });

  t.test('edits: bad rows between good ones', async (t) => {
    const { id } = (await call('POST', '/v1/datasets', { json: { name: 'edit rows' } })).body;
    await call('POST', `/v1/datasets/${id}/pairs`, {
      json: { pairs: [{ external_id: 'p', prompt: 'p', response_a: 'a', response_b: 'b', preference: 'a' }] },
    });
    const edit = (change: object = {}) =>
      JSON.stringify({ pair_external_id: 'p', edited_response: 'c', editor, ...change });
    const lines = [
      edit({ edited_response: 'before' }),
      '{',
      edit({ edited_response: '\0' }),
      edit().replace('"c"', '"\\ud800"'),
      edit({ edited_response: 'x'.repeat(1_000_001) }),
      edit({ editor: { kind: 'person', name: '' } }),
      edit({ status: 'done' }),
      '{"__proto__":{},"pair_external_id":"p","edited_response":"c","editor":{"kind":"person","name":"ann"}}',
      edit({ edited_response: 'after' }),
    ];
    const { body } = await call('POST', `/v1/edits/import?dataset_id=${id}`, {
      body: lines.join('\r\n'),
      headers: ndjson,
    });
    t.match(body, { created: 2, rejected: 7 });
    t.match(body.errors, [
      { line: 2, code: 'malformed_json' },
      { line: 3, code: 'ill_formed_text', pointer: '/edited_response' },
      { line: 4, code: 'ill_formed_text', pointer: '/edited_response' },
      { line: 5, code: 'invalid_row', pointer: '/edited_response' },
      { line: 6, code: 'invalid_row', pointer: '/editor/name' },
      { line: 7, code: 'invalid_row', pointer: '/status' },
      { line: 8, code: 'invalid_row', pointer: '/__proto__' },
    ]);
    const texts = (await call('GET', `/v1/edits?dataset_id=${id}`)).body.items.map(
      ({ edited_response }: { edited_response: string }) => edited_response,
    );
    t.same(texts, ['before', 'after']);
  });
});
