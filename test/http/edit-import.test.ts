import t from 'tap';
import { startTestServer, type TestServer } from '../support/server.ts';

const ndjson = { 'content-type': 'application/x-ndjson' };
const editor = { kind: 'person', name: 'ann' };
const lines = (rows: unknown[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join('');
const parsed = (text: string) =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));

/** Ten pairs `e0`… and an undecided one. */
async function fill(server: TestServer, policy = {}): Promise<string> {
  const { body } = await server.call('POST', '/v1/datasets', {
    json: { name: 'edits', edit_policy: policy },
  });
  const pairs = Array.from({ length: 10 }, (_, i) => ({
    external_id: `e${i}`,
    prompt: `p${i}`,
    response_a: `The good answer number ${i}`,
    response_b: `The bad answer number ${i}`,
    preference: 'a',
  }));
  const open = { external_id: 'open', prompt: 'p', response_a: 'one two', response_b: 'three four' };
  await server.call('POST', `/v1/datasets/${body.id}/pairs`, { json: { pairs: [...pairs, open] } });
  return body.id;
}

const edit = (i: number, text = `The fine answer number ${i}`) => ({
  pair_external_id: `e${i}`,
  edited_response: text,
  editor,
});

t.test('import and export of edits', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const dataset = await fill(server);
  const post = (rows: unknown[], query = `?dataset_id=${dataset}`) =>
    call('POST', `/v1/edits/import${query}`, { body: lines(rows), headers: ndjson });
  const statuses = async (id: string) =>
    (await call('GET', `/v1/edits?dataset_id=${id}&limit=500`)).body.items.map(
      ({ status }: { status: string }) => status,
    );

  t.test('good rows are kept, bad ones reported by line; a repeat adds nothing', async (t) => {
    const { body } = await call('GET', `/v1/datasets/${dataset}/pairs?limit=1`);
    const rows = [
      edit(0),
      { ...edit(1), dataset_id: dataset, comment: null, side: null, prompt_version: 'minimal-edit/1' },
      { pair_id: body.items[0].id, edited_response: 'The nice answer number 0', editor },
      edit(0),
      { ...edit(2), pair_external_id: 'nobody' },
      { ...edit(2), dataset_id: 'ds_1' },
      { pair_id: 'pair_1', edited_response: 'x', editor },
      { edited_response: 'x', editor },
      { pair_external_id: 'open', edited_response: 'one too', editor },
      { pair_external_id: 'open', edited_response: 'one too', side: 'a', editor },
      { ...edit(3), editor: { kind: 'robot', name: 'r' } },
      { ...edit(3), source: 'web' },
      { ...edit(3), side: 'a', edited_response: 'The better answer number 3' },
      edit(4, 'The bad answer number 4'),
      { ...edit(5), edited_response: 5 },
    ];
    const first = await post(rows);
    t.match(first, { status: 200, body: { received: 15, created: 6, unchanged: 1, rejected: 8 } });
    t.match(first.body.errors, [
      { line: 5, code: 'not_found', pointer: '/pair_external_id' },
      { line: 6, code: 'not_found', pointer: '/dataset_id' },
      { line: 7, code: 'not_found', pointer: '/pair_id' },
      { line: 8, code: 'invalid_row', pointer: '' },
      { line: 9, code: 'invalid_row', pointer: '/side' },
      { line: 11, code: 'invalid_row', pointer: '/editor/kind' },
      { line: 12, code: 'invalid_row', pointer: '/source' },
      { line: 15, code: 'invalid_row', pointer: '/edited_response' },
    ]);
    t.same(await statuses(dataset), ['accepted', 'accepted', 'accepted', 'accepted', 'stale', 'unchanged']);
    t.match((await post(rows)).body, { created: 0, unchanged: 7, rejected: 8 });
    t.match((await post([{ ...edit(0), editor: { kind: 'llm', name: 'ann' } }])).body, { created: 1 });
  });

  t.test('two imports of the same at the same time add it once', async (t) => {
    const rows = [6, 7, 8, 9].map((i) => edit(i));
    const answers = await Promise.all([post(rows), post(rows.toReversed()), post(rows)]);
    t.equal(
      answers.reduce((sum, { body }) => sum + body.created, 0),
      4,
    );
  });

  t.test('an export goes back in, adding nothing, and fills a copy of the pairs', async (t) => {
    const { body } = await call('GET', `/v1/edits?dataset_id=${dataset}&limit=1`);
    const reviewed = `/v1/edits/${body.items[0].id}/decision`;
    await call('POST', reviewed, { json: { decision: 'reject', reviewer: 'r' } });
    const exported = await call('GET', `/v1/edits/export?dataset_id=${dataset}`);
    t.equal(exported.headers.get('content-type'), 'application/x-ndjson');
    const rows = parsed(exported.text);
    t.same(
      rows.map(({ id }) => id),
      (await call('GET', `/v1/edits?dataset_id=${dataset}&limit=500`)).body.items.map(
        ({ id }: { id: string }) => id,
      ),
    );
    t.match(await post(rows, ''), { body: { created: 0, unchanged: rows.length, rejected: 0 } });

    const copy = await fill(server);
    t.match(await post(rows, `?dataset_id=${copy}`), { body: { created: rows.length, rejected: 0 } });
    t.same(await statuses(copy), await statuses(dataset), 'what a reviewer rejected stays out');
    const content = ({ id: _, pair_id: __, created_at: ___, ...rest }: Record<string, unknown>) => rest;
    t.same(
      parsed((await call('GET', `/v1/edits/export?dataset_id=${copy}`)).text).map(content),
      rows.map(content),
    );
    const accepted = await call('GET', `/v1/edits/export?dataset_id=${dataset}&status=rejected`);
    t.equal(parsed(accepted.text).length, 1);
    const whole = (await call('GET', `/v1/edits?dataset_id=${dataset}&limit=500`)).body.items;
    t.match(
      await post(whole, ''),
      { body: { created: 0, unchanged: whole.length } },
      'as the list gives them',
    );
  });

  t.test('what the policy of the dataset refuses is a bad row', async (t) => {
    const strict = await fill(server, { max_changed_fraction: 0.3, on_excess: 'refuse' });
    const { body } = await post([edit(0), edit(1, 'Something else')], `?dataset_id=${strict}`);
    t.match(body, { created: 1, rejected: 1 });
    t.match(body.errors, [{ line: 2, code: 'edit_refused', pointer: '/edited_response' }]);
  });

  t.test('error', async (t) => {
    t.match(await call('POST', '/v1/edits/import'), { status: 400, body: { detail: /send NDJSON/ } });
    t.match(await post([edit(0)], '?dataset_id=ds_1'), { status: 404 });
    t.match(await call('POST', '/v1/edits/import', { json: {} }), { status: 415 });
    t.match(await call('GET', '/v1/edits/export'), { status: 400 });
    t.match(await call('GET', '/v1/edits/export?dataset_id=ds_1'), { status: 404 });
  });

  t.test('security', async (t) => {
    const key = await server.otherProjectKey();
    const send = (rows: unknown[]) =>
      call('POST', '/v1/edits/import', { body: lines(rows), headers: ndjson, key });
    const { body } = await call('GET', `/v1/datasets/${dataset}/pairs?limit=1`);
    const { errors } = (
      await send([
        { pair_id: body.items[0].id, edited_response: 'x', editor },
        { ...edit(0), dataset_id: dataset },
      ])
    ).body;
    t.match(errors, [
      { code: 'not_found', pointer: '/pair_id' },
      { code: 'not_found', pointer: '/dataset_id' },
    ]);
    t.match(await call('GET', `/v1/edits/export?dataset_id=${dataset}`, { key }), { status: 404 });
  });
});
