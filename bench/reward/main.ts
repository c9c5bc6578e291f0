// `npm run bench:reward`: what reward models make of edits that share no text with what they replace, of careless and
// over-eager editors, of preferences that nobody is sure of, of several annotators, and what the options for it do
// (docs/experiments.md). `-- --only REGEX` takes some of the runs, by `question: name: loss`, `--draws 31,32` the draws.
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { demonstrationRows } from '../../examples/world/data.ts';
import { loadModelTokenizer } from '../../src/scoring/tokenizer.ts';
import { type LabelRow, type LabelSource, labelRows } from '../../src/services/label-rows.ts';
import { sft, sizes } from '../loop/plan.ts';
import { modelOf, openTrainerSteps, type Step, type TrainerSteps } from '../loop/trainer-steps.ts';
import { plan, type Run } from './plan.ts';
import { testRows, trainingRows } from './world.ts';

const metrics = ['bad_token_auc', 'pair_accuracy', 'edit_accuracy'] as const;

async function startingPolicy(steps: TrainerSteps, seed: number): Promise<Step> {
  const rows = demonstrationRows(seed, sizes.demonstrations).map((row) => ({ ...row, split: 'train' }));
  return steps.run('sft', `draw ${seed}: starting policy`, {
    seed,
    base_model: sft.base_model,
    data: { examples: await steps.rows(`demonstrations-${seed}`, rows) },
    hyperparameters: sft.hyperparameters,
  });
}

async function train(steps: TrainerSteps, start: Step, seed: number, run: Run): Promise<Step> {
  const tokenizer = await loadModelTokenizer(modelOf(start).path.path);
  const labelled: LabelRow[] = [];
  const sources = [...trainingRows(seed, run.condition), ...testRows(seed)];
  for await (const row of labelRows(asyncRows(sources), tokenizer, 'mix')) labelled.push(row);
  return steps.run('reward', `draw ${seed}: ${run.question}: ${run.loss}, ${run.name}`, {
    seed,
    base_model: modelOf(start),
    loss: run.loss,
    data: { labels: await steps.rows(`labels-${seed}`, labelled) },
    hyperparameters: run.hyperparameters,
  });
}

async function* asyncRows(rows: LabelSource[]): AsyncGenerator<LabelSource> {
  yield* rows;
}

/** For each draw the value with its interval over test rows. */
function cell(figures: { value: number | null; low: number; high: number }[]): string {
  return figures
    .map(({ value, low, high }) =>
      value === null ? '–' : `${value.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`,
    )
    .join('; ');
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { draws: { type: 'string', default: '31,32' }, only: { type: 'string', default: '' } },
  });
  const draws = values.draws.split(',').map(Number);
  const dataDir = process.env.FINEGRAIN_DATA_DIR || '.finegrain';
  const python = process.env.FINEGRAIN_PYTHON || join(dataDir, 'python/bin/python');
  const folder = join(dataDir, 'bench');
  const steps = openTrainerSteps(folder, python, 1, (line) => process.stderr.write(`${line}\n`));
  const starts = new Map<number, Step>();
  for (const seed of draws) starts.set(seed, await startingPolicy(steps, seed));

  process.stdout.write(
    `| question | annotators or option | loss | rows | ${metrics.join(' | ')} | calibration error |\n| ${'--- | '.repeat(8)}\n`,
  );
  const asked = new RegExp(values.only);
  for (const run of plan.filter(({ question, name, loss }) => asked.test(`${question}: ${name}: ${loss}`))) {
    const made: Step[] = [];
    for (const seed of draws) made.push(await train(steps, starts.get(seed)!, seed, run));
    const [first] = made;
    const { edits, pairs, without_token_labels } = first!.result.training;
    const calibration = made.flatMap(
      ({ result }) => result.breakdown.test.calibration?.expected_calibration_error ?? [],
    );
    const cells = [
      run.question,
      run.name,
      run.loss,
      `${edits ?? pairs}${without_token_labels ? ` (${without_token_labels} without labels)` : ''}`,
      ...metrics.map((name) => cell(made.map(({ result }) => result.test[name]))),
      cell(calibration),
    ];
    process.stdout.write(`| ${cells.join(' | ')} |\n`);
  }
}

main().catch((error: Error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
