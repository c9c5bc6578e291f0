// `npm run bench:loop`: does fine-grained PPO beat sequence PPO at equal KL, and how do both stand to fine-tuning on the
// edits? Trains everything anew for each draw with the real trainer, in parallel processes of one thread, and writes
// bench/RESULTS.md with its plots. Interrupted, it goes on where it was.
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import os from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Draw, makeDraw } from './draw.ts';
import { type Curve, chooseCheckpoint, mean } from './frontier.ts';
import {
  type Arm,
  arms,
  lossOf,
  ppoGrid,
  reportedDraws,
  rewardGrid,
  type Settings,
  type Start,
  starts,
  tuningBeta,
  tuningDraw,
  yardstickOf,
} from './plan.ts';
import { type DrawResult, type Trial, type Tuned, writeResults } from './results.ts';
import { openTrainerSteps, type TrainerSteps } from './trainer-steps.ts';

const usage = `npm run bench:loop -- [--draws N] [--parallel N] [--report]

  --draws N     reported draws (default ${reportedDraws.length}, all that are planned)
  --parallel N  trainers at a time (default: the cores of this machine)
  --report      trains nothing: writes bench/RESULTS.md anew from what is there

Work is kept in <data folder>/bench and found again. Tuning and three draws take about an hour on two cores.
`;

/** Nine trials for each arm on the tuning draw; the one whose best checkpoint does best on the validation prompts. */
async function tune(steps: TrainerSteps): Promise<Tuned> {
  const draw = await makeDraw(steps, tuningDraw);
  const yardstick = yardstickOf['SFT on edits'];
  const tuned = await Promise.all(
    arms.map(async (arm) => {
      const trial = async (settings: Settings): Promise<Trial> => {
        const rewardModel = draw.rewardModel(lossOf[arm], settings.reward);
        const curve = await draw.ppo(draw.sftOnEdits, rewardModel, { ...settings.ppo, beta: tuningBeta });
        const { at } = chooseCheckpoint([curve], yardstick);
        return { settings, value: mean(curve[at]!.validation[yardstick]) };
      };
      const [first, ...others] = rewardGrid;
      const ofPpo = await Promise.all(ppoGrid.map((ppo) => trial({ ppo, reward: first! })));
      const { ppo } = best(ofPpo).settings;
      const trials = [...ofPpo, ...(await Promise.all(others.map((reward) => trial({ ppo, reward }))))];
      return [arm, { chosen: best(trials).settings, trials }] as const;
    }),
  );
  return Object.fromEntries(tuned) as Tuned;
}

const best = (trials: Trial[]): Trial =>
  trials.reduce((best, trial) => (trial.value > best.value ? trial : best));

async function measureDraw(draw: Draw, settings: Record<Arm, Settings>): Promise<DrawResult> {
  const policies: Record<Start, typeof draw.start> = {
    'SFT on edits': draw.sftOnEdits,
    'starting policy': draw.start,
  };
  const rewardModel = (arm: Arm) => draw.rewardModel(lossOf[arm], settings[arm].reward);
  const frontier = async (start: Start): Promise<Record<Arm, Curve[]>> => {
    const [fine, sequence] = await Promise.all(
      arms.map((arm) =>
        Promise.all(
          starts[start].map((beta) =>
            draw.ppo(policies[start], rewardModel(arm), { ...settings[arm].ppo, beta }),
          ),
        ),
      ),
    );
    return { 'fine-grained': fine!, sequence: sequence! };
  };
  const placed = (reward_placement: string): Promise<Curve> =>
    draw.ppo(draw.sftOnEdits, rewardModel('fine-grained'), {
      ...settings['fine-grained'].ppo,
      beta: tuningBeta,
      reward_placement,
    });
  const [fromEdits, fromStart, end, spread, start, sftOnEdits, ...reports] = await Promise.all([
    frontier('SFT on edits'),
    frontier('starting policy'),
    placed('end'),
    placed('spread'),
    draw.evaluate('starting policy again', draw.start),
    draw.evaluate('SFT on edits', draw.sftOnEdits),
    ...arms.map(async (arm) => [lossOf[arm], (await rewardModel(arm)).result.test] as const),
  ]);
  return {
    seed: draw.seed,
    edits: draw.edits,
    rewardModels: Object.fromEntries(reports),
    frontier: { 'SFT on edits': fromEdits, 'starting policy': fromStart },
    placements: { end, spread },
    start,
    sftOnEdits,
  };
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      draws: { type: 'string', default: String(reportedDraws.length) },
      parallel: { type: 'string', default: String(os.availableParallelism()) },
      report: { type: 'boolean', default: false },
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
  const resultsFile = join(folder, 'results.json');
  if (values.report) {
    const { tuned, results } = JSON.parse(await readFile(resultsFile, 'utf8'));
    return writeResults(tuned, results);
  }
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
    await writeFile(resultsFile, JSON.stringify({ tuned, results }));
    await writeResults(tuned, results);
    say(`draw ${seed} done; bench/RESULTS.md holds ${results.length}`);
  }
}

main().catch((error: Error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
