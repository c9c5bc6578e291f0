// The part of bench/RESULTS.md on pipelines, from the files of the draws and of the tuning alone.

import { judgeScores } from '../../examples/world/annotators.ts';
import {
  type Checkpoint,
  chooseCheckpoint,
  difference,
  type Estimate,
  estimate,
  frontierAt,
  mean,
  type Yardstick,
} from '../loop/frontier.ts';
import { sizes } from '../loop/plan.ts';
import { points, rate, table, verdict } from '../loop/results.ts';
import { writePart } from '../report.ts';
import { candidates, reportedDraws, rivalries, tuningDraw } from './plan.ts';
import { tiers } from './reported.ts';
import { type Run, readRun, type StoredDraw, unpackScores } from './stored.ts';
import type { Trial } from './tuning.ts';

const yardstick: Yardstick = 'overCareful';
/** nats a response, to the starting policy */
const klBudgets = [2, 2.5, 3, 4, 5];

interface Best extends Checkpoint {
  settings: object;
}

/** An arm's best checkpoint of all its runs by the validation prompts, at whatever KL; undefined where it was not run. */
function bestOf(draw: StoredDraw, arm: string): Best | undefined {
  const runs = runsOf(draw, arm);
  if (runs.length === 0) return undefined;
  const { run, at } = chooseCheckpoint(
    runs.map(({ curve }) => curve),
    yardstick,
  );
  return { ...runs[run]!.curve[at]!, settings: runs[run]!.settings };
}

const candidateOf = (arms: string[]): string => candidates.find((arm) => arms.includes(arm)) ?? candidates[0];

const runsOf = (draw: StoredDraw, arm: string): Run[] =>
  (draw.arms[arm] ?? []).map((run) => readRun(draw, run));

/** Of careful writers, on the test prompts of all draws. */
const flawlessShare = (draws: StoredDraw[]): number =>
  mean(
    draws.flatMap(({ opponents }) =>
      unpackScores(opponents.test.careful).map((score) => Number(score === 0)),
    ),
  );
const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
const flawless = (draws: StoredDraw[]): string => percent(flawlessShare(draws));
const ceiling = (draws: StoredDraw[]): string => percent(1 - flawlessShare(draws) / 2);

/** Draws of another scenario. */
export interface Elsewhere {
  name: string;
  draws: StoredDraw[];
}

export async function writeResults(
  draws: StoredDraw[],
  elsewhere: Elsewhere[],
  tuning: Trial[],
): Promise<void> {
  const arms = [...new Set(draws.flatMap((draw) => Object.keys(draw.arms)))];
  await writePart(
    'pipeline',
    [
      opening(draws, arms),
      reached(draws, arms),
      armTable(draws, arms),
      atEqualKl(draws, arms),
      ...elsewhere.filter((other) => other.draws.length > 0).map(inScenario),
      trials(tuning),
    ].join('\n\n'),
  );
}

function opening(draws: StoredDraw[], arms: string[]): string {
  const missing = [...new Set(tiers.flat().map(({ arm }) => arm))].filter((arm) => !arms.includes(arm));
  const notRun = missing.length === 0 ? '' : `\n- Planned and not run yet: ${missing.join('; ')}.`;
  return `# Pipelines from the same edits

Made by \`npm run bench:pipeline\`: ${draws.length} of ${reportedDraws.length} planned, independent draws of the demo world (seeds ${draws.map(({ seed }) => seed).join(', ')}), sizes, starting
policy and reward models as in bench:loop; ${draws.map(({ edits }) => edits).join(', ')} edits. Every arm has the same demonstrations and pairs,
and as many edits; with two rounds half of these are made on answers of the policy (bench/pipeline/rounds.ts).

- Win rates are over **careful writers**, of whose responses ${flawless(draws)} have no defect: a policy without a single defect has
  ${ceiling(draws)}. They are on ${sizes.testPrompts} test prompts a draw (ties count one half). Runs and checkpoints are chosen on
  ${sizes.validationPrompts} other prompts; settings on draw ${tuningDraw}, which is not reported, but for the
  arms with 160 steps: more steps were tried because these draws' curves still rose, and β .02 after a look at draw 206.
- [..] is a 95 % bootstrap over draws and prompts; t [..] is Student's interval over the draws' means.
- KL is k1, nats a response, to the starting policy. Best-of-n spends log n − (n − 1) / n more than what it samples from.${notRun}`;
}

/** Paired by prompt, on the draws that have both. */
function gain(
  draws: StoredDraw[],
  arm: string,
  over: string,
): { gained: Estimate; draws: number } | undefined {
  const values = draws.flatMap((draw) => {
    const [ours, theirs] = [bestOf(draw, arm), bestOf(draw, over)];
    return ours && theirs ? [difference(ours.test[yardstick], theirs.test[yardstick])] : [];
  });
  return values.length > 0 ? { gained: estimate(values), draws: values.length } : undefined;
}

function reached(draws: StoredDraw[], arms: string[]): string {
  const candidate = candidateOf(arms);
  const worst = arms
    .filter((arm) => arm !== candidate)
    .map((arm) => ({ arm, ...gain(draws, candidate, arm) }))
    .filter(({ gained }) => gained)
    .sort((a, b) => a.gained!.value - b.gained!.value)[0];
  if (!worst) return '';
  return `## What was to reach

${rivalries
  .flatMap(([ours, theirs]) => {
    const over = gain(draws, ours, theirs);
    if (!over) return [];
    const reached = over.gained.value >= 0.1 && over.gained.low > 0;
    return verdict(
      `"${ours}" over "${theirs}" by ≥ 10 points, bootstrap above 0 (${over.draws} draws)`,
      reached,
      points(over.gained),
    );
  })
  .join('\n')}
${verdict(
  `"${candidate}" above every other arm, bootstrap above 0`,
  worst.gained!.low > 0,
  `least over "${worst.arm}": ${points(worst.gained!)}`,
)}`;
}

