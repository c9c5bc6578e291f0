// What clients do all day, in proportion: reads, writes, imports, exports, scoring, editing work, mistakes of every class,
// and leaving in the middle. Each kind checks that it got the answer it should.
import { randomBytes, randomUUID } from 'node:crypto';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Client, Unexpected } from './client.ts';

/** What the kinds work on; made before the load begins. */
export interface World {
  /** of 2,000 pairs, which exports read */
  large: string;
  /** of 100 pairs, which snapshots freeze */
  small: string;
  pairs: string[];
  snapshot: string;
  demonstrations: string;
  /** a key that may read only */
  reader: string;
}

interface Kind {
  /** its share of the traffic */
  weight: number;
  run(client: Client, world: World): Promise<unknown>;
}

const pick = <T>(list: readonly T[]): T => list[Math.floor(Math.random() * list.length)]!;
const names = ['Anna', 'Bob', 'Gus', 'Carol', 'Dora'];
const topics = ['harbor', 'garden', 'concert', 'bridge'];
const prompt = (): string =>
  `Write a letter to ${pick(names)} about the ${pick(topics)} in a warm tone. Ask for two boxes, the ladder, the camera and the mirror.`;
const letter = (): string =>
  `Dear ${pick(names)}, this ${pick(['', 'damn '])}letter is about the ${pick(topics)}. Please bring two boxes and the ladder.`;
