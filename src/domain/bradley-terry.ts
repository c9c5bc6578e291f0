// Bradley-Terry ranking (Bradley and Terry 1952): each player has a strength on the scale of the logit, and wins a game with
// probability logistic(own strength − the other's). Shares of a game are taken as they are; intervals are robust to
// dependence between the games of one item.
import { normalQuantile } from './distributions.ts';
import { groupBy } from './judgements.ts';
import { invert, solve } from './linear-equations.ts';
import { logistic } from './logistic-regression.ts';

export interface Game {
  first: number;
  second: number;
  /** Share of the first, 0..1. */
  share: number;
  item: string;
}

export interface Strength {
  /** Logit of winning against the reference. */
  strength: number;
  standard_error: number | null;
  confidence_interval: { low: number; high: number; level: number } | null;
  /** 1 is the strongest; one more than the number of stronger players. */
  rank: number;
  /** From one more than the players that are stronger beyond doubt, to all but those that are weaker beyond doubt. */
  rank_interval: { low: number; high: number } | null;
}

// Each player is given half a win and half a loss against the reference more, so that one that won all stays finite.
const prior = 1;
const mostSteps = 100;

/** Player 0 is the reference, of strength 0. Null when the fit does not settle. */
export function bradleyTerry(games: readonly Game[], players: number, level: number): Strength[] | null {
  const strengths = fit(games, players);
  if (strengths === null) return null;
  const covariance = sandwich(games, strengths);
  const z = -normalQuantile((1 - level) / 2);
  const errorOf = (a: number, b: number): number | null =>
    covariance && Math.sqrt(Math.max(0, covariance[a]![a]! + covariance[b]![b]! - 2 * covariance[a]![b]!));
  const everyone = [...strengths.keys()];
  return strengths.map((strength, player) => {
    const error = player === 0 ? 0 : errorOf(player, 0);
    const beyondDoubt = (stronger: number, weaker: number) =>
      strengths[stronger]! - strengths[weaker]! > z * errorOf(stronger, weaker)!;
    return {
      strength,
      standard_error: error,
      confidence_interval:
        error === null ? null : { low: strength - z * error, high: strength + z * error, level },
      rank: 1 + everyone.filter((other) => strengths[other]! > strength).length,
      rank_interval:
        covariance === null
          ? null
          : {
              low: 1 + everyone.filter((other) => beyondDoubt(other, player)).length,
              high: players - everyone.filter((other) => beyondDoubt(player, other)).length,
            },
    };
  });
}

/** Newton's method on all strengths but the reference's. */
function fit(games: readonly Game[], players: number): number[] | null {
  let strengths = new Array<number>(players).fill(0);
  for (let iteration = 0; iteration < mostSteps; iteration++) {
    const step = solve(information(games, strengths), slope(games, strengths).slice(1));
    if (step === null) return null;
    const scale = Math.min(1, 2 / Math.max(...step.map(Math.abs), 1e-12)); // far steps overshoot
    strengths = strengths.map((value, player) => (player === 0 ? 0 : value + scale * step[player - 1]!));
    if (Math.max(...step.map(Math.abs)) < 1e-9) return strengths;
  }
  return null;
}

/** Of the log-likelihood with the prior, [players]. */
function slope(games: readonly Game[], strengths: readonly number[]): number[] {
  const gradient = strengths.map((strength) => prior * (0.5 - logistic(strength)));
  for (const { first, second, share } of games) {
    const surprise = share - logistic(strengths[first]! - strengths[second]!);
    gradient[first]! += surprise;
    gradient[second]! -= surprise;
  }
  return gradient;
}

/** [players − 1, players − 1], without the reference. */
function information(games: readonly Game[], strengths: readonly number[]): number[][] {
  const bend = (logit: number) => logistic(logit) * (1 - logistic(logit));
  const matrix = strengths.map((strength, a) =>
    strengths.map((_, b) => (a === b ? prior * bend(strength) : 0)),
  );
  for (const { first, second } of games) {
    const weight = bend(strengths[first]! - strengths[second]!);
    matrix[first]![first]! += weight;
    matrix[second]![second]! += weight;
    matrix[first]![second]! -= weight;
    matrix[second]![first]! -= weight;
  }
  return matrix.slice(1).map((row) => row.slice(1));
}

/** Covariance of the strengths, clustered by item, with zeros for the reference; null with fewer than two items. */
function sandwich(games: readonly Game[], strengths: readonly number[]): number[][] | null {
  const bread = invert(information(games, strengths));
  const items = groupBy(games, ({ item }) => item);
  if (bread === null || items.size < 2) return null;
  const size = strengths.length;
  const meat = strengths.map((strength, a) => strengths.map((_, b) => (a === b ? priorScores(strength) : 0)));
  for (const members of items.values()) {
    const scores = new Map<number, number>();
    for (const { first, second, share } of members) {
      const surprise = share - logistic(strengths[first]! - strengths[second]!);
      scores.set(first, (scores.get(first) ?? 0) + surprise);
      scores.set(second, (scores.get(second) ?? 0) - surprise);
    }
    for (const [a, ofA] of scores) for (const [b, ofB] of scores) meat[a]![b]! += ofA * ofB;
  }
  const scale = items.size / (items.size - 1);
  const inner = meat.slice(1).map((row) => row.slice(1).map((value) => value * scale));
  const product = multiply(multiply(bread, inner), bread);
  return [new Array<number>(size).fill(0), ...product.map((row) => [0, ...row])];
}

/** Squared, of the half win and the half loss: where a player has won all, they are what is left of the uncertainty. */
const priorScores = (strength: number): number =>
  prior * 0.25 * (logistic(strength) ** 2 + (1 - logistic(strength)) ** 2);

const multiply = (a: readonly number[][], b: readonly number[][]): number[][] =>
  a.map((row) => b[0]!.map((_, l) => row.reduce((sum, value, k) => sum + value * b[k]![l]!, 0)));