/** The candidate's win rate over an arm, on the draws that have both. */
function headToHead(draws: StoredDraw[], candidate: string, arm: string): Estimate {
  return estimate(
    draws.flatMap((draw) => {
      const [ours, theirs] = [bestOf(draw, candidate), bestOf(draw, arm)];
      return ours && theirs
        ? [ours.test.score.map((score, prompt) => judgeScores(score, theirs.test.score[prompt]!))]
        : [];
    }),
  );
}

function armTable(draws: StoredDraw[], arms: string[]): string {
  return `## Best checkpoints, at whatever KL

"candidate ahead by" is paired by prompt, over the draws that have both arms.

${tableOf(draws, arms)}`;
}

function tableOf(draws: StoredDraw[], arms: string[]): string {
  const candidate = candidateOf(arms);
  const rows = arms
    .map((arm) => {
      const best = draws.map((draw) => bestOf(draw, arm)).filter((one) => one !== undefined);
      const won = estimate(best.map(({ test }) => test[yardstick]));
      const ahead = arm === candidate ? undefined : gain(draws, candidate, arm);
      const cells = [
        arm === candidate ? `**${arm}**` : arm,
        String(best.length),
        rate(won),
        won.draws.map((value) => (100 * value).toFixed(0)).join(', '),
        rate(estimate(best.map(({ test }) => test.score.map((score) => Number(score === 0))))),
        arm === candidate ? '–' : rate(headToHead(draws, candidate, arm)),
        best.map(({ test }) => Math.max(0, mean(test.klToStart)).toFixed(1)).join(', '),
        best.map(({ test }) => mean(test.length).toFixed(0)).join(', '),
        ahead ? points(ahead.gained) : '–',
      ];
      return { cells, value: won.value };
    })
    .sort((a, b) => b.value - a.value);
  return table(
    [
      'arm',
      'draws',
      'over careful writers',
      'each draw',
      'without a defect',
      'candidate wins against it',
      'KL',
      'tokens',
      'candidate ahead by',
    ],
    rows.map(({ cells }) => cells),
  );
}

function atEqualKl(draws: StoredDraw[], arms: string[]): string {
  const rows = arms
    .filter((arm) => arm !== 'starting policy')
    .map((arm) => [
      arm,
      ...klBudgets.map((budget) => {
        const outcomes = draws.flatMap((draw) => {
          const curves = runsOf(draw, arm).map(({ curve }) => curve);
          return curves.length > 0 && spendsAsLittle(curves.flat(), budget)
            ? [frontierAt(curves, budget, yardstick).outcomes]
            : [];
        });
        const having = draws.filter((draw) => draw.arms[arm]).length;
        return outcomes.length === having && having > 0 ? rate(estimate(outcomes)) : '–';
      }),
    ]);
  return `## At equal KL to the starting policy

What an arm reaches with a KL budget: the frontier of the checkpoints of all its runs, chosen on the validation prompts. Beyond its last
checkpoint an arm keeps what it has; – where it spends more in some draw.

${table(['arm', ...klBudgets.map((budget) => `${budget} nats`)], rows)}`;
}

const purposeOf: Record<string, string> = {
  records: `## Another domain: records

A person's facts become a JSON object with the keys that are asked for, in their order (bench/records/records.ts); what goes wrong is values,
types, keys, order and syntax. Nothing is tuned to it.`,
  'larger policy': `## A larger policy

The demo world with 0.8 million parameters instead of 0.14, in every model (128 wide, 3 layers); nothing is tuned to it.`,
};

function inScenario({ name, draws }: Elsewhere): string {
  const arms = [...new Set(draws.flatMap((draw) => Object.keys(draw.arms)))];
  const over = rivalries.flatMap(([ours, theirs]) => {
    const ahead = gain(draws, ours, theirs);
    return ahead ? [`"${ours}" over "${theirs}" by ${points(ahead.gained)}.`] : [];
  });
  const figures = draws.map(({ seed, rewardModels: { survival, seq_edits } }) => [
    String(seed),
    ...[survival?.pair_accuracy, survival?.bad_token_auc, seq_edits?.pair_accuracy].map(
      (value) => value?.toFixed(3) ?? '–',
    ),
  ]);
  return `${purposeOf[name]} ${draws.length} draws (seeds ${draws.map(({ seed }) => seed).join(', ')}). ${over.join(' ')}

${tableOf(draws, arms)}

${table(['draw', 'survival: pair_accuracy', 'bad_token_auc', 'seq_edits: pair_accuracy'], figures)}`;
}

const spendsAsLittle = (checkpoints: Checkpoint[], budget: number): boolean =>
  checkpoints.some(({ validation }) => mean(validation.klToStart) <= budget);

function trials(tuning: Trial[]): string {
  const nats = (kl: number): string => Math.max(0, kl).toFixed(1);
  const rows = tuning.map(({ arm, settings, value, klToStart, last }) => [
    arm,
    JSON.stringify(settings).replaceAll(/[{}"]/g, '').replaceAll(',', ', '),
    value.toFixed(3),
    nats(klToStart),
    last.value.toFixed(3),
    nats(last.klToStart),
  ]);
  return `## Tuning

Draw ${tuningDraw}: best and last checkpoint of each trial on the validation prompts, over careful writers; those of DPO have what it
starts from as their first. Fine-grained and sequence PPO begin from
what bench:loop tuned them to.

${table(['arm', 'settings', 'best', 'KL', 'last', 'KL'], rows)}`;
}