const pairRow = () => ({
  external_id: randomUUID(),
  prompt: prompt(),
  response_a: letter(),
  response_b: `${letter()} Damn.`,
  preference: 'a',
});
const ndjson = (rows: unknown[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join('');
const rowsHeader = { 'content-type': 'application/x-ndjson' };
const once = () => ({ 'idempotency-key': randomUUID() });

const newDataset = async (client: Client): Promise<string> =>
  (await client.expect([201], 'POST', '/v1/datasets', { json: { name: 'soak' }, headers: once() })).body.id;

const importRows = (client: Client, dataset: string, rows: unknown[]) =>
  client.expect([200], 'POST', `/v1/datasets/${dataset}/pairs/import`, {
    body: ndjson(rows),
    headers: rowsHeader,
  });

export async function makeWorld(client: Client): Promise<World> {
  const [large, small] = [await newDataset(client), await newDataset(client)];
  await importRows(client, large, Array.from({ length: 2000 }, pairRow));
  await importRows(client, small, Array.from({ length: 100 }, pairRow));
  const { items } = (await client.expect([200], 'GET', `/v1/datasets/${large}/pairs?limit=500`)).body;
  const json = { dataset_ids: [small], split: { train: 1, validation: 0, test: 0, seed: 0 } };
  const snapshot = await client.expect([201], 'POST', '/v1/snapshots', { json });
  const body = ndjson([{ prompt: 'Greet Anna.', response: 'Dear Anna.' }]);
  const artifact = await client.expect([201], 'POST', '/v1/artifacts', { body, headers: rowsHeader });
  const reader = await client.expect([201], 'POST', '/v1/keys', {
    json: { name: 'reader', scopes: ['read'] },
  });
  return {
    large,
    small,
    pairs: items.map(({ id }: { id: string }) => id),
    snapshot: snapshot.body.id,
    demonstrations: artifact.body.digest,
    reader: reader.body.key,
  };
}

const scoring = (count: number) => ({ prompt: prompt(), responses: Array.from({ length: count }, letter) });

export const kinds: Record<string, Kind> = {
  'read pages': {
    weight: 20,
    run: (client, { large }) =>
      client.expect(
        [200],
        'GET',
        pick([
          '/v1/datasets?limit=50',
          `/v1/datasets/${large}`,
          `/v1/datasets/${large}/pairs?limit=${pick([10, 100, 500])}`,
          `/v1/datasets/${large}/stats`,
          '/v1/edits?limit=50',
          '/v1/edit-tasks?limit=20',
          '/v1/runs?limit=20',
          '/v1/snapshots?limit=20',
          '/v1/models',
          '/v1/aliases',
          '/v1/keys',
        ]),
      ),
  },
  'read one pair': {
    weight: 20,
    run: (client, { pairs, reader }) =>
      client.expect([200], 'GET', `/v1/pairs/${pick(pairs)}`, { key: reader }),
  },
  health: { weight: 4, run: (client) => client.expect([200], 'GET', pick(['/healthz', '/readyz'])) },
  document: { weight: 1, run: (client) => client.expect([200], 'GET', '/openapi.json') },
  'write a batch, twice': {
    weight: 10,
    async run(client, { small }) {
      const sent = { json: { pairs: Array.from({ length: 10 }, pairRow) }, headers: once() };
      const path = `/v1/datasets/${await scratchDataset(client, small)}/pairs`;
      await client.expect([201], 'POST', path, sent);
      await client.expect([201], 'POST', path, sent); // repeated, it adds nothing
    },
  },
  'change a preference': {
    weight: 6,
    async run(client, { pairs }) {
      const path = `/v1/pairs/${pick(pairs)}`;
      const { headers } = await client.expect([200], 'GET', path);
      const condition: Record<string, string> = headers.etag ? { 'if-match': String(headers.etag) } : {};
      const sent = { json: { preference: 'a' }, headers: condition };
      await client.expect([200, 412], 'PATCH', path, sent); // 412: another client was faster
    },
  },
  'submit edits': {
    weight: 8,
    run: (client, { pairs }) =>
      client.expect([201], 'POST', '/v1/edits', {
        json: {
          edits: Array.from({ length: 5 }, () => ({
            pair_id: pick(pairs),
            side: 'b',
            edited_response: letter(),
            editor: { kind: 'program', name: 'soak' },
          })),
        },
        headers: once(),
      }),
  },
  'preview an edit': {
    weight: 8,
    run: (client) =>
      client.expect([200], 'POST', '/v1/edits/preview', { json: { original: letter(), edited: letter() } }),
  },
  'import, some rows wrong': {
    weight: 3,
    async run(client, { small }) {
      const rows = Array.from({ length: 300 }, pairRow);
      const dataset = await scratchDataset(client, small);
      const { body } = await importRows(client, dataset, [...rows, { prompt: 1 }, ...rows.slice(0, 50)]);
      if (body.created !== 300 || body.unchanged !== 50 || body.rejected !== 1)
        throw new Unexpected(`an import answered ${JSON.stringify(body)}`);
    },
  },
  'leave an import': {
    weight: 2,
    async run(client, { small }) {
      const path = `/v1/datasets/${await scratchDataset(client, small)}/pairs/import`;
      const rows = async function* () {
        for (let i = 0; i < 20; i++) {
          yield Buffer.from(ndjson(Array.from({ length: 20 }, pairRow)));
          await sleep(10);
        }
      };
      await client.leave(
        'POST',
        path,
        { ms: 20 + Math.random() * 100 },
        { body: rows() as never, headers: rowsHeader },
      );
    },
  },
  export: {
    weight: 3,
    async run(client, { large }) {
      const { text } = await client.expect([200], 'GET', `/v1/datasets/${large}/pairs/export`);
      const lines = text.split('\n').length - 1;
      if (lines !== 2000) throw new Unexpected(`an export of 2,000 pairs had ${lines}`);
    },
  },
  'leave an export': {
    weight: 3,
    run: (client, { large }) => client.leave('GET', `/v1/datasets/${large}/pairs/export`, { bytes: 50_000 }),
  },
  score: {
    weight: 15,
    async run(client) {
      const json = scoring(pick([1, 4, 16]));
      const { status, body } = await client.expect([200, 429], 'POST', '/v1/score', { json });
      if (status === 200 && body.results.some((result: { status: string }) => result.status !== 'ok'))
        throw new Unexpected(`a score failed: ${JSON.stringify(body.results).slice(0, 300)}`);
    },
  },
  compare: {
    weight: 3,
    run: (client) =>
      client.expect([200, 429], 'POST', '/v1/score/compare', {
        json: { prompt: prompt(), original: letter(), edited: letter() },
      }),
  },
  'leave a score': {
    weight: 3,
    run: (client) => client.leave('POST', '/v1/score', { ms: 5 }, { json: scoring(64) }),
  },
  'edit work': {
    weight: 8,
    async run(client) {
      const json = { editor: { kind: 'program', name: `editor ${pick(names)}` }, limit: 3 };
      const { body } = await client.expect([200], 'POST', '/v1/edit-tasks/claim', { json });
      if (body.items.length === 0) return offerEditWork(client);
      for (const { id, lease_token } of body.items) {
        const act = (action: string, more: object = {}) =>
          client.expect([200, 201], 'POST', `/v1/edit-tasks/${id}/${action}`, {
            json: { lease_token, ...more },
          });
        await act('heartbeat');
        const action = pick(['submit', 'submit', 'submit', 'release', 'skip']);
        await act(action, action === 'submit' ? { edited_response: letter() } : {});
      }
    },
  },
  snapshot: {
    weight: 1,
    async run(client, { small, snapshot }) {
      const json = { dataset_ids: [small], split: { train: 0.8, validation: 0.1, test: 0.1, seed: 1 } };
      await client.expect([201], 'POST', '/v1/snapshots', { json });
      await client.expect([200], 'GET', `/v1/snapshots/${snapshot}/export`);
    },
  },
  'a run, cancelled': {
    weight: 2,
    async run(client, { demonstrations }) {
      const spec = { base_model: { scratch: {} }, data: { demonstrations } };
      const queued = await client.expect([202], 'POST', '/v1/runs', { json: { kind: 'sft', spec } });
      await client.expect([200], 'POST', `/v1/runs/${queued.body.id}/cancel`);
      await client.expect([200], 'GET', `/v1/runs/${queued.body.id}/events`);
    },
  },
  'win rate': {
    weight: 3,
    run: (client) =>
      client.expect([200], 'POST', '/v1/win-rates', {
        json: {
          judgements: Array.from({ length: 300 }, (_, i) => ({
            item_id: `i${i % 200}`,
            outcome: pick([0, 0.5, 1]),
          })),
        },
      }),
  },
  artifact: {
    weight: 2,
    async run(client) {
      const headers = { 'content-type': 'application/octet-stream' };
      const { body } = await client.expect([201], 'POST', '/v1/artifacts', {
        body: randomBytes(100_000),
        headers,
      });
      await client.leave('GET', `/v1/artifacts/${body.digest}`, { bytes: pick([1, 1e6]) });
    },
  },
  mistakes: {
    weight: 15,
    run: (client, world) => pick(mistakes)(client, world),
  },
  'no HTTP': {
    weight: 2,
    async run(client) {
      const { hostname, port } = new URL(client.url);
      const socket = connect(Number(port), hostname);
      socket.write('NOT HTTP\r\n\r\n');
      const answer = await text(socket);
      if (!answer.startsWith('HTTP/1.1 400'))
        throw new Unexpected(`a line that is no HTTP got ${answer.slice(0, 80)}`);
    },
  },
};

/** One of each class of what a client can do wrong. */
const mistakes: ((client: Client, world: World) => Promise<unknown>)[] = [
  (client) =>
    client.expect([400], 'POST', '/v1/datasets', {
      body: '{',
      headers: { 'content-type': 'application/json' },
    }),
  (client) => client.expect([400, 422], 'POST', '/v1/datasets', { json: { nam: 'x' } }),
  (client) => client.expect([400, 422], 'GET', '/v1/datasets?limit=0'),
  (client) => client.expect([401], 'GET', '/v1/datasets', { key: null }),
  (client) => client.expect([401], 'GET', '/v1/datasets', { key: 'fg_nobody' }),
  (client, { reader }) => client.expect([403], 'POST', '/v1/datasets', { json: { name: 'x' }, key: reader }),
  (client) => client.expect([404], 'GET', '/v1/nothing'),
  (client) => client.expect([404], 'GET', `/v1/pairs/pair_${'0'.repeat(32)}`),
  (client) => client.expect([405], 'PUT', '/v1/datasets', { json: {} }),
  (client) =>
    client.expect([415], 'POST', '/v1/datasets', { body: 'x', headers: { 'content-type': 'text/csv' } }),
  (client, { small }) =>
    client.expect([422], 'POST', '/v1/snapshots', {
      json: { dataset_ids: [small], split: { train: 0.5, validation: 0, test: 0, seed: 0 } },
    }),
];

// what is written goes into datasets of bounded size, so that later hours cost what the first ones do
const pairsPerScratch = 5_000;
let scratch = { dataset: null as Promise<string> | null, writes: 0 };

function scratchDataset(client: Client, fallback: string): Promise<string> {
  scratch.writes += 1;
  if (scratch.dataset === null || scratch.writes * 300 > pairsPerScratch)
    scratch = { dataset: newDataset(client).catch(() => fallback), writes: 0 };
  return scratch.dataset!;
}

/** More tasks, on a dataset of their own. */
async function offerEditWork(client: Client): Promise<void> {
  const dataset = await newDataset(client);
  await importRows(client, dataset, Array.from({ length: 50 }, pairRow));
  const json = { dataset_id: dataset, editor: 'program', redundancy: 2 };
  await client.expect([202], 'POST', '/v1/edit-requests', { json, headers: once() });
}
