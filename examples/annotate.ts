// An annotation pipeline of somebody else's: it knows the service's HTTP API and nothing more. It reads the pairs of a
// dataset, lets simulated annotators edit the less-preferred response as little as possible, and posts the edits.
//
//   FINEGRAIN_URL=… FINEGRAIN_API_KEY=… npx tsx examples/annotate.ts DATASET_ID [SEED]
import { createClient } from './client.ts';
import { type EditRow, editRow, type PairRow } from './world/data.ts';

const batchSize = 500;

async function main(datasetId: string, seed: number): Promise<void> {
  const { request } = createClient(environment('FINEGRAIN_URL'), environment('FINEGRAIN_API_KEY'));
  const { pairs } = await request('GET', `/v1/datasets/${datasetId}/stats`);
  let batch: (EditRow & { dataset_id: string })[] = [];
  let seen = 0;
  let edited = 0;
  const submit = async (): Promise<void> => {
    if (batch.length > 0) await request('POST', '/v1/edits', { edits: batch });
    edited += batch.length;
    batch = [];
    process.stdout.write(`${JSON.stringify({ seen, edited, pairs })}\n`); // progress, for whoever started this
  };
  for (let cursor: string | null = ''; cursor !== null; ) {
    const page: { items: PairRow[]; next_cursor: string | null } = await request(
      'GET',
      `/v1/datasets/${datasetId}/pairs?limit=500${cursor === '' ? '' : `&cursor=${cursor}`}`,
    );
    for (const pair of page.items) {
      seen++;
      const edit = editRow(seed, pair);
      if (edit) batch.push({ dataset_id: datasetId, ...edit });
      if (batch.length === batchSize) await submit();
    }
    cursor = page.next_cursor;
  }
  await submit();
}

function environment(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`Set ${name}.`);
  return value;
}

const [datasetId, seed = '0'] = process.argv.slice(2);
if (datasetId === undefined) {
  process.stderr.write('usage: annotate.ts DATASET_ID [SEED]\n');
  process.exitCode = 2;
} else {
  main(datasetId, Number(seed)).catch((error: Error) => {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  });
}
