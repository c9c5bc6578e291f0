import canonicalize from 'canonicalize';
import t from 'tap';
import { registerTinyModel } from '../support/models.ts';
import { startTestServer } from '../support/server.ts';

t.setTimeout(180_000);

const editor = { kind: 'person', name: 'ann' };
const parsed = (text: string) =>
  text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));

t.test('filters and exports of pairs', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  await registerTinyModel(server, { alias: 'tiny' });
  const id = (await call('POST', '/v1/datasets', { json: { name: 'exports' } })).body.id;
  const path = `/v1/datasets/${id}/pairs`;
  const answers = { response_a: 'Opened in 1932.', response_b: 'Opened in 1936.' };
  const talk = [{ role: 'user', content: 'When?' }];
  const pairs = [
    {
      external_id: 'edited',
      prompt: 'p',
      ...answers,
      preference: 'a',
      metadata: { source: 'x', tags: ['q', 'r'] },
    },
    {
      external_id: 'talk',
      prompt: talk,
      ...answers,
      preference: 'b',
      metadata: { source: 'x', deep: { n: 1, m: 2 } },
    },
    { external_id: 'plain', prompt: 'q', ...answers, preference: 'b', metadata: { source: 'y' } },
    { external_id: 'open', prompt: 'r', ...answers, metadata: {} },
  ];
  const { body } = await call('POST', path, { json: { pairs } });
  const edits = [
    { pair_id: body.items[0].id, edited_response: 'Opened in 1932 already.', editor },
    { pair_id: body.items[0].id, edited_response: 'Opened in 1932.', editor },
    { pair_id: body.items[1].id, edited_response: 'Opened in 1936 at last.', editor },
  ];
  await call('POST', '/v1/edits', { json: { edits } });
  const added = (await call('GET', path)).body.items.map(
    ({ created_at }: { created_at: string }) => created_at,
  );

  const filters: [object, string[]][] = [
    [{}, ['edited', 'talk', 'plain', 'open']],
    [{ preference: 'b' }, ['talk', 'plain']],
    [{ preference: 'none' }, ['open']],
    [{ has_edit: true }, ['edited', 'talk']],
    [{ has_edit: false }, ['plain', 'open']],
    [{ external_ids: ['plain', 'open', 'nobody'] }, ['plain', 'open']],
    [{ metadata: { source: 'x' } }, ['edited', 'talk']],
    [{ metadata: { deep: { n: 1 } } }, ['talk']],
    [{ metadata: { tags: ['r'] } }, ['edited']],
    [{ metadata: { source: 'x' }, preference: 'b' }, ['talk']],
    [{ created_after: added[0] }, []],
    [{ created_before: added[0] }, []],
    [{ created_after: '2026-01-01T00:00:00Z' }, ['edited', 'talk', 'plain', 'open']],
    [{ created_after: '2026-01-01T00:00:00Z', created_before: '2026-01-02T00:00:00Z' }, []],
  ];
  const inQuery = (filter: object): string =>
    new URLSearchParams(
      Object.entries(filter).map(([name, value]): [string, string] => [
        name,
        typeof value === 'object' ? JSON.stringify(value) : String(value),
      ]),
    ).toString();
  const ids = (items: { external_id: string }[]) => items.map(({ external_id }) => external_id);

  t.test('one filter: lists, exports, edit requests and snapshots take the same pairs', async (t) => {
    for (const [filter, expected] of filters) {
      const what = JSON.stringify(filter);
      t.same(ids((await call('GET', `${path}?${inQuery(filter)}`)).body.items), expected, `list ${what}`);
      t.same(
        ids(parsed((await call('GET', `${path}/export?${inQuery(filter)}`)).text)),
        expected,
        `export ${what}`,
      );
      const json = { dataset_id: id, editor: 'person', filter };
      const request = (await call('POST', '/v1/edit-requests', { json })).body;
      t.equal(request.pairs + request.skipped.no_preference, expected.length, `edit request ${what}`);
      const split = { train: 1, validation: 0, test: 0, seed: 0 };
      const snapshot = await call('POST', '/v1/snapshots', { json: { dataset_ids: [id], split, filter } });
      t.equal(snapshot.body.counts?.pairs ?? 0, expected.length, `snapshot ${what}`);
    }
  });

  t.test('a filter goes from page to page', async (t) => {
    const first = await call('GET', `${path}?preference=b&limit=1`);
    const next = await call('GET', `${path}?preference=b&limit=1&cursor=${first.body.next_cursor}`);
    t.same(ids([...first.body.items, ...next.body.items]), ['talk', 'plain']);
    t.match(await call('GET', `${path}?preference=a&limit=1&cursor=${first.body.next_cursor}`), {
      status: 422,
    });
  });

  t.test('a filter that is none', async (t) => {
    for (const [query, status, pointer] of [
      ['metadata={', 422, '/metadata'],
      ['metadata=[1]', 422, '/metadata'],
      ['metadata={"a":"\\u0000"}', 422, '/metadata/a'],
      ['external_ids=plain', 422, '/external_ids'],
      ['external_ids=[1]', 422, '/external_ids'],
      ['preference=c', 400, '/preference'],
      ['created_after=noon', 400, '/created_after'],
      ['has_edit=maybe', 400, '/has_edit'],
      ['metadata={}&metadata={}', 400, '/metadata'],
    ] as const) {
      for (const url of [`${path}?${query}`, `${path}/export?${query}`])
        t.match(await call('GET', url), { status, body: { errors: [{ pointer, in: 'query' }] } }, url);
    }
    const filter = { metadata: 'x' };
    const json = { dataset_id: id, editor: 'person', filter };
    t.match(await call('POST', '/v1/edit-requests', { json }), { status: 400 });
  });

  t.test('TRL preference rows: the edit is chosen, its original rejected', async (t) => {
    const { text } = await call('GET', `${path}/export?format=trl`);
    const turn = (content: string) => [{ role: 'assistant', content }];
    const edited = [
      { prompt: 'p', chosen: 'Opened in 1932 already.', rejected: 'Opened in 1936.' },
      { prompt: 'p', chosen: 'Opened in 1932.', rejected: 'Opened in 1936.' },
      { prompt: talk, chosen: turn('Opened in 1936 at last.'), rejected: turn('Opened in 1932.') },
    ];
    t.same(parsed(text), edited);
    const all = await call('GET', `${path}/export?format=trl&without_edit=preferred`);
    t.same(parsed(all.text), [
      ...edited,
      { prompt: 'q', chosen: 'Opened in 1936.', rejected: 'Opened in 1932.' },
    ]);
    const copy = (await call('POST', '/v1/datasets', { json: { name: 'copy' } })).body.id;
    const imported = await call('POST', `/v1/datasets/${copy}/pairs/import`, {
      body: all.text,
      headers: { 'content-type': 'application/x-ndjson' },
    });
    t.match(imported.body, { created: 4, rejected: 0 });
  });

  t.test('token labels, as a snapshot gives them', async (t) => {
    const split = { train: 1, validation: 0, test: 0, seed: 0 };
    const snapshot = (await call('POST', '/v1/snapshots', { json: { dataset_ids: [id], split } })).body.id;
    const content = ({ id: _, pair: __, split: ___, ...rest }: Record<string, unknown>) =>
      canonicalize(rest)!;
    const ofDataset = parsed((await call('GET', `${path}/export?format=labels&model=tiny`)).text);
    const ofSnapshot = parsed((await call('GET', `/v1/snapshots/${snapshot}/export?model=tiny`)).text);
    t.equal(ofDataset.length, 6, 'three edits, three decided pairs');
    t.same(ofDataset.map(content).sort(), ofSnapshot.map(content).sort());
    t.equal(ofDataset[0].split, undefined);
    const trl = (url: string) => call('GET', `${url}/export?format=trl&without_edit=preferred`);
    t.same(
      parsed((await trl(`/v1/snapshots/${snapshot}`)).text)
        .map(content)
        .sort(),
      parsed((await trl(path)).text)
        .map(content)
        .sort(),
    );
  });

  t.test('formats: error', async (t) => {
    for (const url of [path, `/v1/datasets/ds_1/pairs`]) {
      const missing = { status: 422, body: { errors: [{ pointer: '/model' }] } };
      t.match(await call('GET', `${url}/export?format=labels`), missing);
      t.match(await call('GET', `${url}/export?format=trl&model=tiny`), missing);
      t.match(await call('GET', `${url}/export?format=csv`), { status: 400 });
      t.match(await call('GET', `${url}/export?model=none`), { status: 404 });
    }
  });

  t.test('pages of an export are bounded in bytes, and every pair comes once', async (t) => {
    const big = (await call('POST', '/v1/datasets', { json: { name: 'big' } })).body.id;
    const rows = Array.from({ length: 12 }, (_, i) => ({
      external_id: `${i}`,
      prompt: `p${i}`,
      response_a: `${i}`.repeat(900_000 / (i > 9 ? 2 : 1)),
      response_b: 'b',
    }));
    for (const pair of rows) await call('POST', `/v1/datasets/${big}/pairs`, { json: { pairs: [pair] } });
    const exported = parsed((await call('GET', `/v1/datasets/${big}/pairs/export`)).text);
    t.same(
      exported.map(({ external_id, response_a }) => [external_id, response_a.length]),
      rows.map(({ external_id, response_a }) => [external_id, response_a.length]),
    );
  });
});
