import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { gzipSync } from 'node:zlib';
import { parquetWriteBuffer } from 'hyparquet-writer';
import t from 'tap';
import { startTestServer } from '../support/server.ts';

t.setTimeout(180_000);

const parquet = { 'content-type': 'application/vnd.apache.parquet' };
const texts = (name: string, data: (string | null)[]) => ({ name, data, type: 'STRING' as const });
type Options = Partial<Parameters<typeof parquetWriteBuffer>[0]>;
const file = (columnData: object[], options: Options = {}) =>
  new Uint8Array(parquetWriteBuffer({ columnData: columnData as never, ...options }));

const leaf = (name: string) => ({
  name,
  type: 'BYTE_ARRAY' as const,
  converted_type: 'UTF8' as const,
  repetition_type: 'OPTIONAL' as const,
});
/** a conversation as a list of structs, metadata as a map */
const schema = [
  { name: 'root', num_children: 5 },
  leaf('external_id'),
  { name: 'prompt', converted_type: 'LIST' as const, num_children: 1, repetition_type: 'OPTIONAL' as const },
  { name: 'list', num_children: 1, repetition_type: 'REPEATED' as const },
  { name: 'element', num_children: 2, repetition_type: 'OPTIONAL' as const },
  leaf('role'),
  leaf('content'),
  leaf('response_a'),
  leaf('response_b'),
  { name: 'metadata', converted_type: 'MAP' as const, num_children: 1, repetition_type: 'OPTIONAL' as const },
  { name: 'key_value', num_children: 2, repetition_type: 'REPEATED' as const },
  { ...leaf('key'), repetition_type: 'REQUIRED' as const },
  leaf('value'),
];

