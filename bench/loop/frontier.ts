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

/**
 * Outcomes [prompts] of a run at a KL, interpolated between the two checkpoints around it: where training passes that
 * KL for the first time. null for a KL that the run never has.
 */
export function outcomesAtKl(
  curve: Curve,
  kl: number,
  set: PromptSet,
  yardstick: Yardstick,
): number[] | null {
  const spent = curve.map((checkpoint) => mean(checkpoint[set].kl));
  for (let i = 0; i + 1 < curve.length; i++) {
    const [before, after] = [spent[i]!, spent[i + 1]!];
    if (before > kl || after < kl || before === after) continue;
    const share = (kl - before) / (after - before);
    const outcomes = (at: number): number[] => curve[at]![set][yardstick];
    return outcomes(i).map((outcome, prompt) => outcome * (1 - share) + outcomes(i + 1)[prompt]! * share);
  }
  return null;
}

/** The run that does best at a KL on the validation prompts; its index, or null when none has that KL in both sets. */
export function chooseAtKl(curves: Curve[], kl: number, yardstick: Yardstick): number | null {
  let chosen: { index: number; value: number } | null = null;
  for (const [index, curve] of curves.entries()) {
    const outcomes = outcomesAtKl(curve, kl, 'validation', yardstick);
    if (!outcomes || !outcomesAtKl(curve, kl, 'test', yardstick)) continue;
    if (!chosen || mean(outcomes) > chosen.value) chosen = { index, value: mean(outcomes) };
  }
  return chosen === null ? null : chosen.index;
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
