// Logistic regression with soft labels and weights: with a ridge by Newton's method, with a lasso by coordinate descent on the
// Newton model of the loss. Both take what they are given: columns hold one value for each row.
import { solve } from './linear-equations.ts';

export interface LogisticData {
  /** [features, rows] */
  columns: readonly Float64Array[];
  /** Share of ones, 0..1. */
  outcomes: Float64Array;
  /** 1 for each row when left out. */
  weights?: Float64Array;
  /** Added to what the regression predicts on the scale of the logit. */
  offsets?: Float64Array;
}

const mostSteps = 100;
const settled = 1e-8;

export const logistic = (z: number): number => 1 / (1 + Math.exp(-z));

/** Logit of each row. */
export function predictLogits({ columns, outcomes, offsets }: LogisticData, beta: readonly number[]) {
  const logits = offsets ? Float64Array.from(offsets) : new Float64Array(outcomes.length);
  columns.forEach((column, k) => {
    const slope = beta[k]!;
    for (let i = 0; i < logits.length; i++) logits[i]! += slope * column[i]!;
  });
  return logits;
}

/** Minimises the loss + ½ Σ ridge · β²; null when it does not settle. @param ridge [features] */
export function fitRidge(data: LogisticData, ridge: readonly number[]): number[] | null {
  const penalty = (beta: readonly number[]) =>
    beta.reduce((sum, slope, k) => sum + 0.5 * ridge[k]! * slope * slope, 0);
  return descend(data, penalty, (beta, { gradient, hessian }) => {
    const slope = gradient.map((value, k) => value + ridge[k]! * beta[k]!);
    const step = solve(withRidge(hessian, ridge), slope);
    return step?.map((value) => -value) ?? null;
  });
}

/** Minimises strength · loss + Σ |β|, as liblinear does; null when it does not settle. */
export function fitLasso(data: LogisticData, strength: number, start?: readonly number[]): number[] | null {
  const lambda = 1 / strength;
  const penalty = (beta: readonly number[]) => lambda * beta.reduce((sum, slope) => sum + Math.abs(slope), 0);
  return descend(
    data,
    penalty,
    (beta, { gradient, hessian }) => lassoStep(beta, gradient, hessian, lambda),
    start,
  );
}

export interface Curvature {
  /** [features] */
  gradient: number[];
  /** [features, features] */
  hessian: number[][];
}

/** Steps of Newton's kind, halved until the penalised loss falls. */
function descend(
  data: LogisticData,
  penalty: (beta: readonly number[]) => number,
  stepFrom: (beta: readonly number[], curvature: Curvature) => number[] | null,
  start: readonly number[] = data.columns.map(() => 0),
): number[] | null {
  const penalised = (beta: readonly number[]) => lossOf(data, beta) + penalty(beta);
  let beta = [...start];
  let current = penalised(beta);
  for (let iteration = 0; iteration < mostSteps; iteration++) {
    const step = stepFrom(beta, curvatureOf(data, beta));
    if (step === null) return null;
    if (Math.max(...step.map(Math.abs)) < settled) return beta;
    let scale = 1;
    let next = beta.map((value, k) => value + step[k]!);
    let loss = penalised(next);
    while (!(loss <= current) && scale > 1e-3) {
      scale /= 2;
      next = beta.map((value, k) => value + scale * step[k]!);
      loss = penalised(next);
    }
    beta = next;
    current = loss;
  }
  return null;
}

function lossOf(data: LogisticData, beta: readonly number[]): number {
  const { outcomes, weights } = data;
  const logits = predictLogits(data, beta);
  let loss = 0;
  for (let i = 0; i < logits.length; i++) loss += (weights?.[i] ?? 1) * rowLoss(logits[i]!, outcomes[i]!);
  return loss;
}

/** Negative log-likelihood of one soft label. */
export const rowLoss = (logit: number, outcome: number): number =>
  Math.max(logit, 0) + Math.log1p(Math.exp(-Math.abs(logit))) - outcome * logit;

/** Of the loss without a penalty. */
export function curvatureOf(data: LogisticData, beta: readonly number[]): Curvature {
  const { columns, outcomes, weights } = data;
  const logits = predictLogits(data, beta);
  const gradient = columns.map(() => 0);
  const hessian = columns.map(() => columns.map(() => 0));
  for (let i = 0; i < logits.length; i++) {
    const rate = logistic(logits[i]!);
    const weight = weights?.[i] ?? 1;
    const bend = weight * rate * (1 - rate);
    for (let k = 0; k < columns.length; k++) {
      const value = columns[k]![i]!;
      gradient[k]! += weight * (rate - outcomes[i]!) * value;
      for (let l = 0; l <= k; l++) hessian[k]![l]! += bend * value * columns[l]![i]!;
    }
  }
  for (let k = 0; k < columns.length; k++)
    for (let l = k + 1; l < columns.length; l++) hessian[k]![l] = hessian[l]![k]!;
  return { gradient, hessian };
}

export const withRidge = (hessian: readonly number[][], ridge: readonly number[]): number[][] =>
  hessian.map((row, k) => row.map((value, l) => (k === l ? value + ridge[k]! : value)));

/** The step that minimises gradientᵀ d + ½ dᵀ H d + λ |β + d|, one coordinate after the other. */
function lassoStep(
  beta: readonly number[],
  gradient: readonly number[],
  hessian: readonly number[][],
  lambda: number,
): number[] {
  const step = beta.map(() => 0);
  for (let sweep = 0; sweep < 1000; sweep++) {
    let change = 0;
    for (let k = 0; k < step.length; k++) {
      const bend = hessian[k]![k]!;
      if (!(bend > 0)) continue;
      const slope = gradient[k]! + hessian[k]!.reduce((sum, value, l) => sum + value * step[l]!, 0);
      const target = beta[k]! + step[k]! - slope / bend;
      const shrunk = Math.sign(target) * Math.max(0, Math.abs(target) - lambda / bend);
      const next = shrunk - beta[k]!;
      change = Math.max(change, Math.abs(next - step[k]!));
      step[k] = next;
    }
    if (change < settled / 10) break;
  }
  return step;
}
