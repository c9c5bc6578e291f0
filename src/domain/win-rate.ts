// Win rate of a candidate against a baseline with its uncertainty, as AlpacaEval 2 defines it: the mean of the outcomes, its
// standard error from sd with n − 1 over √n, an outcome of exactly one half a draw. What cannot be computed is null, never NaN.
// docs/win-rates.md has each figure, its formula and its source.
import { type BootstrapInterval, type BootstrapOptions, bootstrapMean } from './bootstrap.ts';
import { bradleyTerry, type Strength } from './bradley-terry.ts';
import {
  type AgreementOptions,
  type JudgeAgreement,
  judgeAgreement,
  judgedItems,
  type PredictionPowered,
  predictionPowered,
} from './judge-agreement.ts';
import {
  type Counted,
  groupBy,
  isCounted,
  type Judgement,
  mean,
  sumClusters,
  verdictOf,
} from './judgements.ts';
import {
  estimateItemDifficulty,
  type LengthControlled,
  type LengthControlMethod,
  type LengthControlRow,
  lengthControlledWinRate,
} from './length-control.ts';
import {
  type ConfidenceInterval,
  clusteredVariance,
  detectableDifference,
  type MeanEstimate,
  meanInterval,
  total,
} from './mean-interval.ts';
import {
  type ItemOutcomes,
  outcomesByItem,
  type PairedDifference,
  pairedDifference,
} from './paired-difference.ts';
import {
  type OverTrainings,
  pairedTrainingVariance,
  type TrainingVariance,
  trainingVariance,
} from './training-variance.ts';
import { notesOn, summarise } from './win-rate-sentences.ts';

export type { Judgement } from './judgements.ts';
export type { ConfidenceInterval } from './mean-interval.ts';

export interface WinRateOptions {
  confidence_level?: number;
  /** None when left out. */
  bootstrap?: BootstrapOptions;
  length_control?: {
    method?: LengthControlMethod;
    /** Candidates that are versions of the baseline told to be long or short: they count nowhere but in `alpaca_eval`. */
    gamed_baselines?: readonly string[];
  };
  imputation_bounds?: boolean;
  /** The candidate came out of training, which would come out otherwise another time. */
  trained_policies?: boolean;
  agreement?: AgreementOptions;
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
  /** Distance from ½ that a test at this level finds with 80 % power. */
  minimal_detectable_difference: number | null;
  nulls: Nulls;
  imputation_bounds: { all_lost: Bound; all_won: Bound } | null;
  bootstrap: BootstrapInterval | null;
  training: TrainingVariance | null;
  /** Why a main figure is null. */
  reason: string | null;
}

export interface Nulls {
  /** Of all judgements; null without any. */
  share: number | null;
  /** Most frequent first; the reason is null where none was given. */
  by_reason: { reason: string | null; count: number; share: number }[];
}

interface Bound {
  win_rate: number;
  confidence_interval: ConfidenceInterval;
}

/** What people say of the judge. */
export interface CheckedByPeople {
  agreement: JudgeAgreement | null;
  prediction_powered: PredictionPowered | null;
}

export interface CandidateWinRate extends WinRate, CheckedByPeople {
  candidate: string | null;
}

export interface Comparison extends PairedDifference {
  candidates: [first: string | null, second: string | null];
  /** Null when no judgement names a training, or nothing is compared. */
  training: OverTrainings | null;
}

export interface Ranked extends Strength {
  /** null for the baseline, and for judgements that name no candidate */
  candidate: string | null;
  is_baseline: boolean;
}

/** Of all candidates together, and of each when there are several. */
export interface WinRateReport extends WinRate, CheckedByPeople {
  candidates: CandidateWinRate[] | null;
  comparisons: Comparison[] | null;
  /** Strongest first; the baseline is one of the players. */
  ranking: Ranked[] | null;
  /** The result in one or two plain sentences. */
  summary: string;
  /** What one should know before one relies on it. */
  notes: string[];
}

const defaultLevel = 0.95;

/**
 * Several judgements of an item make it the cluster of the uncertainty; each judgement has the same weight in the mean.
 * @param beside judgements by people, each with its judge, that count nowhere but in what they say of all others
 */
export function computeWinRate(
  judgements: readonly Judgement[],
  options: WinRateOptions = {},
  beside: readonly Judgement[] = [],
): WinRateReport {
  const level = options.confidence_level ?? defaultLevel;
  const gamedNames = new Set(options.length_control?.gamed_baselines);
  const isGamed = ({ candidate }: Judgement) => candidate !== undefined && gamedNames.has(candidate);
  const judged = gamedNames.size === 0 ? judgements : judgements.filter((one) => !isGamed(one));
  const counted = judged.filter(isCounted);
  const shared: Shared = {
    options,
    level,
    difficulty: estimateItemDifficulty(lengthRows(counted)),
    gamed: lengthRows(judgements.filter((one) => isGamed(one)).filter(isCounted)),
  };
  const check = checking(counted, beside.filter(isCounted), shared);
  const pooled = figuresOf(judged, shared);
  const figures = { ...pooled, ...severalCandidates(judged, shared, check), ...check(() => true) };
  const name = judged[0]?.candidate ?? null;
  return { ...figures, summary: summarise(figures, level, name), notes: notesOn(figures, options) };
}

