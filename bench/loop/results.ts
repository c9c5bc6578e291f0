// bench/RESULTS.md and its plots from the judged curves of the draws done so far.
import { execFileSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import os from 'node:os';
import { type ChartSeries, lineChart } from '../../examples/charts.ts';
import { judgeScores } from '../../examples/world/annotators.ts';
import { writePart } from '../report.ts';
import {
  type Curve,
  chooseCheckpoint,
  difference,
  type Estimate,
  estimate,
  frontierAt,
  mean,
  samplesToReach,
  type Yardstick,
} from './frontier.ts';
import {
  type Arm,
  arms,
  ppo,
  type Settings,
  type Start,
  sizes,
  starts,
  tuningDraw,
  yardstickOf,
} from './plan.ts';

interface Figure {
  value: number | null;
}

export interface DrawResult {
  seed: number;
  edits: number;
  /** test figures of each loss */
  rewardModels: Record<string, Record<'edit_accuracy' | 'pair_accuracy' | 'bad_token_auc', Figure>>;
  /** one curve for each β */
  frontier: Record<Start, Record<Arm, Curve[]>>;
  /** survival rewards from the fine-tuned policy, paid elsewhere */
  placements: Record<'end' | 'spread', Curve>;
  start: Curve;
  sftOnEdits: Curve;
}

export interface Trial {
  settings: Settings;
  /** best checkpoint, validation prompts */
  value: number;
}

export type Tuned = Record<Arm, { chosen: Settings; trials: Trial[] }>;

const opponents: Record<Yardstick, string> = {
  overCareful: 'careful writers',
  overStart: 'the starting policy',
};

const folder = new URL('../', import.meta.url);
/** nats a response, to the policy that PPO starts from */
const klBudgets = [0.5, 1, 1.5, 2, 3, 4];

export async function writeResults(tuned: Tuned, draws: DrawResult[]): Promise<void> {
  await mkdir(new URL('plots/', folder), { recursive: true });
  const sections = [
    opening(draws),
    summary(draws),
    rewardModels(draws),
    ...(await Promise.all((Object.keys(starts) as Start[]).map((start) => frontierSection(draws, start)))),
    placements(draws),
    samples(draws),
    againstSft(draws),
    tuning(tuned),
  ];
  await writePart('loop', sections.join('\n\n'));
}

function opening(draws: DrawResult[]): string {
  const commit = execFileSync('git', ['log', '-1', '--format=%h %cs'], { encoding: 'utf8' }).trim();
  return `# Fine-grained PPO, sequence PPO and fine-tuning on the edits

Made by \`npm run bench:loop\`: ${draws.length} independent draws of the demo world (seeds ${draws.map(({ seed }) => seed).join(', ')}; demonstrations,
pairs, edits, prompts, starting policy, reward models and PPO's random numbers all new), ${draws.map(({ edits }) => edits).join(', ')} edits.
Commit ${commit}; ${os.cpus()[0]?.model.trim()}, ${os.availableParallelism()} cores.

- Win rates are over another sample of the **starting policy** or over **careful writers** (41 % of whose responses have no
  defect), on ${sizes.testPrompts} test prompts a draw; ties count one half. Arms are compared by the one that is not near its end: PPO from the
  starting policy by the former, PPO from SFT on the edits by the latter. This was fixed before the first reported draw.
- KL is k1, nats a response, on the same responses; at equal KL means the KL to the policy that PPO starts from, which is what it pays for.
- Runs and checkpoints are chosen on ${sizes.validationPrompts} other prompts. Between checkpoints of the frontier win rates are interpolated in KL.
- [..] is a 95 % bootstrap over draws and prompts; t [..] is Student's interval over the ${draws.length} draws' means, the more honest one
  with so few draws. The bars below go by the bootstrap.`;
}

/** Fine-grained less sequence, averaged over the KL budgets. */
function overallGain(draws: DrawResult[], start: Start): Estimate {
  return estimate(
    draws.map((draw) => {
      const gains = klBudgets.map((budget) => gainAt(draw, start, budget));
      return gains[0]!.map((_, prompt) => mean(gains.map((gain) => gain[prompt]!)));
    }),
  );
}

/** Paired by prompt. */
function gainAt({ frontier }: DrawResult, start: Start, budget: number): number[] {
  const [fine, sequence] = arms.map(
    (arm) => frontierAt(frontier[start][arm], budget, yardstickOf[start]).outcomes,
  );
  return difference(fine!, sequence!);
}

function summary(draws: DrawResult[]): string {
  const survival = (name: 'pair_accuracy' | 'bad_token_auc') =>
    mean(draws.map(({ rewardModels }) => rewardModels.survival![name].value!));
  const lines = [
    verdict(
      '`bad_token_auc` ≥ .93 in the mean',
      survival('bad_token_auc') >= 0.93,
      survival('bad_token_auc').toFixed(3),
    ),
    verdict(
      '`pair_accuracy` ≥ .75 in the mean',
      survival('pair_accuracy') >= 0.75,
      survival('pair_accuracy').toFixed(3),
    ),
    ...(Object.keys(starts) as Start[]).map((start) => {
      const gain = overallGain(draws, start);
      return verdict(
        `fine-grained over sequence PPO by ≥ 5.1 points at equal KL (mean over the budgets), from ${named(start)}, bootstrap above 0`,
        gain.value >= 0.051 && gain.low > 0,
        points(gain),
      );
    }),
    ...(Object.keys(starts) as Start[]).map((start) => {
      const shares = sampleShares(draws, start);
      const reached = shares.filter((share): share is number => share !== null);
      return verdict(
        `the sequence arm's best in ≤ half of its samples, from ${named(start)}`,
        reached.length === shares.length && mean(reached) <= 0.5,
        `share of samples ${shares.map((share) => share?.toFixed(2) ?? 'never').join(', ')}`,
      );
    }),
  ];
  return `## What was to reach\n\n${lines.join('\n')}`;
}

export const verdict = (what: string, reached: boolean, figure: string): string =>
  `- ${reached ? '**reached**' : '**missed**'}: ${what}: ${figure}`;

function rewardModels(draws: DrawResult[]): string {
  const metrics = ['edit_accuracy', 'pair_accuracy', 'bad_token_auc'] as const;
  const rows = Object.keys(draws[0]!.rewardModels).map((loss) => [
    `\`${loss}\``,
    ...metrics.map((metric) => {
      const values = draws.map(({ rewardModels }) => rewardModels[loss]![metric].value);
      if (values.includes(null)) return '–';
      return `**${mean(values as number[]).toFixed(3)}** (${values.map((value) => value!.toFixed(3)).join(', ')})`;
    }),
  ]);
  return `## Reward models\n\nMean over the draws (each draw), test split of the snapshot; preferences are the majority of five noisy votes.\n\n${table(['loss', ...metrics], rows)}`;
}

async function frontierSection(draws: DrawResult[], start: Start): Promise<string> {
  const at = (arm: Arm, budget: number) =>
    draws.map(({ frontier }) => frontierAt(frontier[start][arm], budget, yardstickOf[start]));
  const rows = klBudgets.map((budget) => [
    budget.toFixed(1),
    ...arms.flatMap((arm) => [
      rate(estimate(at(arm, budget).map(({ outcomes }) => outcomes))),
      at(arm, budget)
        .map(({ kl }) => kl.toFixed(1))
        .join(', '),
    ]),
    points(estimate(draws.map((draw) => gainAt(draw, start, budget)))),
  ]);
  const name = start.replaceAll(' ', '-').toLowerCase();
  const overKl: ChartSeries[] = arms.map((arm) => ({
    name: `${arm} PPO`,
    points: klBudgets.map((budget) => {
      const { value, low, high } = estimate(at(arm, budget).map(({ outcomes }) => outcomes));
      return { x: budget, y: value, low, high };
    }),
  }));
  const overSamples: ChartSeries[] = arms.map((arm) => {
    const chosen = draws.map((draw) => bestOf(draw, start, arm).curve);
    return {
      name: `${arm} PPO`,
      points: chosen[0]!.map(({ samples }, at) => {
        const { value, low, high } = estimate(chosen.map((curve) => curve[at]!.test[yardstickOf[start]]));
        return { x: samples, y: value, low, high };
      }),
    };
  });
  const y = { label: `win rate over ${opponents[yardstickOf[start]]}`, percent: true };
  await writeFile(
    new URL(`plots/${name}-kl.svg`, folder),
    await lineChart({
      title: `PPO from ${named(start)}: win rate at equal KL`,
      x: { label: 'KL budget to the start of PPO, nats a response' },
      y,
      series: overKl,
    }),
  );
  await writeFile(
    new URL(`plots/${name}-samples.svg`, folder),
    await lineChart({
      title: `PPO from ${named(start)}: win rate over samples`,
      x: { label: 'responses sampled in training' },
      y,
      series: overSamples,
    }),
  );
  return `## PPO from ${named(start)}, at equal KL

Win rates over ${opponents[yardstickOf[start]]}. β ${starts[start].join(', ')}, ${ppo.steps} steps of ${ppo.batch_size} responses. A row is what an arm reaches with that KL budget: the
frontier of all checkpoints of all β, chosen on the validation prompts; beside it the KL that each draw spends there.

${table(['KL budget', 'fine-grained', 'KL', 'sequence', 'KL', 'difference'], rows)}

![win rate over KL](plots/${name}-kl.svg) ![win rate over samples](plots/${name}-samples.svg)

${bestCheckpoints(draws, start)}`;
}

/** An arm's best checkpoint in a draw by the validation prompts, whatever KL it takes, with the run that it is of. */
function bestOf(
  { frontier }: DrawResult,
  start: Start,
  arm: Arm,
): Curve[number] & { beta: number; curve: Curve } {
  const curves = frontier[start][arm];
  const { run, at } = chooseCheckpoint(curves, yardstickOf[start]);
  return { ...curves[run]![at]!, beta: starts[start][run]!, curve: curves[run]! };
}

/** Each arm's best checkpoint, and both against each other. */
function bestCheckpoints(draws: DrawResult[], start: Start): string {
  const best = (arm: Arm) => draws.map((draw) => bestOf(draw, start, arm));
  const [fine, sequence] = [best('fine-grained'), best('sequence')];
  const rows = (
    [
      ['fine-grained', fine],
      ['sequence', sequence],
    ] as const
  ).map(([arm, checkpoints]) => [
    arm,
    rate(estimate(checkpoints.map(({ test }) => test.overCareful))),
    rate(estimate(checkpoints.map(({ test }) => test.overStart))),
    checkpoints.map(({ test }) => nats(test.klToStart)).join(', '),
    checkpoints.map(({ test }) => mean(test.length).toFixed(0)).join(', '),
    checkpoints.map(({ beta }) => beta).join(', '),
    checkpoints.map(({ samples }) => samples).join(', '),
  ]);
  const headToHead = estimate(
    fine.map(({ test }, draw) =>
      test.score.map((score, prompt) => judgeScores(score, sequence[draw]!.test.score[prompt]!)),
    ),
  );
  return `Best checkpoints, at whatever KL:

${table(['arm', 'over careful writers', 'over the starting policy', 'KL to the starting policy', 'tokens', 'β', 'samples'], rows)}

Against each other: fine-grained wins ${rate(headToHead)}.`;
}

function placements(draws: DrawResult[]): string {
  const start: Start = 'SFT on edits';
  const atTenth = starts[start].indexOf(0.1);
  const curvesOf = {
    'at their tokens': draws.map(({ frontier }) => frontier[start]['fine-grained'][atTenth]!),
    'summed at the end': draws.map(({ placements }) => placements.end),
    'spread evenly': draws.map(({ placements }) => placements.spread),
    'sequence model': draws.map(({ frontier }) => frontier[start].sequence[atTenth]!),
  };
  const rows = Object.entries(curvesOf).map(([name, curves]) => {
    const best = curves.map((curve) => curve[chooseCheckpoint([curve], yardstickOf[start]).at]!);
    const last = curves.map((curve) => curve.at(-1)!);
    return [
      name,
      rate(estimate(best.map(({ test }) => test.overCareful))),
      best.map(({ test }) => nats(test.klToStart)).join(', '),
      rate(estimate(last.map(({ test }) => test.overCareful))),
      last.map(({ test }) => nats(test.klToStart)).join(', '),
    ];
  });
  return `## Where a gain comes from

From SFT on the edits, β .1, the settings of each arm; win rates over careful writers, KL to the starting policy. The first three have the same survival rewards and the same total for each response.

${table(['rewards', 'best checkpoint', 'KL', 'last checkpoint', 'KL'], rows)}`;
}

/** For each draw: samples in which the fine-grained arm reaches the sequence arm's best, over those the latter took. */
function sampleShares(draws: DrawResult[], start: Start): (number | null)[] {
  return draws.map((draw) => {
    const target = bestOf(draw, start, 'sequence');
    const { curve } = bestOf(draw, start, 'fine-grained');
    const reached = samplesToReach(curve, mean(target.test[yardstickOf[start]]), yardstickOf[start]);
    if (reached === null) return null;
    return target.samples === 0 ? (reached === 0 ? 0 : 1) : reached / target.samples;
  });
}

function samples(draws: DrawResult[]): string {
  const rows = (Object.keys(starts) as Start[]).flatMap((start) => {
    const shares = sampleShares(draws, start);
    return draws.map((draw, index) => {
      const best = bestOf(draw, start, 'sequence');
      return [
        named(start),
        String(draw.seed),
        mean(best.test[yardstickOf[start]]).toFixed(3),
        String(best.samples),
        shares[index]?.toFixed(2) ?? 'never',
      ];
    });
  });
  return `## Samples to the sequence arm's best

${table(['from', 'draw', "sequence arm's best", 'its samples', 'share that fine-grained needs'], rows)}`;
}

function againstSft(draws: DrawResult[]): string {
  const row = (name: string, checkpoints: Curve, sft: Curve): string[] => [
    name,
    rate(estimate(checkpoints.map(({ test }) => test.overCareful))),
    rate(estimate(checkpoints.map(({ test }) => test.overStart))),
    checkpoints.map(({ test }) => nats(test.klToStart)).join(', '),
    checkpoints.map(({ test }) => mean(test.length).toFixed(0)).join(', '),
    points(
      estimate(
        checkpoints.map(({ test }, draw) => difference(test.overCareful, sft[draw]!.test.overCareful)),
      ),
    ),
  ];
  const sft = draws.map(({ sftOnEdits }) => sftOnEdits[0]!);
  const rows = [
    row(
      'starting policy',
      draws.map(({ start }) => start[0]!),
      sft,
    ),
    row('SFT on the edits', sft, sft),
    ...(Object.keys(starts) as Start[]).flatMap((start) =>
      arms.map((arm) =>
        row(
          `${arm} PPO from ${named(start)}`,
          draws.map((draw) => bestOf(draw, start, arm)),
          sft,
        ),
      ),
    ),
  ];
  return `## Against fine-tuning on the edited responses

Best checkpoints by validation. Fine-tuning costs nothing more than the edits; its own epochs and learning rate were taken from the
first experiments (docs/experiments.md) and not tuned here.

${table(['policy', 'over careful writers', 'over the starting policy', 'KL to the starting policy', 'tokens', 'less SFT on the edits'], rows)}`;
}

function tuning(tuned: Tuned): string {
  const rows = arms.flatMap((arm) =>
    tuned[arm].trials.map(({ settings, value }) => [
      arm,
      `${settings.reward.epochs} epochs, ${settings.reward.learning_rate}`,
      `${settings.ppo.critic}, ${settings.ppo.learning_rate}`,
      value.toFixed(3),
      JSON.stringify(settings) === JSON.stringify(tuned[arm].chosen) ? 'chosen' : '',
    ]),
  );
  return `## Tuning

Draw ${tuningDraw}, which is not reported: the same trials for each arm, from SFT on the edits with β .1; win rate over careful writers
of the best checkpoint on the validation prompts. First the critic and the learning rate of PPO, then how the reward model is trained.

${table(['arm', 'reward model: epochs, learning rate', 'PPO: critic, learning rate', 'validation', ''], rows)}`;
}

const named = (start: Start): string =>
  start === 'SFT on edits' ? 'SFT on the edits' : 'the starting policy';

/** An estimate of a KL near 0 may fall below it. */
const nats = (kl: number[]): string => Math.max(0, mean(kl)).toFixed(1);

const percent = (value: number): string => (value * 100).toFixed(1);

export const rate = ({ value, low, high }: Estimate): string =>
  `${percent(value)} [${percent(low)}, ${percent(high)}]`;

/** A difference of win rates in points. */
export function points({ value, low, high, overDraws }: Estimate): string {
  const signed = (share: number): string => `${share < 0 ? '−' : '+'}${percent(Math.abs(share))}`;
  const student = overDraws ? `, t [${signed(overDraws.low)}, ${signed(overDraws.high)}]` : '';
  return `${signed(value)} [${signed(low)}, ${signed(high)}]${student}`;
}

export function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]): string => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}
