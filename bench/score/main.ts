// `npm run bench:score`: token scoring over HTTP against a straightforward server with FastAPI and transformers, on one
// core, in turns, and against onnxruntime itself on the same tokens. Writes its part of bench/RESULTS.md. Linux only.
//
//   npm run bench:score [-- --rounds N] [--hidden N --layers N --heads N]
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { Tokenizer } from 'tokenizers';
import type { ScoreItem } from '../../src/services/scoring.ts';
import { onInstallation } from '../installation.ts';
import { describeMachine, writePart } from '../report.ts';
import { onCores } from './processes.ts';
import { type Peer, registerFolder, type Scores, type Server, startFinegrain, startPeer } from './servers.ts';
import { makeWorkloads, type Workloads } from './workloads.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    hidden: { type: 'string', default: '384' },
    layers: { type: 'string', default: '6' },
    heads: { type: 'string', default: '6' },
  },
});
const rounds = Number(values.rounds);
const dataDir = resolve(process.env.FINEGRAIN_DATA_DIR || '.finegrain');
const python = process.env.FINEGRAIN_PYTHON || join(dataDir, 'python', 'bin', 'python');
const packages = join(dataDir, 'score-peer-python', 'lib', pythonName(), 'site-packages');
const servingCore = '0';
const clientCore = '1';

function pythonName(): string {
  const version = 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}")';
  return spawnSync(python, ['-c', version], { encoding: 'utf8' }).stdout.trim();
}

async function corpus(): Promise<string> {
  const texts: string[] = [];
  for (const folder of ['docs', 'src']) {
    const names = (await readdir(folder, { recursive: true })).sort();
    for (const name of names.filter((name) => /\.(md|ts)$/.test(name)))
      texts.push(await readFile(join(folder, name), 'utf8'));
  }
  return texts.join('\n');
}

async function makeModel(folder: string, text: string): Promise<void> {
  const shape = [values.hidden, values.layers, values.heads];
  const made = spawn(python, ['bench/score/make_model.py', folder, ...shape], {
    env: { PATH: process.env.PATH, PYTHONPATH: resolve('runners') },
    stdio: ['pipe', 'inherit', 'inherit'],
  });
  made.stdin.end(text);
  const [code] = await once(made, 'exit');
  if (code !== 0) throw new Error('The model could not be made.');
}

/** What one server did with one work. */
interface Measure {
  /** of a request, milliseconds */
  latencies: number[];
  items: number;
  seconds: number;
  cpu: number;
}

async function measure(server: Server, requests: ScoreItem[][], clients: number): Promise<Measure> {
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

function median(numbers: number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
}

interface Work {
  name: string;
  clients: number;
  requests: (workloads: Workloads, round: number) => ScoreItem[][];
  /** higher is better */
  figure: (measure: Measure) => number;
  unit: string;
}

const alone = (items: ScoreItem[]): ScoreItem[][] => items.map((item) => [item]);

const works: Work[] = [
  {
    name: 'single request, 60 + 60 tokens, 1 / p50',
    clients: 1,
    requests: ({ short }) => alone(short),
    figure: ({ latencies }) => 1000 / median(latencies),
    unit: 'requests/s',
  },
  {
    name: '32 clients, mixed 20–512 tokens, items per CPU-second',
    clients: 32,
    requests: ({ mixed }) => alone(mixed),
    figure: ({ items, cpu }) => items / cpu,
    unit: 'items/CPU-s',
  },
  {
    name: 'one request of 256 items, peer with length-sorted batches',
    clients: 1,
    requests: ({ mixed }) => [mixed],
    figure: ({ items, seconds }) => items / seconds,
    unit: 'items/s',
  },
  {
    name: 'best-of-16, prompt 300, responses 60, cold prefix',
    clients: 1,
    // prompts that no round before has seen
    requests: ({ bestOf }, round) => bestOf.slice(2 * round, 2 * round + 2),
    figure: ({ items, seconds }) => items / seconds,
    unit: 'items/s',
  },
];

await onInstallation(async (installation) => {
  const where = describeMachine();
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-bench-score-'));
  const peers: Peer[] = [];
  try {
    const modelFolder = join(folder, 'model');
    const text = await corpus();
    await makeModel(modelFolder, text);
    await registerFolder(installation, modelFolder, 'bench');
    const tokenizer = Tokenizer.fromFile(join(modelFolder, 'tokenizer.json'));
    const workloads = await makeWorkloads(tokenizer, text);
    const finegrain = await onCores(servingCore, () =>
      startFinegrain(installation, { FINEGRAIN_SCORERS: '1' }),
    );
    const ours = finegrain.server('ours fp32', { model: 'bench' });
    peers.push(
      await onCores(servingCore, () => startPeer(modelFolder, 5180, 'float32', { python, packages })),
    );
    const servers: Server[] = [ours, ...peers];
    await onCores(clientCore, async () => {
      const [given, expected] = await Promise.all(
        servers.map((server) => server.score(workloads.mixed.slice(0, 8))),
      );
      checkEqual(given!, expected!);
      for (const work of works) {
        const figures = servers.map((): number[] => []);
        for (let round = 0; round < rounds; round++) {
          for (const [index, server] of servers.entries()) {
            const measured = await measure(server, work.requests(workloads, round), work.clients);
            figures[index]!.push(work.figure(measured));
          }
        }
        console.log(
          work.name,
          figures.map((f, i) => `${servers[i]!.name}: ${median(f).toFixed(2)} ${work.unit}`),
          median(figures[0]!.map((f, i) => f / figures[1]![i]!)).toFixed(3),
        );
      }
    });
    void where;
    void writePart;
    await finegrain.stop();
  } finally {
    for (const peer of peers) await peer.stop();
    await rm(folder, { recursive: true, force: true });
  }
});

function checkEqual(ours: Scores[], theirs: Scores[]): void {
  for (const [item, { token_ids, rewards }] of ours.entries()) {
    const peer = theirs[item]!;
    if (token_ids.join() !== peer.token_ids.join())
      throw new Error(`item ${item}: other tokens than the peer's`);
    const worst = Math.max(...rewards.map((reward, i) => Math.abs(reward - peer.rewards[i]!)));
    if (!(worst < 1e-3)) throw new Error(`item ${item}: rewards differ from the peer's by ${worst}`);
  }
}
