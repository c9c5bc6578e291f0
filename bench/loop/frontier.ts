// Learning curves and the KL frontier: what an arm reaches for the KL that it spends, with intervals over draws and
// prompts. Pure. Runs are chosen on validation prompts and reported on test prompts (ALGORITHM 3).

import { createRandom } from '../../examples/world/random.ts';
import { studentQuantile } from '../../src/domain/distributions.ts';

export const promptSets = ['validation', 'test'] as const;
export type PromptSet = (typeof promptSets)[number];
export const yardsticks = ['overCareful', 'overStart'] as const;
export type Yardstick = (typeof yardsticks)[number];

/** What a judge and the policies themselves say of a checkpoint's responses: one entry for each prompt. */
export interface Judged extends Record<Yardstick, number[]> {
  /** summed log-ratio over the policy that the run starts from, nats a response: what PPO pays for */
  kl: number[];
  /** the same over the starting policy of the draw */
  klToStart: number[];
  /** tokens */
  length: number[];
  /** hidden score */
  score: number[];
}

export interface Checkpoint extends Record<PromptSet, Judged> {
  step: number;
  /** responses that training has sampled so far */
  samples: number;
}

/** A run's checkpoints in the order of training. */
export type Curve = Checkpoint[];

export const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

/** What an arm reaches with a KL budget, on the test prompts. */
export interface AtBudget {
  /** one for each prompt */
  outcomes: number[];
  /** spent there, mean over the test prompts */
  kl: number;
}

/**
 * The KL frontier of an arm at a budget: of all checkpoints of its runs those that no other one beats with less KL, chosen
 * on the validation prompts; between two of them both are mixed so that the KL is the budget (a policy that tosses a coin
 * between them spends no more). Beyond the last one the arm keeps what it has.
 * @throws Error for a budget below that of every checkpoint
 */
export function frontierAt(curves: Curve[], budget: number, yardstick: Yardstick): AtBudget {
  const front = paretoFront(curves.flat(), yardstick);
  const next = front.findIndex(({ kl }) => kl > budget);
  if (next === 0) throw new Error(`No checkpoint spends as little as ${budget}.`);
  const before = front.at(next === -1 ? -1 : next - 1)!;
  const after = next === -1 ? before : front[next]!;
  const share = after === before ? 0 : (budget - before.kl) / (after.kl - before.kl);
  const mix = (read: (test: Judged) => number[]): number[] => {
    const later = read(after.checkpoint.test);
    return read(before.checkpoint.test).map((value, prompt) => value * (1 - share) + later[prompt]! * share);
  };
  return { outcomes: mix((test) => test[yardstick]), kl: mean(mix((test) => test.kl)) };
}

/** Checkpoints by rising KL, each better than all that spend less; as the validation prompts have it. */
function paretoFront(
  checkpoints: Checkpoint[],
  yardstick: Yardstick,
): { kl: number; checkpoint: Checkpoint }[] {
  const byKl = checkpoints
    .map((checkpoint) => ({ kl: mean(checkpoint.validation.kl), checkpoint }))
    .sort((a, b) => a.kl - b.kl);
  let best = -1;
  return byKl.filter(({ checkpoint }) => {
    const value = mean(checkpoint.validation[yardstick]);
    if (value <= best) return false;
    best = value;
    return true;
  });
}

/** The checkpoint that does best on the validation prompts, of all runs; the earlier one of equals. */
export function chooseCheckpoint(curves: Curve[], yardstick: Yardstick): { run: number; at: number } {
  let chosen = { run: 0, at: 0, value: -1 };
  for (const [run, curve] of curves.entries()) {
    for (const [at, checkpoint] of curve.entries()) {
      const value = mean(checkpoint.validation[yardstick]);
      if (value > chosen.value) chosen = { run, at, value };
    }
  }
  return chosen;
}

/** Samples of the first checkpoint whose test outcome reaches `target`; null if none does. */
export function samplesToReach(curve: Curve, target: number, yardstick: Yardstick): number | null {
  return curve.find((checkpoint) => mean(checkpoint.test[yardstick]) >= target)?.samples ?? null;
}

export interface Estimate {
  /** mean over the draws of each draw's mean over prompts */
  value: number;
  /** percentile bootstrap, drawing draws and then prompts within them */
  low: number;
  high: number;
  /** Student's t over the draws' means, null for a single draw */
  overDraws: { low: number; high: number } | null;
  draws: number[];
}

const bootstrapDraws = 4000;
const level = 0.95;

/** @param values for each draw one number for each prompt */
export function estimate(values: number[][]): Estimate {
  const random = createRandom('bench/bootstrap');
  const draws = values.map(mean);
  const value = mean(draws);
  const pick = (count: number): number => Math.floor(random.next() * count);
  const means = Array.from({ length: bootstrapDraws }, () =>
    mean(
      draws.map(() => {
        const prompts = values[pick(values.length)]!;
        let sum = 0;
        for (let i = 0; i < prompts.length; i++) sum += prompts[pick(prompts.length)]!;
        return sum / prompts.length;
      }),
    ),
  ).sort((a, b) => a - b);
  const quantile = (q: number): number =>
    means[Math.min(bootstrapDraws - 1, Math.floor(q * bootstrapDraws))]!;
  return {
    value,
    low: quantile((1 - level) / 2),
    high: quantile((1 + level) / 2),
    overDraws: draws.length > 1 ? studentInterval(draws, value) : null,
    draws,
  };
}

function studentInterval(values: number[], centre: number): { low: number; high: number } {
  const n = values.length;
  const variance = values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (n - 1);
  const half = studentQuantile((1 + level) / 2, n - 1) * Math.sqrt(variance / n);
  return { low: centre - half, high: centre + half };
}

/** Paired by prompt. */
export const difference = (a: number[], b: number[]): number[] =>
  a.map((value, prompt) => value - b[prompt]!);
