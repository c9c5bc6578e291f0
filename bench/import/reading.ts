// What is asked of a large dataset: its stats, a filtered page, exports, and edits in bulk. Medians of a few, through HTTP.
import { once } from 'node:events';
import { request } from 'node:http';
import { join } from 'node:path';
import { quantile } from '../../test/soak/trend.ts';
import type { Installation } from '../../test/support/installation.ts';
import { rows, writeLines } from './rows.ts';
import { newDataset, post, type Service } from './speed.ts';

const times = 3;

/** Reads an answer to its end; its bytes. */
async function read({ url, key }: Service, path: string): Promise<number> {
  const sending = request(url + path, { headers: { authorization: `Bearer ${key}` } });
  sending.end();
  const [answer] = await once(sending, 'response');
  let bytes = 0;
  for await (const chunk of answer) bytes += chunk.length;
  if (answer.statusCode !== 200) throw new Error(`${path} answered ${answer.statusCode}.`);
  return bytes;
}

export async function measureReading(
  { folder }: Installation,
  service: Service,
  count: number,
): Promise<string> {
  const dataset = await newDataset(service);
  const path = `/v1/datasets/${dataset}`;
  const files = { pairs: join(folder, 'reading.ndjson'), edits: join(folder, 'edits.ndjson') };
  const pairLines = function* () {
    for (const row of rows(count)) yield `${JSON.stringify(row)}\n`;
  };
  const editCount = Math.floor(count / 4);
  const editLines = function* () {
    for (const { external_id, preference, response_a, response_b } of rows(editCount)) {
      const edited_response = (preference === 'a' ? response_b : response_a).replace(/\w+/, 'changed');
      yield `${JSON.stringify({ pair_external_id: external_id, edited_response, editor: { kind: 'program', name: 'bench' } })}\n`;
    }
  };
  await writeLines(files.pairs, pairLines());
  await writeLines(files.edits, editLines());
  await post(service, `${path}/pairs/import`, files.pairs);
  const begun = performance.now();
  await post(service, `/v1/edits/import?dataset_id=${dataset}`, files.edits);
  const editRate = editCount / ((performance.now() - begun) / 1000);
  const againBegun = performance.now();
  await post(service, `${path}/pairs/import`, files.pairs);
  const againRate = count / ((performance.now() - againBegun) / 1000);

  const figures: [string, string][] = [
    ['a page of 50 with `metadata` that every 679th pair has', '/pairs?metadata={"turn":3,"tags":["t5"]}'],
    ['a page of 50 with `has_edit` and `preference`', '/pairs?has_edit=true&preference=a'],
    ['a page of 50 with `metadata` that no pair has', '/pairs?metadata={"turn":9}'],
    ['`stats`', '/stats'],
    ['export as pairs', '/pairs/export'],
    ['export as TRL rows', '/pairs/export?format=trl&without_edit=preferred'],
  ];
  const measured: string[] = [];
  for (const [what, query] of figures) {
    const taken: number[] = [];
    for (let time = 0; time < times; time++) {
      const started = performance.now();
      await read(service, path + encodeURI(query));
      taken.push(performance.now() - started);
    }
    measured.push(`| ${what} | ${(quantile(taken, 0.5) / 1000).toFixed(2)} s |`);
  }
  const number = (value: number) => Math.round(value).toLocaleString('en');
  return [
    '## A dataset of that size',
    `${number(count)} pairs, ${number(editCount)} edits; medians of ${times}.`,
    `| | |
| --- | --- |
| import of edits, aligned and stored | ${number(editRate)} rows/s |
| import of the same pairs again, all unchanged | ${number(againRate)} rows/s |
${measured.join('\n')}`,
  ].join('\n\n');
}
