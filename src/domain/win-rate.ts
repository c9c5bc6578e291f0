// Win rate of a candidate against a baseline with its uncertainty, as AlpacaEval 2 defines it: the mean of the outcomes, its
// standard error from sd with n − 1 over √n, an outcome of exactly one half a draw. What cannot be computed is null, never NaN.
import { normalQuantile, studentQuantile } from './distributions.ts';
import { type LengthControlled, lengthControlledWinRate } from './length-control.ts';

export interface Judgement {
  item_id: string;
  /** The candidate's share, 0..1; null when the judge failed. */
  outcome: number | null;
  length_candidate?: number;
  length_baseline?: number;
  difficulty?: number;
  judge?: string;
  /** In which order the judge saw the responses; any name, the same for the same order. */
  order?: string | number;
}

export interface ConfidenceInterval {
  low: number;
  high: number;
  level: number;
  /**
   * `wilson`: score interval, for wins and losses only, one judgement per item; also where there is no spread to measure
   * (for any outcomes in 0..1 it is then wide enough). `student_t`: mean ± t · standard error, cut to 0..1.
   * `cluster_robust_t`: the same with items as clusters.
   */
  method: 'wilson' | 'student_t' | 'cluster_robust_t';
}

export interface WinRate {
  win_rate: number | null;
  /** Null with fewer than two items. */
  standard_error: number | null;
  confidence_interval: ConfidenceInterval | null;
  /** Judgements that count. */
  n: number;
  wins: number;
  losses: number;
  ties: number;
  dropped: { null: number; out_of_range: number };
  /** Mean of 1 for a win, ½ for a tie, 0 for a loss. */
  discrete_win_rate: number | null;
  /** Items among the judgements that count. */
  clusters: number;
  /** Null when no judgement has both lengths. */
  length_controlled: LengthControlled | null;
  /** Share of what one judge judged in several orders with the same verdict in all; null when there is none. */
  position_consistency: number | null;
  /** Share of agreeing verdicts among all pairs of judges of the same item; null when there are none. */
  judge_agreement: number | null;
  /** Why a main figure is null. */
  reason: string | null;
}

type Counted = Judgement & { outcome: number };

/** Several judgements of an item make it the cluster of the uncertainty; each judgement has the same weight in the mean. */
export function computeWinRate(
  judgements: readonly Judgement[],
  options: { confidence_level?: number } = {},
): WinRate {
  const failed = judgements.filter(({ outcome }) => outcome === null).length;
  const counted = judgements.filter(
    (one): one is Counted => one.outcome !== null && one.outcome >= 0 && one.outcome <= 1,
  );
  const n = counted.length;
  const outcomes = counted.map(({ outcome }) => outcome);
  const count = (verdict: number) => outcomes.filter((outcome) => verdictOf(outcome) === verdict).length;
  const [wins, losses, ties] = [count(1), count(0), count(0.5)];
  const items = groupBy(counted, ({ item_id }) => item_id);
  const winRate = n === 0 ? null : mean(outcomes);
  const standardError = winRate === null ? null : clusteredError(items, winRate, n);
  return {
    win_rate: winRate,
    standard_error: standardError,
    confidence_interval:
      winRate === null
        ? null
        : interval(
            winRate,
            standardError,
            { clusters: items.size, n, onlyWinsAndLosses: outcomes.every(Number.isInteger) },
            options.confidence_level ?? 0.95,
          ),
    n,
    wins,
    losses,
    ties,
    dropped: { null: failed, out_of_range: judgements.length - failed - n },
    discrete_win_rate: n === 0 ? null : (wins + ties / 2) / n,
    clusters: items.size,
    length_controlled: controlLength(counted),
    position_consistency: positionConsistency(items),
    judge_agreement: judgeAgreement(items),
    reason:
      n === 0
        ? 'No judgement has an outcome between 0 and 1.'
        : standardError === null
          ? 'One item has no spread: judge at least two items for a standard error.'
          : null,
  };
}

