// `npm run bench:pipeline`: which pipeline turns demonstrations and edits into the best policy? Every arm has the same start
// and the same number of edits. What a draw gave is kept in bench/pipeline/draws, a file each, and committed: a later sitting
// adds draws or arms to them. Writes bench/RESULTS.md from those files. Interrupted, it goes on where it was.
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { makeDraw, plainScenario } from '../loop/draw.ts';
import { type PromptSet, promptSets } from '../loop/frontier.ts';
import { sizes } from '../loop/plan.ts';
import { openTrainerSteps } from '../loop/trainer-steps.ts';
import { rewardModelOf, type Workplace } from './arms.ts';
import { reportedDraws, tuningDraw } from './plan.ts';
import { elsewhere, type Planned, tiers } from './reported.ts';
import { writeResults } from './results.ts';
import { scenarios } from './settings.ts';
import { packScores, type StoredDraw, storeRun } from './stored.ts';
import { type Trial, tune } from './tuning.ts';

const usage = `npm run bench:pipeline -- [--scenario NAME] [--draws 202,203] [--arm NAME] [--parallel N] [--tune] [--report]

  --scenario NAME  ${scenarios.map(({ name }) => name).join(', ')} (default plain); with others than plain fewer arms, and nothing is tuned
  --draws LIST  seeds (default ${reportedDraws.join(',')}); what their files hold already is not run again
  --arm NAME    only this one (may be given several times)
  --parallel N  trainers at a time, one thread each (default 1)
  --tune        the trials on draw ${tuningDraw} instead
  --report      trains nothing: writes bench/RESULTS.md anew from the files

Steps are kept in <data folder>/pipeline and found again.
`;

const drawsFolder = fileURLToPath(new URL('draws/', new URL('../../../bench/pipeline/', import.meta.url)));

async function readJson<T>(file: string): Promise<T | undefined> {
  const path = join(drawsFolder, file);
  return existsSync(path) ? JSON.parse(await readFile(path, 'utf8')) : undefined;
}

const fileOf = (scenario: string, seed: number): string =>
  scenario === plainScenario.name ? `${seed}.json` : `${scenario.replaceAll(' ', '-')}-${seed}.json`;

/** A line for each arm, so that adding one is a small change. */
async function writeDraw(draw: StoredDraw): Promise<void> {
  const { arms, ...head } = draw;
  const lines = Object.entries(arms).map(
    ([name, runs]) => `  ${JSON.stringify(name)}: ${JSON.stringify(runs)}`,
  );
  const text = `${JSON.stringify(head).slice(0, -1)},\n "arms": {\n${lines.join(',\n')}\n }}\n`;
  await writeFile(join(drawsFolder, fileOf(draw.scenario ?? plainScenario.name, draw.seed)), text);
}

async function openDraw({ draw, scenario }: Workplace): Promise<StoredDraw> {
  const known = await readJson<StoredDraw>(fileOf(scenario.name, draw.seed));
  if (known) return known;
  const of = (set: PromptSet, opponent: 'start' | 'careful'): string => {
    const first = set === 'validation' ? 0 : sizes.validationPrompts;
    const part = draw.opponents.slice(first, first + sizes[`${set}Prompts`]);
    return packScores(part.map((scores) => scores[opponent]));
  };
  const opponents = promptSets.map((set) => [set, { start: of(set, 'start'), careful: of(set, 'careful') }]);
  return {
    scenario: scenario.name,
    seed: draw.seed,
    edits: draw.edits,
    opponents: Object.fromEntries(opponents),
    rewardModels: {},
    arms: {},
  };
}

async function runTier(place: Workplace, tier: Planned[]): Promise<void> {
  const stored = await openDraw(place);
  for (const { arm, settings, run } of tier) {
    stored.arms[arm] ??= [];
    const runs = stored.arms[arm];
    if (runs.some((known) => JSON.stringify(known.settings) === JSON.stringify(settings))) continue;
    runs.push(storeRun(await run(place)));
    for (const loss of ['survival', 'seq_edits'] as const) {
      const { test } = (await rewardModelOf(place.draw, loss)).result;
      stored.rewardModels[loss] = Object.fromEntries(
        Object.entries(test as Record<string, { value: number | null }>).map(([name, { value }]) => [
          name,
          value,
        ]),
      );
    }
    await writeDraw(stored);
  }
}

const armNames = (tier: Planned[]): Set<string> => new Set(tier.map(({ arm }) => arm));

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      scenario: { type: 'string', default: plainScenario.name },
      draws: { type: 'string', default: reportedDraws.join(',') },
      arm: { type: 'string', multiple: true, default: [] },
      parallel: { type: 'string', default: '1' },
      tune: { type: 'boolean', default: false },
      report: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(usage);
    return;
  }
  const scenario = scenarios.find(({ name }) => name === values.scenario);
  if (!scenario) throw new Error(`--scenario ${values.scenario}: there is ${usage}`);
  await mkdir(drawsFolder, { recursive: true });
  const drawsIn = async (name: string): Promise<StoredDraw[]> => {
    const draws = reportedDraws.map((seed) => readJson<StoredDraw>(fileOf(name, seed)));
    return (await Promise.all(draws)).filter((draw) => draw !== undefined);
  };
  const report = async (): Promise<void> => {
    const others = scenarios.filter((one) => one !== plainScenario);
    await writeResults(
      await drawsIn(plainScenario.name),
      await Promise.all(others.map(async ({ name }) => ({ name, draws: await drawsIn(name) }))),
      (await readJson<Trial[]>('tuning.json')) ?? [],
    );
  };
  if (values.report) return report();

  const begun = performance.now();
  const say = (line: string): void => {
    const minutes = ((performance.now() - begun) / 60_000).toFixed(1).padStart(6);
    process.stdout.write(`${minutes} min  ${line}\n`);
  };
  const dataDir = process.env.FINEGRAIN_DATA_DIR || '.finegrain';
  const python = process.env.FINEGRAIN_PYTHON || join(dataDir, 'python/bin/python');
  const steps = openTrainerSteps(join(dataDir, 'pipeline'), python, Number(values.parallel), say);
  if (values.tune) {
    const trials: Trial[] = [];
    await tune({ steps, scenario, draw: await makeDraw(steps, tuningDraw, scenario) }, async (trial) => {
      trials.push(trial);
      say(`${trial.arm} ${JSON.stringify(trial.settings)}: ${trial.value.toFixed(3)}`);
      await writeFile(join(drawsFolder, 'tuning.json'), `${JSON.stringify(trials, null, 1)}\n`);
    });
    return;
  }
  const seeds = values.draws.split(',').map(Number);
  const planned = scenario === plainScenario ? tiers : [elsewhere];
  const unknown = values.arm.find((name) => !planned.flat().some(({ arm }) => arm === name));
  if (unknown) throw new Error(`--arm ${unknown}: there is ${[...armNames(planned.flat())].join('; ')}`);
  for (const all of planned) {
    const tier = values.arm.length === 0 ? all : all.filter(({ arm }) => values.arm.includes(arm));
    if (tier.length === 0) continue;
    for (const seed of seeds) {
      await runTier({ steps, scenario, draw: await makeDraw(steps, seed, scenario) }, tier);
      await report();
      say(`draw ${seed}: ${[...armNames(tier)].join('; ')}`);
    }
  }
}

main().catch((error: Error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
