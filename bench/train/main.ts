// `npm run bench:train`: how many samples per second our PPO trainer and TRL's (1.12, trl.experimental.ppo) train on, with
// the same Llama, prompts, batch, epochs and minibatches, one thread on one core, in turns. Writes its part of
// bench/RESULTS.md. Linux only. Alone on a machine, as the figures are of wall time; CPU time stands beside it.
//
//   npm run bench:train [-- --rounds N]
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { demonstrationRows, promptRows } from '../../examples/world/data.ts';
import { median } from '../../test/soak/trend.ts';
import { openTrainerSteps } from '../loop/trainer-steps.ts';
import { describeMachine, writePart } from '../report.ts';
import { bind, onCores } from '../score/processes.ts';
import { startWorker, type Turn, type Worker } from './workers.ts';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '5' } } });
const rounds = Number(values.rounds);
if (!(rounds >= 1)) {
  console.log('Usage: npm run bench:train [-- --rounds N]');
  process.exit(2);
}
const dataDir = resolve(process.env.FINEGRAIN_DATA_DIR || '.finegrain');
const python = process.env.FINEGRAIN_PYTHON || join(dataDir, 'python', 'bin', 'python');
const peerPython = join(dataDir, 'train-peer-python', 'bin', 'python');
const [trainingCore, ownCore] = ['0', '1'];
const stepsPerTurn = 2;

const shape = { hidden_size: 128, num_layers: 4, num_heads: 4, vocab_size: 640, context_length: 192 };
const batch = { size: 64, epochs: 2, minibatches: 2, maxNewTokens: 56 };
/** How many times as fast as TRL ours is to be. */
const bars = { separate: 1.5, shared: 2.2 };
const works = {
  ending: 'responses that end where the policy ends them',
  fixed: `responses of ${batch.maxNewTokens} tokens each, EOS out of reach`,
};

for (const signal of ['SIGINT', 'SIGTERM', 'disconnect']) process.once(signal, () => process.exit(1));
const where = describeMachine();
const folder = await mkdtemp(join(tmpdir(), 'finegrain-bench-train-'));
try {
  const parameters = await makeModels(folder);
  bind(process.pid, ownCore!);
  const sections: string[] = [];
  for (const work of Object.keys(works) as (keyof typeof works)[]) sections.push(await compare(work, folder));
  const part = [
    `# Training: PPO steps against TRL 1.12`,
    `Made by \`npm run bench:train\`, medians of ${rounds} rounds of ${stepsPerTurn} steps in turns; ${where}. A Llama with ${(parameters / 1e6).toFixed(2)} M parameters; ${batch.size} samples a step, ${batch.epochs} epochs × ${batch.minibatches} minibatches, at most ${batch.maxNewTokens} new tokens; one thread each on one core. Both have a reference policy and a reward model of the policy's size; our \`separate\` critic is a network of its own, as TRL's is. Ratios are the medians of the rounds' ratios.`,
    ...sections,
  ].join('\n\n');
  console.log(`\n${part}`);
  await writePart('train', part);
} finally {
  await rm(folder, { recursive: true, force: true });
}
process.exit(0); // the channel to the program that started this one would keep it

async function compare(work: keyof typeof works, folder: string): Promise<string> {
  const workers: Worker[] = [];
  try {
    const start = (worker: () => Promise<Worker>): Promise<number> =>
      onCores(trainingCore!, worker).then((started) => workers.push(started));
    await start(() => startPeer(work, folder));
    for (const critic of ['separate', 'shared'] as const) await start(() => startOurs(critic, work, folder));
    const turns: Turn[][] = workers.map(() => []);
    for (let round = 0; round < rounds; round++)
      for (const [index, worker] of workers.entries()) turns[index]!.push(await worker.turn(stepsPerTurn));
    return table(work, workers, turns);
  } finally {
    for (const worker of workers) await worker.stop();
  }
}