t.test('Parquet', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const newDataset = async () => (await call('POST', '/v1/datasets', { json: { name: 'parquet' } })).body.id;
  const dataset = await newDataset();
  const path = `/v1/datasets/${dataset}/pairs`;
  const send = (body: Uint8Array, url = `${path}/import`, headers = {}) =>
    call('POST', url, { body, headers: { ...parquet, ...headers } });
  const list = async (url = path) => (await call('GET', url)).body.items;

  t.test('the columns of NDJSON, row by row: several row groups, bad rows by number', async (t) => {
    const strange = 'naïve “👩‍👩‍👧” \r\n\ufeff';
    const body = file(
      [
        texts('external_id', ['p0', 'p1', 'p2', 'p3', 'p4']),
        texts('prompt', ['q0', 'q1', null, 'q3', '\0']),
        texts('response_a', [strange, 'a', 'a', 'a', 'a']),
        texts('response_b', ['b', '', 'b', 'b', 'b']),
        texts('preference', ['a', null, 'b', 'c', null]),
        texts('metadata', ['{"n": 1.5, "deep": {"list": [null]}, "__proto__": 1}', null, null, null, null]),
        { name: 'turn', data: [1n, 2n, 3n, 4n, 5n], type: 'INT64' },
        texts('source', ['web', null, null, null, null]),
      ],
      { rowGroupSize: 2 },
    );
    const first = await send(body);
    t.match(first, { status: 200, body: { received: 5, created: 2, rejected: 3 } });
    t.match(first.body.errors, [
      { line: 3, code: 'invalid_row', pointer: '/prompt', detail: 'is missing' },
      { line: 4, code: 'invalid_row', pointer: '/preference' },
      { line: 5, code: 'ill_formed_text', pointer: '/prompt' },
    ]);
    const [one, two] = await list();
    t.match(one, { external_id: 'p0', response_a: strange, preference: 'a' });
    t.same(
      JSON.parse(JSON.stringify(one.metadata)),
      JSON.parse('{"n":1.5,"deep":{"list":[null]},"__proto__":1,"turn":1,"source":"web"}'),
    );
    t.match(two, { response_b: '', preference: null, metadata: { turn: 2 } });
    t.notOk('source' in two.metadata, 'a null is a missing column');
    t.match((await send(body)).body, { created: 0, unchanged: 2, rejected: 3 });
    const zipped = await send(gzipSync(body), `${path}/import`, { 'content-encoding': 'gzip' });
    t.match(zipped.body, { unchanged: 2 });
  });

  t.test('a conversation is a list of structs, metadata a map; TRL columns', async (t) => {
    const id = await newDataset();
    const url = `/v1/datasets/${id}/pairs`;
    const prompt = [
      { role: 'user', content: 'When?' },
      { role: 'assistant', content: 'Then.' },
    ];
    const body = file(
      [
        { name: 'external_id', data: ['one', 'two'] },
        { name: 'prompt', data: [prompt, prompt] },
        { name: 'response_a', data: ['a', 'b'] },
        { name: 'response_b', data: ['c', 'd'] },
        { name: 'metadata', data: [{ source: 'web', ['__proto__']: 'x' }, null] },
      ],
      { schema },
    );
    t.match((await send(body, `${url}/import`)).body, { created: 2, rejected: 0 });
    t.match(await list(url), [
      { prompt, metadata: { source: 'web' } },
      { prompt, metadata: {} },
    ]);
    const trl = file([texts('prompt', ['p']), texts('chosen', ['good']), texts('rejected', ['bad'])]);
    t.match((await send(trl, `${url}/import`)).body, { created: 1 });
    t.match((await list(url)).at(-1), { response_a: 'good', response_b: 'bad', preference: 'a' });
  });

  t.test('edits', async (t) => {
    const body = file([
      texts('pair_external_id', ['p0', 'p1', 'nobody']),
      texts('side', ['b', 'a', null]),
      texts('edited_response', ['better', 'aa', 'x']),
      texts('editor', Array(3).fill('{"kind":"llm","name":"e"}')),
      texts('comment', [null, 'why', null]),
    ]);
    const url = `/v1/edits/import?dataset_id=${dataset}`;
    const { body: first } = await send(body, url);
    t.match(first, { created: 2, rejected: 1, errors: [{ line: 3, code: 'not_found' }] });
    t.match((await send(body, url)).body, { created: 0, unchanged: 2 });
  });

  t.test(
    'what is no Parquet file, or a damaged or hostile one, is a clear 4xx, and nothing is left',
    async (t) => {
      const good = file([
        texts('prompt', ['p', 'q']),
        texts('response_a', ['a', 'a']),
        texts('response_b', ['b', 'b']),
      ]);
      const changed = (change: (bytes: Buffer) => void): Uint8Array => {
        const copy = Buffer.from(good);
        change(copy);
        return copy;
      };
      const before = (await list()).length;
      const cases: [string, Uint8Array, RegExp][] = [
        ['empty', new Uint8Array(), /no body|does not begin/],
        [
          'NDJSON',
          Buffer.from('{"prompt":"p","response_a":"a","response_b":"b"}\n'),
          /does not begin as one/,
        ],
        ['cut off', good.subarray(0, good.length - 100), /does not end as one/],
        ['a footer longer than the file', changed((b) => b.writeUInt32LE(2 ** 31, b.length - 8)), /footer/],
        ['a footer of zeros', changed((b) => b.fill(0, 200, b.length - 8)), /cannot be read/],
        ['pages of noise', changed((b) => b.fill(0xee, 4, 60)), /cannot be read/],
        [
          'a row group of too many bytes',
          changed((b) => b.writeUInt32LE(2, b.length - 8)),
          /cannot be read as a Parquet file/,
        ],
      ];
      for (const [what, body, detail] of cases) {
        const answer = await send(body);
        t.ok(answer.status === 422 || answer.status === 400, `${what}: ${answer.status}`);
        t.match(answer.body.detail, detail, `${what}: ${answer.body.detail}`);
      }
      t.equal((await list()).length, before);
      t.same(
        readdirSync(tmpdir()).filter((name) => name.startsWith('finegrain-parquet-')),
        [],
      );
    },
  );

  t.test('other codecs; a page that unpacks to more than it says is refused', async (t) => {
    const columns = [
      texts('prompt', ['p']),
      texts('response_a', ['a']),
      texts('response_b', ['b']),
      texts('comment', [null]), // a page of no bytes
    ];
    const zipped = (GZIP: (page: Uint8Array) => Uint8Array) =>
      file(columns, { codec: 'GZIP', compressors: { GZIP } as never });
    const url = `/v1/datasets/${await newDataset()}/pairs/import`;
    t.match((await send(zipped(gzipSync), url)).body, { created: 1 });
    const bomb = gzipSync(Buffer.alloc(50_000_000));
    t.match(
      await send(
        zipped(() => bomb),
        url,
      ),
      { status: 422, body: { detail: /cannot be read/ } },
    );
  });

  t.test('a small file of endless rows ends at a bound', async (t) => {
    const long = 'x'.repeat(4_000_000); // no row that is stored
    const rows = 100;
    const body = file([
      texts(
        'external_id',
        Array.from({ length: rows }, (_, i) => `${i}`),
      ),
      texts('prompt', Array(rows).fill(long)),
      texts('response_a', Array(rows).fill('a')),
      texts('response_b', Array(rows).fill('b')),
    ]);
    t.ok(body.length < 2_000_000);
    const answer = await send(body, `/v1/datasets/${await newDataset()}/pairs/import`);
    t.match(answer, { status: 422, body: { detail: /times as long as the file|unpacks to more/ } });
  });

  t.test('a row group of millions of rows is refused before it is read', async (t) => {
    const rows = 2_000_001;
    const body = file([{ name: 'n', data: new Int32Array(rows), type: 'INT32', nullable: false }], {
      rowGroupSize: rows,
    });
    const answer = await send(body);
    t.match(answer, { status: 422, body: { detail: /row group 0 has 2000001 rows.*row_group_size/ } });
  });

  t.test('security', async (t) => {
    const key = await server.otherProjectKey();
    const body = file([texts('prompt', ['p']), texts('response_a', ['a']), texts('response_b', ['b'])]);
    t.match(await call('POST', `${path}/import`, { body, headers: parquet, key }), { status: 404 });
  });
});
