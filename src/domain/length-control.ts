// Length-controlled win rate (Dubois et al. 2024, AlpacaEval 2): a logistic regression of the outcome on an intercept, the
// length difference and the difficulty of the item; the win rate is then read at no length difference.

export interface LengthControlRow {
  /** Share of the candidate, 0..1. */
  outcome: number;
  /** length of the candidate's response − length of the baseline's */
  lengthDifference: number;
  /** Logit with which the items differ for any candidate; used when every row has it. */
  difficulty?: number | undefined;
  /** Rows of one cluster are not independent of each other. */
  cluster: string;
}

export interface LengthControlled {
  win_rate: number | null;
  /** Robust, clustered by item; by the delta method. */
  standard_error: number | null;
  /** Judgements that have lengths. */
  n: number;
  /** Why there is no figure. */
  reason: string | null;
}

// Penalty ½ · ridge · β² on the slopes, not on the intercept: keeps them finite when lengths separate wins from losses.
const ridge = 1;

/** Soft outcomes are taken as they are. Never NaN: what the data cannot tell has a null and a reason. */
export function lengthControlledWinRate(rows: LengthControlRow[]): LengthControlled {
  const unknown = (reason: string): LengthControlled => ({
    win_rate: null,
    standard_error: null,
    n: rows.length,
    reason,
  });
  const spread = standardDeviation(rows.map((row) => row.lengthDifference));
  if (!(spread > 0))
    return unknown(
      'The length difference is the same in all judgements, so its effect cannot be told apart.',
    );
  const mean = rows.reduce((sum, row) => sum + row.outcome, 0) / rows.length;
  if (mean === 0 || mean === 1)
    return unknown('All outcomes are the same, so the regression has no finite answer.');
  const withDifficulty = rows.every((row) => row.difficulty !== undefined);
  const features = rows.map(({ lengthDifference, difficulty }) => {
    const length = Math.tanh(lengthDifference / spread);
    return withDifficulty ? [1, length, difficulty!] : [1, length];
  });
  const clusters = groupIndices(rows);
  if (clusters.length <= features[0]!.length) return unknown('There are too few items for a regression.');

  const beta = fitLogistic(
    features,
    rows.map((row) => row.outcome),
  );
  if (beta === null) return unknown('The regression did not converge.');
  const atEqualLength = features.map((row) => row.map((value, k) => (k === 1 ? 0 : value)));
  const rates = atEqualLength.map((row) => logistic(dot(row, beta)));
  const winRate = rates.reduce((sum, rate) => sum + rate, 0) / rates.length;
  const gradient = beta.map(
    (_, k) =>
      rates.reduce((sum, rate, i) => sum + rate * (1 - rate) * atEqualLength[i]![k]!, 0) / rates.length,
  );

  // Sandwich: H⁻¹ (Σ over clusters of score scoreᵀ) H⁻¹, read in the direction of the gradient.
  const direction = solve(hessian(features, beta), gradient);
  if (direction === null) return unknown('The regression is not identified.');
  const meat = clusters.reduce((sum, members) => {
    const score = members.reduce(
      (total, i) =>
        total + dot(features[i]!, direction) * (rows[i]!.outcome - logistic(dot(features[i]!, beta))),
      0,
    );
    return sum + score * score;
  }, 0);
  const variance = (clusters.length / (clusters.length - 1)) * meat;
  if (!Number.isFinite(winRate) || !Number.isFinite(variance))
    return unknown('Lengths or difficulties are too large to compute with.');
  return { win_rate: winRate, standard_error: Math.sqrt(variance), n: rows.length, reason: null };
}

function groupIndices(rows: LengthControlRow[]): number[][] {
  const groups = new Map<string, number[]>();
  rows.forEach(({ cluster }, i) => {
    const group = groups.get(cluster);
    if (group) group.push(i);
    else groups.set(cluster, [i]);
  });
  return [...groups.values()];
}

/** Newton's method with halved steps; null when it does not settle. */
function fitLogistic(features: number[][], outcomes: number[]): number[] | null {
  const loss = (beta: number[]) => {
    const penalty = 0.5 * ridge * beta.slice(1).reduce((sum, slope) => sum + slope * slope, 0);
    return features.reduce((sum, row, i) => {
      const z = dot(row, beta);
      return sum + Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z))) - outcomes[i]! * z;
    }, penalty);
  };
  let beta = features[0]!.map(() => 0);
  let current = loss(beta);
  for (let iteration = 0; iteration < 100; iteration++) {
    const gradient = beta.map((value, k) => (k === 0 ? 0 : ridge * value));
    features.forEach((row, i) => {
      const residual = logistic(dot(row, beta)) - outcomes[i]!;
      for (let k = 0; k < row.length; k++) gradient[k]! += residual * row[k]!;
    });
    const step = solve(hessian(features, beta), gradient);
    if (step === null) return null;
    if (Math.max(...step.map(Math.abs)) < 1e-8) return beta;
    let scale = 1;
    let next = beta.map((value, k) => value - step[k]!);
    while (!(loss(next) <= current) && scale > 1e-3) {
      scale /= 2;
      next = beta.map((value, k) => value - scale * step[k]!);
    }
    beta = next;
    current = loss(next);
  }
  return null;
}

/** Of the penalised loss, [parameters, parameters]. */
function hessian(features: number[][], beta: number[]): number[][] {
  const matrix = beta.map((_, k) => beta.map((_, l) => (k === l && k > 0 ? ridge : 0)));
  for (const row of features) {
    const rate = logistic(dot(row, beta));
    for (let k = 0; k < row.length; k++) {
      for (let l = 0; l < row.length; l++) matrix[k]![l]! += rate * (1 - rate) * row[k]! * row[l]!;
    }
  }
  return matrix;
}

/** Gaussian elimination with pivots; null when the matrix is singular. */
function solve(matrix: number[][], right: number[]): number[] | null {
  const rows = matrix.map((row, k) => [...row, right[k]!]);
  const size = right.length;
  for (let k = 0; k < size; k++) {
    const pivot = rows.slice(k).reduce((best, row) => (Math.abs(row[k]!) > Math.abs(best[k]!) ? row : best));
    if (!(Math.abs(pivot[k]!) > 1e-12)) return null;
    rows.splice(rows.indexOf(pivot, k), 1);
    rows.splice(k, 0, pivot);
    for (const row of rows.slice(k + 1)) {
      const factor = row[k]! / pivot[k]!;
      for (let l = k; l <= size; l++) row[l]! -= factor * pivot[l]!;
    }
  }
  const solution = new Array<number>(size).fill(0);
  for (let k = size - 1; k >= 0; k--) {
    const known = rows[k]!.slice(k + 1, size).reduce(
      (sum, value, l) => sum + value * solution[k + 1 + l]!,
      0,
    );
    solution[k] = (rows[k]![size]! - known) / rows[k]![k]!;
  }
  return solution;
}

const logistic = (z: number): number => 1 / (1 + Math.exp(-z));

function dot(a: number[], b: number[]): number {
  let sum = 0;
  for (let k = 0; k < a.length; k++) sum += a[k]! * b[k]!;
  return sum;
}

function standardDeviation(values: number[]): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
}
