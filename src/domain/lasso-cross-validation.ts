// A lasso whose strength is chosen by cross-validation, as scikit-learn's LogisticRegressionCV chooses it for AlpacaEval: the
// one of ten strengths with the least loss on the folds that were left out, fitted again on all rows.
import { fitLasso, type LogisticData, predictLogits, rowLoss } from './logistic-regression.ts';

const foldCount = 5;
/** What the penalty is divided by: scikit-learn's grid. */
const inversePenalties = Array.from({ length: 10 }, (_, k) => 10 ** (-4 + (8 * k) / 9));

export interface ChosenLasso {
  beta: number[];
  inversePenalty: number;
}

/** Rows of one cluster are left out together. Null when a fit does not settle. @param clusters numbers of the rows of each */
export function fitCrossValidatedLasso(
  data: LogisticData,
  clusters: readonly (readonly number[])[],
): ChosenLasso | null {
  const foldOf = new Uint8Array(data.outcomes.length);
  clusters.forEach((members, k) => {
    for (const i of members) foldOf[i] = k % foldCount;
  });
  const losses = inversePenalties.map(() => 0);
  for (let fold = 0; fold < foldCount; fold++) {
    const kept = rowsWhere(data, (i) => foldOf[i] !== fold);
    const leftOut = rowsWhere(data, (i) => foldOf[i] === fold);
    let beta: number[] | null = data.columns.map(() => 0);
    for (const [k, inversePenalty] of inversePenalties.entries()) {
      beta = fitLasso(kept, inversePenalty, beta);
      if (beta === null) return null;
      losses[k]! += meanLoss(leftOut, beta);
    }
  }
  const inversePenalty = inversePenalties[losses.indexOf(Math.min(...losses))]!;
  const beta = fitLasso(data, inversePenalty);
  return beta && { beta, inversePenalty };
}

function rowsWhere(data: LogisticData, isIn: (row: number) => boolean): LogisticData {
  const keep = (values: Float64Array) => values.filter((_, i) => isIn(i));
  return {
    columns: data.columns.map(keep),
    outcomes: keep(data.outcomes),
    ...(data.weights ? { weights: keep(data.weights) } : {}),
  };
}

function meanLoss(data: LogisticData, beta: readonly number[]): number {
  const logits = predictLogits(data, beta);
  let loss = 0;
  for (let i = 0; i < logits.length; i++)
    loss += (data.weights?.[i] ?? 1) * rowLoss(logits[i]!, data.outcomes[i]!);
  return loss / logits.length;
}