/** What the figures of all candidates have in common. */
interface Shared {
  options: WinRateOptions;
  level: number;
  difficulty: ReadonlyMap<string, number> | null;
  gamed: LengthControlRow[];
}

function figuresOf(judgements: readonly Judgement[], shared: Shared): WinRate {
  const { options, level } = shared;
  const counted = judgements.filter(isCounted);
  const failed = judgements.filter(({ outcome }) => outcome === null);
  const n = counted.length;
  const count = (verdict: number) => counted.filter(({ outcome }) => verdictOf(outcome) === verdict).length;
  const [wins, losses, ties] = [count(1), count(0), count(0.5)];
  const sums = sumClusters(groupBy(counted, ({ item_id }) => item_id));
  const estimate = n === 0 ? null : estimateMean(counted, sums);
  return {
    win_rate: estimate?.mean ?? null,
    standard_error: estimate?.standardError ?? null,
    confidence_interval: estimate && meanInterval(estimate, level),
    n,
    wins,
    losses,
    ties,
    dropped: { null: failed.length, out_of_range: judgements.length - failed.length - n },
    discrete_win_rate: n === 0 ? null : (wins + ties / 2) / n,
    clusters: sums.sums.length,
    length_controlled: controlLength(counted, shared),
    position_consistency: positionConsistency(counted),
    judge_agreement: agreementOfJudges(counted),
    minimal_detectable_difference:
      estimate && detectableDifference(estimate.standardError, estimate.clusters, level),
    nulls: nullsOf(failed, judgements.length),
    imputation_bounds: options.imputation_bounds ? imputationBounds(judgements, level) : null,
    bootstrap: options.bootstrap ? bootstrapMean(sums, options.bootstrap, level) : null,
    training: severalNames(counted) ? null : trainingVariance(counted, level),
    reason:
      estimate === null
        ? 'No judgement has an outcome between 0 and 1.'
        : estimate.standardError === null
          ? 'One item has no spread: judge at least two items for a standard error.'
          : null,
  };
}

function estimateMean(
  counted: readonly Counted[],
  sums = sumClusters(groupBy(counted, ({ item_id }) => item_id)),
): MeanEstimate {
  const variance = clusteredVariance(sums);
  return {
    mean: total(sums.sums) / counted.length,
    standardError: variance === null ? null : Math.sqrt(variance),
    clusters: sums.sums.length,
    n: counted.length,
    onlyWinsAndLosses: counted.every(({ outcome }) => Number.isInteger(outcome)),
  };
}

function nullsOf(failed: readonly Judgement[], judgements: number): Nulls {
  const byReason = [...groupBy(failed, ({ null_reason }) => null_reason ?? null)];
  return {
    share: judgements === 0 ? null : failed.length / judgements,
    by_reason: byReason
      .map(([reason, { length }]) => ({ reason, count: length, share: length / judgements }))
      .sort((a, b) => b.count - a.count),
  };
}

/** As if every judgement that does not count had been lost, and won. */
function imputationBounds(judgements: readonly Judgement[], level: number): WinRate['imputation_bounds'] {
  if (judgements.length === 0) return null;
  const imputed = (outcome: number): Bound => {
    const all = judgements.map((one) => (isCounted(one) ? one : { ...one, outcome }));
    const estimate = estimateMean(all);
    return { win_rate: estimate.mean, confidence_interval: meanInterval(estimate, level) };
  };
  return { all_lost: imputed(0), all_won: imputed(1) };
}

const lengthRows = (counted: readonly Counted[]): LengthControlRow[] =>
  counted.flatMap(({ item_id, candidate, outcome, length_candidate, length_baseline, difficulty }) =>
    length_candidate === undefined || length_baseline === undefined
      ? []
      : [
          {
            item: item_id,
            candidate: candidate ?? null,
            outcome,
            lengthDifference: length_candidate - length_baseline,
            difficulty,
          },
        ],
  );

function controlLength(counted: readonly Counted[], shared: Shared): LengthControlled | null {
  const rows = lengthRows(counted);
  if (rows.length === 0) return null;
  const method = shared.options.length_control?.method ?? 'regression';
  return lengthControlledWinRate(rows, {
    method,
    level: shared.level,
    estimated: shared.difficulty,
    gamed: method === 'alpaca_eval' ? shared.gamed : [],
  });
}

const severalNames = (judgements: readonly Judgement[]): boolean =>
  judgements.some(({ candidate }) => candidate !== judgements[0]!.candidate);

