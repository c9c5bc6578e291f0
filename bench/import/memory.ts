// What an import of a gigabyte needs of memory, and what it leaves to others: the resident memory of the API over idle, and how
// long GET /healthz takes meanwhile. The rows are made as they are sent.
import { once } from 'node:events';
import { request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { residentMegabytes } from '../../test/soak/gauge.ts';
import { quantile } from '../../test/soak/trend.ts';
import { rows } from './rows.ts';
import { newDataset, type Service } from './speed.ts';

const mostMegabytes = 200;

/** One batch of lines, again and again, with other ids: what makes rows must not be what is measured. */
function* lines(bytes: number): Generator<Buffer> {
  const templates = [...rows(1000, 8)].map((row) =>
    JSON.stringify(row).replace(/"conversation-\d+"/, '"ID"'),
  );
  let made = 0;
  for (let round = 0; made < bytes; round++) {
    const text = templates.map((row, index) => `${row.replace('"ID"', `"r${round}-${index}"`)}\n`).join('');
    const chunk = Buffer.from(text);
    made += chunk.length;
    yield chunk;
  }
}

export async function measureMemory(service: Service, pid: number, gigabytes: number): Promise<string> {
  const dataset = await newDataset(service);
  await sleep(3000);
  const idle = residentMegabytes(pid);
  let highest = idle;
  const waits: number[] = [];
  let running = true;
  const sampling = (async () => {
    while (running) {
      const begun = performance.now();
      await (await fetch(`${service.url}/healthz`)).arrayBuffer();
      waits.push(performance.now() - begun);
      highest = Math.max(highest, residentMegabytes(pid));
      await sleep(50);
    }
  })();
  const sending = request(`${service.url}/v1/datasets/${dataset}/pairs/import`, {
    method: 'POST',
    headers: { authorization: `Bearer ${service.key}`, 'content-type': 'application/x-ndjson' },
  });
  const begun = performance.now();
  const answered = once(sending, 'response');
  let sent = 0;
  for (const chunk of lines(gigabytes * 1e9)) {
    sent += chunk.length;
    if (!sending.write(chunk)) await once(sending, 'drain');
  }
  sending.end();
  const [answer] = await answered;
  let text = '';
  for await (const chunk of answer.setEncoding('utf8')) text += chunk;
  const seconds = (performance.now() - begun) / 1000;
  running = false;
  await sampling;
  const { created, rejected } = JSON.parse(text);
  if (rejected > 0) throw new Error(`${rejected} rows were rejected: ${text}`);
  const over = highest - idle;
  return [
    '## A gigabyte',
    `${(sent / 1e9).toFixed(2)} GB, ${created.toLocaleString('en')} pairs, in ${seconds.toFixed(0)} s; \`GET /healthz\` every 50 ms meanwhile.`,
    `| | |
| --- | --- |
| resident memory of the API, idle → highest | ${idle.toFixed(0)} MB → ${highest.toFixed(0)} MB |
| \`GET /healthz\`, p50, p99, max | ${[0.5, 0.99, 1].map((share) => `${quantile(waits, share).toFixed(0)} ms`).join(', ')} |`,
    `- **${over <= mostMegabytes ? 'reached' : 'missed'}**: at most ${mostMegabytes} MB over idle: ${over.toFixed(0)} MB`,
  ].join('\n\n');
}
