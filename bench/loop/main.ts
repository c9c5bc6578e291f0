// `npm run bench:loop`: does fine-grained PPO beat sequence PPO at equal KL, and how do both stand to fine-tuning on the
// edits? Trains everything anew for each draw with the real trainer, in parallel processes of one thread, and writes
// bench/RESULTS.md with its plots. Interrupted, it goes on where it was.
import { mkdir, writeFile } from 'node:fs/promises';
import os from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Draw, makeDraw } from './draw.ts';
import { type Curve, chooseCheckpoint, mean } from './frontier.ts';
import {
  type Arm,
  arms,
  lossOf,
  reportedDraws,
  type Settings,
  type Start,
  starts,
  tuningBeta,
  tuningDraw,
  tuningGrid,
  yardstickOf,
} from './plan.ts';
import { type DrawResult, type Tuned, writeResults } from './results.ts';
import { openTrainerSteps, type TrainerSteps } from './trainer-steps.ts';

const usage = `npm run bench:loop -- [--draws N] [--parallel N]

  --draws N     reported draws (default ${reportedDraws.length}, all that are planned)
  --parallel N  trainers at a time (default: the cores of this machine)

Work is kept in <data folder>/bench and found again. Four draws take about two hours on two cores.
`;

/** Six trials for each arm on the tuning draw; the one whose best checkpoint does best on the validation prompts. */
async function tune(steps: TrainerSteps): Promise<Tuned> {
  const draw = await makeDraw(steps, tuningDraw);
  const tuned = await Promise.all(
    arms.map(async (arm) => {
      const trials = await Promise.all(
        tuningGrid.map(async (settings) => {
          const curve = await draw.ppo(draw.sftOnEdits, lossOf[arm], { ...settings, beta: tuningBeta });
          const { at } = chooseCheckpoint([curve], yardstickOf['SFT on edits']);
          return { ...settings, value: mean(curve[at]!.validation[yardstickOf['SFT on edits']]) };
        }),
      );
      const { critic, learning_rate } = trials.reduce((best, trial) =>
        trial.value > best.value ? trial : best,
      );
      return [arm, { chosen: { critic, learning_rate }, trials }] as const;
    }),
  );
  return Object.fromEntries(tuned) as Tuned;
}

async function measureDraw(draw: Draw, settings: Record<Arm, Settings>): Promise<DrawResult> {
  const rewardModels = ['survival', 'bt_hunk', 'bt_sum', 'seq_edits', 'seq_pairs'] as const;
  const policies: Record<Start, typeof draw.start> = {
    'SFT on edits': draw.sftOnEdits,
    'starting policy': draw.start,
  };
  const frontier = async (start: Start): Promise<Record<Arm, Curve[]>> => {
    const curves = arms.map((arm) =>
      Promise.all(
        starts[start].map((beta) => draw.ppo(policies[start], lossOf[arm], { ...settings[arm], beta })),
      ),
    );
    const [fine, sequence] = await Promise.all(curves);
    return { 'fine-grained': fine!, sequence: sequence! };
  };
  const placed = (reward_placement: string): Promise<Curve> =>
    draw.ppo(draw.sftOnEdits, 'survival', {
      ...settings['fine-grained'],
      beta: tuningBeta,
      reward_placement,
    });
  const [fromEdits, fromStart, end, spread, pairs, start, sftOnEdits, ...reports] = await Promise.all([
    frontier('SFT on edits'),
    frontier('starting policy'),
    placed('end'),
    placed('spread'),
    draw.ppo(draw.sftOnEdits, 'seq_pairs', { ...settings.sequence, beta: tuningBeta }),
    draw.evaluate('starting policy again', draw.start),
    draw.evaluate('SFT on edits', draw.sftOnEdits),
    ...rewardModels.map(async (loss) => [loss, (await draw.rewardModel(loss)).result.test] as const),
  ]);
  return {
    seed: draw.seed,
    edits: draw.edits,
    rewardModels: Object.fromEntries(reports),
    frontier: { 'SFT on edits': fromEdits, 'starting policy': fromStart },
    placements: { end, spread },
    seqPairs: pairs,
    start,
    sftOnEdits,
  };
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      draws: { type: 'string', default: String(reportedDraws.length) },
      parallel: { type: 'string', default: String(os.availableParallelism()) },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(usage);
    return;
  }
  const dataDir = process.env.FINEGRAIN_DATA_DIR || '.finegrain';
  const folder = join(dataDir, 'bench');
  await mkdir(folder, { recursive: true });
  const begun = performance.now();
  const say = (line: string): void => {
    const minutes = ((performance.now() - begun) / 60_000).toFixed(1).padStart(6);
    process.stdout.write(`${minutes} min  ${line}\n`);
  };
  const python = process.env.FINEGRAIN_PYTHON || join(dataDir, 'python/bin/python');
  const steps = openTrainerSteps(folder, python, Number(values.parallel), say);

  const tuned = await tune(steps);
  const settings = { 'fine-grained': tuned['fine-grained'].chosen, sequence: tuned.sequence.chosen };
  say(`tuned: ${JSON.stringify(settings)}`);
  const results: DrawResult[] = [];
  for (const seed of reportedDraws.slice(0, Number(values.draws))) {
    results.push(await measureDraw(await makeDraw(steps, seed), settings));
    await writeFile(join(folder, 'results.json'), JSON.stringify({ tuned, results }));
    await writeResults(tuned, results);
    say(`draw ${seed} done; bench/RESULTS.md holds ${results.length}`);
  }
}

main().catch((error: Error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
