// `npm run bench:score`: token scoring over HTTP against a straightforward server with FastAPI and transformers, on one
// core, in turns, and against onnxruntime itself on the same tokens. Writes its part of bench/RESULTS.md. Linux only.
//
//   npm run bench:score [-- --rounds N] [-- --large: 91 M parameters instead of 14, a quarter of the items]
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { Tokenizer } from 'tokenizers';
import { median } from '../../test/soak/trend.ts';
import { onInstallation } from '../installation.ts';
import { describeMachine, writePart } from '../report.ts';
import { measureLoad } from './load.ts';
import { bestOf, bulk, inTurns, mixed, ratio, single, warmBestOf } from './measures.ts';
import { hasBfloat16, onCores } from './processes.ts';
import { openRaw } from './raw-peer.ts';
import { type Peer, registerFolder, type Scores, type Server, startFinegrain, startPeer } from './servers.ts';
import { measureStarts } from './starts.ts';
import { type Draw, openTexts } from './workloads.ts';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '3' }, large: { type: 'boolean', default: false } },
});
const rounds = Number(values.rounds);
if (!(rounds >= 1)) {
  console.log('Usage: npm run bench:score [-- --rounds N] [--large]');
  process.exit(2);
}
const shape = values.large ? ['768', '12', '12'] : ['384', '6', '6'];
const dataDir = resolve(process.env.FINEGRAIN_DATA_DIR || '.finegrain');
const python = process.env.FINEGRAIN_PYTHON || join(dataDir, 'python', 'bin', 'python');
const servingCore = '0';
const clientCore = '1';
/** Of the model with 14 M parameters. */
const bars: Record<string, (number | null)[]> = {
  [single.name]: [1.25, 2.4, 1.5],
  [mixed.name]: [1.2, 2.4, 1.5],
  [bulk.name]: [1.7, 3.6, 2],
  [bestOf.name]: [6.5, 12, 8],
};

await onInstallation(async (installation) => {
  const where = describeMachine();
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-bench-score-'));
  const peers: Peer[] = [];
  try {
    const modelFolder = join(folder, 'model');
    const text = await corpus();
    const said = await makeModel(modelFolder, text);
    const tokenizer = Tokenizer.fromFile(join(modelFolder, 'tokenizer.json'));
    const draw = await openTexts(tokenizer, text, values.large ? 1 / 4 : 1);

    const finegrain = await onCores(servingCore, () =>
      startFinegrain(installation, { FINEGRAIN_SCORERS: '1' }),
    );
    await registerFolder(finegrain, modelFolder, 'bench');
    const fp32 = finegrain.server('finegrain fp32', { model: 'bench' });
    const int8 = finegrain.server('finegrain int8', { model: 'bench', precision: 'int8' });
    const packages = join(dataDir, 'score-peer-python', 'lib', pythonName(), 'site-packages');
    for (const dtype of hasBfloat16() ? (['float32', 'bfloat16'] as const) : (['float32'] as const))
      peers.push(await onCores(servingCore, () => startPeer(modelFolder, dtype, { python, packages })));
    const sections = await onCores(clientCore, async () => {
      await checkEqual(fp32, peers[0]!, draw);
      await int8.score((await draw()).short);
      const parts = [
        await compare([fp32, int8, ...peers], draw),
        await compareRaw(modelFolder, [fp32, int8], draw),
      ];
      if (!values.large) parts.push(await measureLoad(finegrain, fp32, draw));
      return parts;
    });
    await finegrain.stop();
    for (const peer of peers.splice(0)) await peer.stop();
    sections.push(await measureTwoCores(installation, draw));
    if (!values.large) sections.push(await measureStarts(installation));
    const title = `# Scoring, ${values.large ? '91 M' : '14 M'} parameters`;
    const made = `Made by \`npm run bench:score${values.large ? ' -- --large' : ''}\`, ${rounds} rounds; ${where}. Client and servers have a core each${values.large ? '; a quarter of the requests and items' : ''}. int8: ${said}.`;
    const part = [title, made, ...sections].join('\n\n');
    console.log(`\n${part}`);
    await writePart(values.large ? 'score-large' : 'score', part);
  } finally {
    for (const peer of peers) await peer.stop();
    await rm(folder, { recursive: true, force: true });
  }
});

/** The table of the bars. */
async function compare(servers: Server[], draw: Draw): Promise<string> {
  const rows: string[] = [];
  for (const work of [single, mixed, bulk, bestOf, warmBestOf]) {
    const figures = await inTurns(work, servers, draw, rounds);
    const [fp32, int8, peer, half] = figures as [number[], number[], number[], number[]?];
    const ratios = [ratio(fp32, peer), ratio(int8, peer), half ? ratio(int8, half) : null];
    const cells = ratios.map((value, column) => {
      if (value === null) return '–';
      const bar = values.large ? undefined : bars[work.name]?.[column];
      return bar ? `${value.toFixed(2)} (bar ${bar}${value >= bar ? '' : ': missed'})` : value.toFixed(2);
    });
    const absolute = figures.map((row) => median(row).toFixed(1)).join(', ');
    rows.push(`| ${work.name} | ${cells.join(' | ')} | ${absolute} ${work.unit} |`);
    console.log(rows.at(-1));
  }
  return [
    `Medians of the ratios of each round; the servers take turns within a round. Absolute figures: ${servers.map(({ name }) => name).join(', ')}.`,
    '',
    '| work | fp32 / peer fp32 | int8 / peer fp32 | int8 / peer bf16 | |',
    '| --- | --- | --- | --- | --- |',
    ...rows,
  ].join('\n');
}

