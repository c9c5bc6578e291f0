import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { startApiProcess } from '../support/api-process.ts';
import { createTestDatabase } from '../support/database.ts';

t.setTimeout(180_000);

const key = 'fg_the-key-of-the-killed-service';
const total = 6000;
const row = (i: number): string =>
  `${JSON.stringify({ external_id: `r${i}`, prompt: `row ${i}`, response_a: 'a', response_b: 'b' })}\n`;

t.test(
  'an import whose API is killed keeps its committed batches; a repeat adds what is missing',
  async (t) => {
    const dataDir = await mkdtemp(join(tmpdir(), 'finegrain-test-'));
    t.teardown(() => rm(dataDir, { recursive: true, force: true }));
    const database = await createTestDatabase(t);
    const environment = {
      DATABASE_URL: database.urlOf('finegrain_api'),
      FINEGRAIN_API_KEY: key,
      FINEGRAIN_DATA_DIR: dataDir,
    };
    const call = async (url: string, path: string, init: RequestInit = {}) => {
      const headers = { authorization: `Bearer ${key}`, ...init.headers };
      // biome-ignore lint/suspicious/noExplicitAny: answers are as the document says
      return (await (await fetch(url + path, { ...init, headers })).json()) as any;
    };
    const send = (url: string, path: string, body: string | ReadableStream) =>
      call(url, `${path}/import`, {
        method: 'POST',
        headers: { 'content-type': 'application/x-ndjson' },
        body,
        duplex: 'half',
      } as RequestInit);

    const first = await startApiProcess(t, environment);
    const { id } = await call(first.url, '/v1/datasets', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"name":"killed"}',
    });
    const path = `/v1/datasets/${id}/pairs`;
    let sent = 0;
    const rows = new ReadableStream({
      async pull(stream) {
        const chunk = Array.from({ length: 500 }, (_, i) => row(sent + i)).join('');
        sent += 500;
        if (sent > total) return stream.close();
        stream.enqueue(new TextEncoder().encode(chunk));
        await sleep(5); // so that it does not end before it is killed
      },
    });
    const importing = t.rejects(send(first.url, path, rows));
    while ((await call(first.url, `${path}?limit=1`)).items.length === 0) await sleep(10);
    await first.kill('SIGKILL');
    await importing;

    const second = await startApiProcess(t, environment);
    const stored = (await call(second.url, `/v1/datasets/${id}/stats`)).pairs;
    t.ok(stored > 0 && stored < total && stored % 1000 === 0, `${stored} rows in whole batches`);
    const all = Array.from({ length: total }, (_, i) => row(i)).join('');
    t.match(await send(second.url, path, all), {
      received: total,
      created: total - stored,
      unchanged: stored,
      rejected: 0,
    });
  },
);