function table(work: keyof typeof works, workers: Worker[], turns: Turn[][]): string {
  const samples = batch.size * stepsPerTurn;
  const peer = turns[0]!;
  const rows = workers.map(({ name }, index) => {
    const own = turns[index]!;
    const ratioOf = (time: 'seconds' | 'cpuSeconds'): number =>
      median(own.map((turn, round) => peer[round]![time] / turn[time]));
    const bar = bars[name as keyof typeof bars];
    const ratio = ratioOf('seconds');
    const verdict = bar ? ` (bar ${bar}${ratio >= bar ? '' : ': missed'})` : '';
    const label = bar ? `ours, ${name} critic` : name;
    const perSecond = median(own.map(({ seconds }) => samples / seconds)).toFixed(1);
    const length = median(own.map((turn) => turn.length)).toFixed(1);
    return `| ${label} | ${perSecond} | ${index === 0 ? '1' : `${ratio.toFixed(2)}${verdict}`} | ${ratioOf('cpuSeconds').toFixed(2)} | ${length} |`;
  });
  return [
    `With ${works[work]}:`,
    '',
    '| | samples/s | ratio | in CPU time | tokens a response |',
    '| --- | --- | --- | --- | --- |',
    ...rows,
  ].join('\n');
}

function startPeer(work: string, folder: string): Promise<Worker> {
  const numbers = [batch.maxNewTokens, batch.size, batch.epochs, batch.minibatches].map(String);
  return startWorker(
    'TRL',
    [peerPython, 'bench/train/peer.py', folder, work, ...numbers],
    { PATH: process.env.PATH, OMP_NUM_THREADS: '1' },
    ({ length }) => length,
  );
}

async function startOurs(critic: string, work: string, folder: string): Promise<Worker> {
  const workdir = join(folder, `${work}-${critic}`);
  await mkdir(workdir);
  const spec = {
    policy: { path: join(folder, work) },
    reward_model: { path: join(folder, 'reward') },
    data: { prompts: join(folder, 'prompts.ndjson') },
    hyperparameters: {
      steps: 100_000,
      batch_size: batch.size,
      epochs: batch.epochs,
      minibatches: batch.minibatches,
      max_new_tokens: batch.maxNewTokens,
      learning_rate: 1e-6, // as TRL's: lengths stay what they are
      critic,
      scale_samples: batch.size,
      checkpoint_every: 100_000,
      rollouts_every: 0,
    },
  };
  await writeFile(join(workdir, 'spec.json'), JSON.stringify(spec));
  return startWorker(
    critic,
    [python, '-m', 'finegrain_trainer', 'ppo', '--spec', join(workdir, 'spec.json'), '--workdir', workdir],
    { PATH: process.env.PATH, PYTHONPATH: resolve('runners') },
    ({ type, values }) => (type === 'metrics' ? values.length : undefined),
  );
}

/** @returns the number of parameters of the policy */
async function makeModels(folder: string): Promise<number> {
  const steps = openTrainerSteps(join(dataDir, 'bench', 'train'), python, 1, console.log);
  const demonstrations = demonstrationRows(1, 2000).map((row) => ({ ...row, split: 'train' }));
  const policy = await steps.run('sft', 'starting policy', {
    base_model: { scratch: shape },
    data: { examples: await steps.rows('demonstrations', demonstrations) },
    hyperparameters: { epochs: 3, batch_size: 32, learning_rate: 2e-3 },
  });
  const prompts = promptRows(1, 512, 'train')
    .map((row) => `${JSON.stringify(row)}\n`)
    .join('');
  await writeFile(join(folder, 'prompts.ndjson'), prompts);
  const made = spawn(python, ['bench/train/make_models.py', join(policy.folder, 'output/model'), folder], {
    env: { PATH: process.env.PATH, PYTHONPATH: resolve('runners') },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  made.stdin.end(prompts);
  const said: string[] = [];
  made.stdout.setEncoding('utf8').on('data', (text: string) => said.push(text));
  const [code] = await once(made, 'close');
  if (code !== 0) throw new Error('The models could not be made.');
  return Number(said.join(''));
}
