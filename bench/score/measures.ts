// How works are measured: in turns, each server's figure beside the others' of the same round.
import type { ScoreItem } from '../../src/services/scoring.ts';
import { median } from '../../test/soak/trend.ts';
import type { Server } from './servers.ts';
import type { Draw, Workloads } from './workloads.ts';

/** What one server did with one work. */
export interface Measure {
  /** of each request, milliseconds */
  latencies: number[];
  items: number;
  seconds: number;
  cpu: number;
}

export async function measure(server: Server, requests: ScoreItem[][], clients: number): Promise<Measure> {
  const left = [...requests];
  const latencies: number[] = [];
  const cpu = server.cpuSeconds();
  const started = performance.now();
  const client = async (): Promise<void> => {
    for (let items = left.shift(); items; items = left.shift()) {
      const sent = performance.now();
      await server.score(items);
      latencies.push(performance.now() - sent);
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
  return {
    latencies,
    items: requests.reduce((sum, items) => sum + items.length, 0),
    seconds: (performance.now() - started) / 1000,
    cpu: server.cpuSeconds() - cpu,
  };
}

export interface Work {
  name: string;
  clients: number;
  requests(workloads: Workloads): ScoreItem[][];
  /** all of it was scored once before */
  warm?: boolean;
  /** higher is better */
  figure(measure: Measure): number;
  unit: string;
}

const alone = (items: ScoreItem[]): ScoreItem[][] => items.map((item) => [item]);
const perSecond = ({ items, seconds }: Measure): number => items / seconds;

export const single: Work = {
  name: 'single request, 60 + 60 tokens, 1 / p50',
  clients: 1,
  requests: ({ short }) => alone(short),
  figure: ({ latencies }) => 1000 / median(latencies),
  unit: 'requests/s',
};

export const mixed: Work = {
  name: '32 clients, mixed 20–512 tokens, items per CPU-second',
  clients: 32,
  requests: ({ mixed }) => alone(mixed),
  figure: ({ items, cpu }) => items / cpu,
  unit: 'items/CPU-s',
};

export const bulk: Work = {
  name: 'one request of 256 items, peer with length-sorted batches',
  clients: 1,
  requests: ({ mixed }) => [mixed],
  figure: perSecond,
  unit: 'items/s',
};

export const bestOf: Work = {
  name: 'best-of-16, prompt 300, responses 60, cold prefix',
  clients: 1,
  requests: ({ bestOf }) => bestOf,
  figure: perSecond,
  unit: 'items/s',
};

export const warmBestOf: Work = {
  ...bestOf,
  name: 'best-of-16, the same prompts once more (warm prefix)',
  warm: true,
};

/** Figures by server, round by round, the servers in turns. */
export async function inTurns(
  work: Work,
  servers: readonly Server[],
  draw: Draw,
  rounds: number,
): Promise<number[][]> {
  const figures = servers.map((): number[] => []);
  for (let round = 0; round < rounds; round++) {
    const requests = work.requests(await draw());
    for (const [index, server] of servers.entries()) {
      if (work.warm) await measure(server, requests, work.clients);
      figures[index]!.push(work.figure(await measure(server, requests, work.clients)));
    }
  }
  return figures;
}

/** Median of the ratios of each round. */
export const ratio = (a: number[], b: number[]): number =>
  median(a.map((figure, round) => figure / b[round]!));
