// Ten times as many clients as one core serves well, more than the queue takes, and requests of the largest size:
// throughput, latency of what is accepted, refusals, and how long the API's event loop was held.
import { quantile } from '../../test/soak/trend.ts';
import { type Finegrain, post, type Server } from './servers.ts';
import type { Draw } from './workloads.ts';

const seconds = 10;

export async function measureLoad(
  { url, eventLoopDelay }: Finegrain,
  server: Server,
  draw: Draw,
): Promise<string> {
  const rows: string[] = [];
  for (const [clients, size] of [
    [32, 1],
    [320, 1],
    [1280, 1],
    [2, 256],
  ] as const) {
    const { mixed } = await draw();
    await eventLoopDelay(); // from here on
    const latencies: number[] = [];
    let refused = 0;
    let next = 0;
    const cpu = server.cpuSeconds();
    const until = performance.now() + seconds * 1000;
    const client = async (): Promise<void> => {
      while (performance.now() < until) {
        const items = Array.from({ length: size }, () => mixed[next++ % mixed.length]!);
        const sent = performance.now();
        const { status, text } = await post(`${url}/v1/score`, { model: 'bench', items });
        if (status === 200) latencies.push(performance.now() - sent);
        else if (status !== 429) throw new Error(`${status} ${text}`);
        else {
          refused++;
          await new Promise((resolve) => setTimeout(resolve, 1000));
        }
      }
    };
    const started = performance.now();
    await Promise.all(Array.from({ length: clients }, client));
    const took = (performance.now() - started) / 1000;
    const [p50, p99] = [0.5, 0.99].map((share) => (quantile(latencies, share) / 1000).toFixed(2));
    const delay = (1000 * (await eventLoopDelay())).toFixed(0);
    const scored = size * latencies.length;
    const perCpuSecond = scored / (server.cpuSeconds() - cpu);
    rows.push(
      `| ${clients} | ${size} | ${(scored / took).toFixed(1)} | ${perCpuSecond.toFixed(1)} | ${p50} | ${p99} | ${refused} | ${delay} |`,
    );
    console.log(rows.at(-1));
  }
  return [
    `Clients that send one request after the other for ${seconds} s, those refused (429) after a second again:`,
    '',
    '| clients | items each | items/s | items per CPU-second | p50, s | p99, s | refused | event loop p99, ms |',
    '| --- | --- | --- | --- | --- | --- | --- | --- |',
    ...rows,
  ].join('\n');
}
