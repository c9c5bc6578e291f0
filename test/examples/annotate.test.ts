// The annotators of the demo, as separate processes over HTTP.
import t from 'tap';
import { createClient } from '../../examples/client.ts';
import { annotateAll } from '../../examples/demo/annotators.ts';
import type { StageProgress } from '../../examples/demo/terminal.ts';
import { editRow, pairRows } from '../../examples/world/data.ts';
import { startTestServer } from '../support/server.ts';

const seed = 3;

t.test('three annotators edit a dataset: what they do does not depend on who claimed what', async (t) => {
  const server = await startTestServer(t);
  const service = { url: server.url, key: server.bootstrapKey };
  const { request, upload } = createClient(service.url, service.key);
  const dataset = (await request('POST', '/v1/datasets', { name: 'world' })).id;
  const pairs = pairRows(seed, 200);
  await upload(`/v1/datasets/${dataset}/pairs/import`, pairs);
  const reports: StageProgress[] = [];
  const report = (progress: StageProgress): void => void reports.push(progress);
  const result = await annotateAll(service, dataset, seed, report, new AbortController().signal);

  const expected = pairs.flatMap((pair) => editRow(seed, pair) ?? []);
  t.ok(expected.length < pairs.length, 'there is something to skip');
  t.same(result, { edited: expected.length, pairs: pairs.length });
  t.equal(reports.at(-1)?.fraction, 1);
  const { items: edits } = await request('GET', `/v1/edits?dataset_id=${dataset}&limit=500`);
  const { items: stored } = await request('GET', `/v1/datasets/${dataset}/pairs?limit=500`);
  const ids = new Map(stored.map((pair: { external_id: string; id: string }) => [pair.external_id, pair.id]));
  const content = (pair: string, side: string, text: string) => `${pair} ${side} ${text}`;
  t.same(
    edits
      .map((edit: Record<string, string>) => content(edit.pair_id!, edit.side!, edit.edited_response!))
      .sort(),
    expected
      .map(({ pair_external_id, side, edited_response }) =>
        content(ids.get(pair_external_id) as string, side, edited_response),
      )
      .sort(),
  );
  const [listed] = (await request('GET', `/v1/edit-requests?dataset_id=${dataset}`)).items;
  const { progress, editors } = await request('GET', `/v1/edit-requests/${listed.id}`);
  const skipped = pairs.length - expected.length;
  t.match(progress, {
    submitted: expected.length,
    cancelled: skipped,
    skipped: 3 * skipped,
    open: 0,
    leased: 0,
  });
  t.same(editors.map(({ name }: { name: string }) => name).sort(), [
    'annotator-1',
    'annotator-2',
    'annotator-3',
  ]);
});

t.test('annotators that are stopped leave nothing claimable', async (t) => {
  const server = await startTestServer(t);
  const service = { url: server.url, key: server.bootstrapKey };
  const { request, upload } = createClient(service.url, service.key);
  const dataset = (await request('POST', '/v1/datasets', { name: 'world' })).id;
  await upload(`/v1/datasets/${dataset}/pairs/import`, pairRows(seed, 2000));
  const interrupt = new AbortController();
  const stop = (): void => interrupt.abort();
  await t.rejects(annotateAll(service, dataset, seed, stop, interrupt.signal), { name: 'AbortError' });
  const [listed] = (await request('GET', `/v1/edit-requests?dataset_id=${dataset}`)).items;
  t.equal(listed.state, 'cancelled');
});
