// `npm run bench:controls`: what a sceptic would change about the demo world (docs/experiments.md). The same draws
// under each scenario; PPO from the starting policy with β .1 and the settings that bench:loop tuned, judged after its last
// step. Prints a table. `-- --draws N` takes the first N draws (default 2).
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Draw, makeDraw, plainScenario } from './draw.ts';
import { type Curve, estimate, mean } from './frontier.ts';
import {
  type Arm,
  evaluateEvery,
  lossOf,
  ppo,
  reportedDraws,
  type Settings,
  tuningBeta,
  yardstickOf,
} from './plan.ts';
import { rate } from './results.ts';
import { scenarios } from './scenarios.ts';
import { openTrainerSteps } from './trainer-steps.ts';

// the plain scenario's runs are those of bench:loop; of the others only the last checkpoint is judged
const stepsOfPpo = Number(ppo.steps);

async function measure(draw: Draw, settings: Record<Arm, Settings>, every: number) {
  const rewardModel = (arm: Arm) => draw.rewardModel(lossOf[arm], settings[arm].reward);
  const train = (arm: Arm): Promise<Curve> =>
    draw.ppo(draw.start, rewardModel(arm), { ...settings[arm].ppo, beta: tuningBeta }, every);
  const [fine, sequence, edits, survival, seqEdits] = await Promise.all([
    train('fine-grained'),
    train('sequence'),
    draw.evaluate('SFT on edits', draw.sftOnEdits),
    rewardModel('fine-grained'),
    rewardModel('sequence'),
  ]);
  return { fine, sequence, edits, survival, seqEdits };
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { draws: { type: 'string', default: '2' } } });
  const draws = reportedDraws.slice(0, Number(values.draws));
  const dataDir = process.env.FINEGRAIN_DATA_DIR || '.finegrain';
  const folder = join(dataDir, 'bench');
  const python = process.env.FINEGRAIN_PYTHON || join(dataDir, 'python/bin/python');
  const steps = openTrainerSteps(folder, python, 2, (line) => process.stderr.write(`${line}\n`));
  const { tuned } = JSON.parse(await readFile(join(folder, 'results.json'), 'utf8'));
  const settings = { 'fine-grained': tuned['fine-grained'].chosen, sequence: tuned.sequence.chosen };

  const yardstick = yardstickOf['starting policy'];
  const last = (curve: Curve) => curve.at(-1)!.test;
  process.stdout.write(
    '| scenario | edits | bad_token_auc | pair_accuracy, survival / seq_edits | fine-grained PPO | KL | sequence PPO | KL | SFT on edits |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n',
  );
  for (const scenario of scenarios) {
    const made = await Promise.all(draws.map((seed) => makeDraw(steps, seed, scenario)));
    const measured = await Promise.all(
      made.map((draw) => measure(draw, settings, scenario === plainScenario ? evaluateEvery : stepsOfPpo)),
    );
    const figures = (read: (one: (typeof measured)[number]) => number | null): string =>
      measured.map((one) => read(one)?.toFixed(3) ?? '–').join(', ');
    const kl = (curves: Curve[]): string => curves.map((curve) => mean(last(curve).kl).toFixed(1)).join(', ');
    const [fine, sequence, edits] = (['fine', 'sequence', 'edits'] as const).map((arm) =>
      measured.map((one) => one[arm]),
    );
    process.stdout.write(
      `| ${[
        scenario.name,
        made.map((draw) => draw.edits).join(', '),
        figures(({ survival }) => survival.result.test.bad_token_auc.value),
        `${figures(({ survival }) => survival.result.test.pair_accuracy.value)} / ${figures(({ seqEdits }) => seqEdits.result.test.pair_accuracy.value)}`,
        rate(estimate(fine!.map((curve) => last(curve)[yardstick]))),
        kl(fine!),
        rate(estimate(sequence!.map((curve) => last(curve)[yardstick]))),
        kl(sequence!),
        rate(estimate(edits!.map((curve) => last(curve)[yardstick]))),
      ].join(' | ')} |\n`,
    );
  }
}

main().catch((error: Error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