/** 1 a win, 0 a loss, ½ a tie: of exactly one half. */
const verdictOf = (outcome: number): number => (outcome > 0.5 ? 1 : outcome < 0.5 ? 0 : 0.5);

const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

function groupBy<Value>(values: Value[], key: (value: Value) => string): Map<string, Value[]> {
  const groups = new Map<string, Value[]>();
  for (const value of values) {
    const group = groups.get(key(value));
    if (group) group.push(value);
    else groups.set(key(value), [value]);
  }
  return groups;
}

/** Cluster-robust standard error of the mean; with one judgement per item it is sd (n − 1) over √n. */
function clusteredError(items: Map<string, Counted[]>, winRate: number, n: number): number | null {
  if (items.size < 2) return null;
  let squares = 0;
  for (const members of items.values())
    squares += members.reduce((sum, { outcome }) => sum + outcome - winRate, 0) ** 2;
  return Math.sqrt((items.size / (items.size - 1)) * squares) / n;
}

function interval(
  winRate: number,
  standardError: number | null,
  { clusters, n, onlyWinsAndLosses }: { clusters: number; n: number; onlyWinsAndLosses: boolean },
  level: number,
): ConfidenceInterval {
  const tail = (1 - level) / 2;
  const clustered = clusters < n;
  if ((onlyWinsAndLosses && !clustered) || !standardError) {
    const z2 = normalQuantile(tail) ** 2;
    const center = (winRate + z2 / (2 * clusters)) / (1 + z2 / clusters);
    const half =
      Math.sqrt(z2 * ((winRate * (1 - winRate)) / clusters + z2 / (4 * clusters ** 2))) / (1 + z2 / clusters);
    return { ...cut(center - half, center + half), level, method: 'wilson' };
  }
  const half = -studentQuantile(tail, clusters - 1) * standardError;
  return {
    ...cut(winRate - half, winRate + half),
    level,
    method: clustered ? 'cluster_robust_t' : 'student_t',
  };
}

const cut = (low: number, high: number) => ({ low: Math.max(0, low), high: Math.min(1, high) });

function controlLength(counted: Counted[]): LengthControlled | null {
  const rows = counted.flatMap(({ item_id, outcome, length_candidate, length_baseline, difficulty }) =>
    length_candidate === undefined || length_baseline === undefined
      ? []
      : [{ cluster: item_id, outcome, lengthDifference: length_candidate - length_baseline, difficulty }],
  );
  return rows.length === 0 ? null : lengthControlledWinRate(rows);
}

/** Verdict of the mean outcome of each group. */
function verdictsBy(members: Counted[], key: (one: Counted) => string | undefined): number[] {
  const named = members.filter((one) => key(one) !== undefined);
  return [...groupBy(named, (one) => key(one)!).values()].map((group) =>
    verdictOf(mean(group.map(({ outcome }) => outcome))),
  );
}

function positionConsistency(items: Map<string, Counted[]>): number | null {
  const verdicts = [...items.values()]
    .flatMap((members) => [...groupBy(members, ({ judge }) => judge ?? '').values()])
    .map((ofJudge) => verdictsBy(ofJudge, ({ order }) => order?.toString()))
    .filter((ofOrders) => ofOrders.length > 1);
  if (verdicts.length === 0) return null;
  return verdicts.filter((ofOrders) => new Set(ofOrders).size === 1).length / verdicts.length;
}

function judgeAgreement(items: Map<string, Counted[]>): number | null {
  let pairs = 0;
  let agreeing = 0;
  for (const members of items.values()) {
    const verdicts = verdictsBy(members, ({ judge }) => judge);
    pairs += (verdicts.length * (verdicts.length - 1)) / 2;
    for (const verdict of [0, 0.5, 1]) {
      const same = verdicts.filter((other) => other === verdict).length;
      agreeing += (same * (same - 1)) / 2;
    }
  }
  return pairs === 0 ? null : agreeing / pairs;
}