function severalCandidates(
  judgements: readonly Judgement[],
  shared: Shared,
  check: Check,
): Pick<WinRateReport, 'candidates' | 'comparisons' | 'ranking'> {
  if (!severalNames(judgements)) return { candidates: null, comparisons: null, ranking: null };
  const byName = groupBy(judgements, ({ candidate }) => candidate ?? null);
  const counted = [...byName].map(([name, members]) => [name, members.filter(isCounted)] as const);
  const players = counted.map(([name, members]) => ({ name, members, outcomes: outcomesByItem(members) }));
  return {
    candidates: [...byName].map(([candidate, members]) => ({
      candidate,
      ...figuresOf(members, shared),
      ...check((one) => (one.candidate ?? null) === candidate),
    })),
    comparisons: players.flatMap((first, k) =>
      players.slice(k + 1).map((second) => compare(first, second, shared.level)),
    ),
    ranking: rank(counted, shared.level),
  };
}

interface Player {
  name: string | null;
  members: Counted[];
  outcomes: ItemOutcomes;
}

function compare(first: Player, second: Player, level: number): Comparison {
  const paired = pairedDifference(first.outcomes, second.outcomes, level);
  const { difference, standard_error, n_shared } = paired;
  return {
    candidates: [first.name, second.name],
    ...paired,
    training:
      difference === null || standard_error === null
        ? null
        : pairedTrainingVariance(
            [first.members, second.members],
            { difference, standard_error, n_shared },
            level,
          ),
  };
}

/** Candidates without a judgement that counts are left out. */
function rank(byName: (readonly [string | null, Counted[]])[], level: number): Ranked[] | null {
  const players = byName.filter(([, members]) => members.length > 0);
  if (players.length === 0) return null;
  const games = players.flatMap(([, members], k) =>
    members.map(({ outcome, item_id }) => ({ first: k + 1, second: 0, share: outcome, item: item_id })),
  );
  const strengths = bradleyTerry(games, players.length + 1, level);
  if (strengths === null) return null;
  return strengths
    .map((strength, k) => ({
      candidate: k === 0 ? null : players[k - 1]![0],
      is_baseline: k === 0,
      ...strength,
    }))
    .sort((a, b) => a.rank - b.rank);
}

/** Of the judgements that are wanted. */
type Check = (wanted: (one: Judgement) => boolean) => CheckedByPeople;

function checking(
  counted: readonly Counted[],
  beside: readonly Counted[],
  { options, level }: Shared,
): Check {
  const namesOf = (judgements: readonly Counted[]) => [...new Set(judgements.map((one) => one.judge ?? ''))];
  const by = (names: readonly string[]) => {
    const wanted = new Set(names);
    return counted.filter(({ judge }) => judge !== undefined && wanted.has(judge));
  };
  const { agreement } = options;
  if (!agreement && beside.length === 0) return () => ({ agreement: null, prediction_powered: null });
  const [judged, people] = agreement ? [by([agreement.judge]), by(agreement.people)] : [counted, beside];
  const names = agreement ?? { judge: namesOf(counted).join(', '), people: namesOf(beside) };
  return (wanted) => {
    const items = judgedItems(judged.filter(wanted), people.filter(wanted));
    return {
      agreement: judgeAgreement(items, names, level),
      prediction_powered: predictionPowered(items, level),
    };
  };
}

/** The judgements of each item of each candidate. */
const itemsOfCandidates = (counted: readonly Counted[]): Counted[][] =>
  [...groupBy(counted, ({ candidate }) => candidate).values()].flatMap((members) => [
    ...groupBy(members, ({ item_id }) => item_id).values(),
  ]);

/** Verdict of the mean outcome of each group. */
function verdictsBy(members: Counted[], key: (one: Counted) => string | undefined): number[] {
  const named = members.filter((one) => key(one) !== undefined);
  return [...groupBy(named, key).values()].map((group) =>
    verdictOf(mean(group.map(({ outcome }) => outcome))),
  );
}

function positionConsistency(counted: readonly Counted[]): number | null {
  const ordered = counted.filter(({ order }) => order !== undefined);
  const verdicts = itemsOfCandidates(ordered)
    .flatMap((members) => [...groupBy(members, ({ judge }) => judge ?? '').values()])
    .map((ofJudge) => verdictsBy(ofJudge, ({ order }) => order?.toString()))
    .filter((ofOrders) => ofOrders.length > 1);
  if (verdicts.length === 0) return null;
  return verdicts.filter((ofOrders) => new Set(ofOrders).size === 1).length / verdicts.length;
}

function agreementOfJudges(counted: readonly Counted[]): number | null {
  let pairs = 0;
  let agreeing = 0;
  for (const members of itemsOfCandidates(counted.filter(({ judge }) => judge !== undefined))) {
    const verdicts = verdictsBy(members, ({ judge }) => judge);
    pairs += (verdicts.length * (verdicts.length - 1)) / 2;
    for (const verdict of [0, 0.5, 1]) {
      const same = verdicts.filter((other) => other === verdict).length;
      agreeing += (same * (same - 1)) / 2;
    }
  }
  return pairs === 0 ? null : agreeing / pairs;
}
