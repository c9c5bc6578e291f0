// Rows a second of POST …/pairs/import, against psql's \copy of the same rows, ready as TSV (ids, hashes and all), into the
// same table with the same indexes. In turn, on an empty table each.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import pg from 'pg';
import { completePair } from '../../src/services/pair-rows.ts';
import { newPair } from '../../src/services/pairs.ts';
import { quantile } from '../../test/soak/trend.ts';
import type { Installation } from '../../test/support/installation.ts';
import { rows, writeLines } from './rows.ts';

const project = '00000000-0000-7000-8000-000000000000';
const atLeast = 0.45;

export interface Service {
  url: string;
  key: string;
}

/** POSTs a file and resolves to the answer. */
export async function post({ url, key }: Service, path: string, file: string, type = 'application/x-ndjson') {
  const sending = request(url + path, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': type },
  });
  createReadStream(file, { highWaterMark: 256 * 1024 }).pipe(sending);
  const [answer] = await once(sending, 'response');
  let text = '';
  for await (const chunk of answer.setEncoding('utf8')) text += chunk;
  if (answer.statusCode >= 300) throw new Error(`${path} answered ${answer.statusCode}: ${text}`);
  return JSON.parse(text);
}

export async function newDataset({ url, key }: Service): Promise<string> {
  const answer = await fetch(`${url}/v1/datasets`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ name: 'bench' }),
  });
  return ((await answer.json()) as { id: string }).id;
}

const escapes: Record<string, string> = { '\\': '\\\\', '\t': '\\t', '\n': '\\n', '\r': '\\r' };
const field = (value: string | null): string =>
  value === null ? '\\N' : value.replace(/[\\\t\n\r]/g, (character) => escapes[character]!);

const columns =
  'project_id, dataset_id, id, external_id, prompt, response_a, response_b, preference, metadata, identity_sha256, content_sha256';

function* tsv(count: number, datasetId: string): Generator<string> {
  for (const row of rows(count)) {
    const pair = newPair(completePair(row));
    const values = [
      project,
      datasetId,
      pair.id,
      pair.externalId,
      pair.prompt,
      pair.responseA,
      pair.responseB,
      pair.preference,
      pair.metadata,
      `\\x${pair.identitySha256}`,
      `\\x${pair.contentSha256}`,
    ];
    yield `${values.map(field).join('\t')}\n`;
  }
}

async function psql(url: string, command: string): Promise<void> {
  const child = spawn('psql', [url, '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-c', command], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const [code] = await once(child, 'exit');
  if (code !== 0) throw new Error(`psql ended with ${code}.`);
}

export async function measureSpeed(
  { folder, postgres }: Installation,
  service: Service,
  { count, rounds }: { count: number; rounds: number },
): Promise<string> {
  const dataset = await newDataset(service);
  const datasetId = dataset.slice(3).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
  const files = { ndjson: join(folder, 'rows.ndjson'), tsv: join(folder, 'rows.tsv') };
  const lines = function* () {
    for (const row of rows(count)) yield `${JSON.stringify(row)}\n`;
  };
  const bytes = await writeLines(files.ndjson, lines());
  await writeLines(files.tsv, tsv(count, datasetId));
  const superuser = new pg.Client({ connectionString: postgres.superuserUrl });
  await superuser.connect();
  const rates = { copy: [] as number[], import: [] as number[] };
  const timed = async (into: number[], work: () => Promise<void>): Promise<void> => {
    await superuser.query('truncate finegrain.pairs cascade');
    await superuser.query('checkpoint');
    const begun = performance.now();
    await work();
    into.push(count / ((performance.now() - begun) / 1000));
    const { rows: counted } = await superuser.query('select count(*)::int as pairs from finegrain.pairs');
    if (counted[0].pairs !== count) throw new Error(`${counted[0].pairs} of ${count} pairs were stored.`);
  };
  for (let round = 0; round <= rounds; round++) {
    await timed(rates.copy, () =>
      psql(postgres.superuserUrl, `\\copy finegrain.pairs (${columns}) from '${files.tsv}'`),
    );
    await timed(rates.import, async () => {
      await post(service, `/v1/datasets/${dataset}/pairs/import`, files.ndjson);
    });
    console.log(
      `round ${round}: \\copy ${rates.copy.at(-1)!.toFixed(0)}, import ${rates.import.at(-1)!.toFixed(0)} rows/s`,
    );
    if (round === 0) rates.copy.length = rates.import.length = 0; // to warm up
  }
  await superuser.query('truncate finegrain.pairs cascade');
  await superuser.end();
  const [copy, imported] = [quantile(rates.copy, 0.5), quantile(rates.import, 0.5)];
  const ratios = rates.import.map((rate, round) => rate / rates.copy[round]!);
  const ratio = quantile(ratios, 0.5);
  const number = (value: number) => Math.round(value).toLocaleString('en');
  return [
    '## Rows a second',
    `${number(count)} pairs of ${number(bytes / count)} bytes of NDJSON; ${rounds} rounds in turn after one to warm up, medians, an empty table each. Postgres with fsync, the service through loopback, psql through its address likewise; both into the table of the pairs with its four indexes.`,
    `| | rows/s |
| --- | --- |
| \`psql \\copy\` of ready TSV, ids and hashes made before | ${number(copy)} |
| \`POST /v1/datasets/{id}/pairs/import\` of NDJSON | ${number(imported)} |`,
    `- **${ratio >= atLeast ? 'reached' : 'missed'}**: at least ${atLeast * 100} % of \`\\copy\`: ${(ratio * 100).toFixed(0)} % (rounds: ${ratios.map((value) => `${(value * 100).toFixed(0)} %`).join(', ')})`,
  ].join('\n\n');
}