/** What HTTP, tokenizer, queue and processes cost: the same tokens, one after the other, by onnxruntime-node alone. */
async function compareRaw(modelFolder: string, [fp32, int8]: [Server, Server], draw: Draw): Promise<string> {
  const shares: string[] = [];
  for (const [server, precision, bar] of [
    [fp32, 'fp32', 0.92],
    [int8, 'int8', 0.88],
  ] as const) {
    const raw = await onCores(servingCore, () => openRaw(modelFolder, precision));
    try {
      const [ours, limit] = (await inTurns(bulk, [server, raw], draw, rounds)) as [number[], number[]];
      const share = ratio(ours, limit);
      shares.push(
        `${precision} ${(100 * share).toFixed(0)} % (bar ${100 * bar} %${share >= bar ? '' : ': missed'}; ${median(limit).toFixed(1)} items/s)`,
      );
    } finally {
      await raw.stop();
    }
  }
  return `Share of onnxruntime-node in a process of its own, one request of 256 items: ${shares.join(', ')}.`;
}

async function measureTwoCores(
  installation: Parameters<typeof startFinegrain>[0],
  draw: Draw,
): Promise<string> {
  const perSecond: Record<string, number> = {};
  for (const [name, cores, scorers] of [
    ['one', '0', '1'],
    ['two', '0,1', '2'],
  ] as const) {
    const finegrain = await onCores(cores, () =>
      startFinegrain(installation, { FINEGRAIN_SCORERS: scorers }),
    );
    const server = finegrain.server(name, { model: 'bench' });
    for (let warm = 0; warm < 2; warm++) await server.score((await draw()).short);
    perSecond[name] = median((await inTurns(bulk, [server], draw, 2))[0]!);
    if (name === 'two') {
      const spinner = await onCores('1', async () => spawn(process.execPath, ['-e', 'for (;;);']));
      perSecond.contended = median((await inTurns(bulk, [server], draw, 2))[0]!);
      spinner.kill();
    }
    await finegrain.stop();
  }
  const gain = perSecond.two! / perSecond.one!;
  return `One request of 256 items on two cores that are free: ${gain.toFixed(2)} × one core (bar 1.8${gain >= 1.8 ? '' : ': missed'}; the client needs some of the second core); with another program busy on the second core ${(perSecond.contended! / perSecond.one!).toFixed(2)} × (1.5 would be fair).`;
}

/** The servers do the same work: equal tokens, rewards equal but for rounding. */
async function checkEqual(ours: Server, peer: Server, draw: Draw): Promise<void> {
  const items = (await draw()).mixed.slice(0, 8);
  const [given, expected] = (await Promise.all([ours.score(items), peer.score(items)])) as [
    Scores[],
    Scores[],
  ];
  for (const [item, { token_ids, rewards }] of given.entries()) {
    const theirs = expected[item]!;
    if (token_ids.join() !== theirs.token_ids.join())
      throw new Error(`item ${item}: the tokens ${token_ids}, the peer's ${theirs.token_ids}`);
    const worst = Math.max(...rewards.map((reward, token) => Math.abs(reward - theirs.rewards[token]!)));
    if (!(worst < 1e-3)) throw new Error(`item ${item}: rewards differ from the peer's by ${worst}`);
  }
}

async function corpus(): Promise<string> {
  const texts: string[] = [];
  for (const folder of ['docs', 'src']) {
    const names = (await readdir(folder, { recursive: true })).sort();
    for (const name of names.filter((name) => /\.(md|ts)$/.test(name)))
      texts.push(await readFile(join(folder, name), 'utf8'));
  }
  return texts.join('\n').replaceAll(/<\|\w+\|>/g, ''); // the peer takes them for control tokens
}

/** @returns what was measured of int8 */
async function makeModel(folder: string, text: string): Promise<string> {
  const made = spawn(python, ['bench/score/make_model.py', folder, ...shape], {
    env: { PATH: process.env.PATH, PYTHONPATH: resolve('runners') },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  made.stdin.end(text);
  const said: string[] = [];
  made.stdout.setEncoding('utf8').on('data', (part: string) => said.push(part));
  const [code] = await once(made, 'close');
  if (code !== 0) throw new Error('The model could not be made.');
  return said.join('').trim();
}

function pythonName(): string {
  const version = 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}")';
  return spawnSync(python, ['-c', version], { encoding: 'utf8' }).stdout.trim();
}
