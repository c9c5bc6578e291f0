// How far a judge agrees with people on the items that both judged: accuracy against the people's majority, and Cohen's kappa
// (Cohen 1960), on verdicts of win, tie and loss. And what the judge's figures are worth once the people's correct them:
// prediction-powered inference (Angelopoulos et al. 2023; with the weight of PPI++, Angelopoulos, Duchi and Zrnic 2023).
import { type Counted, groupBy, mean, outcomeOf, verdictOf } from './judgements.ts';
import { satterthwaite, studentInterval, wilson } from './mean-interval.ts';

export interface AgreementOptions {
  judge: string;
  people: readonly string[];
}

export interface Kappa {
  /** Items that both judged. */
  items: number;
  /** Share of equal verdicts. */
  accuracy: number | null;
  /** 1 is agreement on everything, 0 what chance gives; null where one verdict alone was given. */
  kappa: number | null;
}

export interface JudgeAgreement extends Kappa {
  judge: string;
  accuracy_interval: { low: number; high: number; level: number } | null;
  /** Items that people judged without a majority: they count nowhere here. */
  undecided: number;
  /** The judge and each of the people alone. */
  people: ({ name: string } & Kappa)[];
  reason: string | null;
}

export interface PredictionPowered {
  win_rate: number | null;
  standard_error: number | null;
  confidence_interval: { low: number; high: number; level: number } | null;
  /** How much the judge is trusted, 0..1: 0 takes the people's judgements alone. */
  weight: number | null;
  /** Items that people judged, and that the judge did too. */
  people_items: number;
  /** Further items that the judge judged alone. */
  judge_items: number;
  /** The people's judgements of those items alone. */
  people_win_rate: number | null;
  people_standard_error: number | null;
  reason: string | null;
}

/** What the judge and the people say of one item of one candidate. */
interface JudgedItem {
  item: string;
  judge: number | null;
  /** of each of the people that judged it */
  people: Map<string, number>;
}

/** Mean outcomes. Items of several candidates are items of their own. Which list a judgement is in says who judged: a judge and a person may have one name. */
export function judgedItems(ofJudge: readonly Counted[], ofPeople: readonly Counted[]): JudgedItem[] {
  const keyOf = ({ candidate, item_id }: Counted) => JSON.stringify([candidate ?? null, item_id]);
  const people = groupBy(ofPeople, keyOf);
  const judge = groupBy(ofJudge, keyOf);
  return [...new Set([...judge.keys(), ...people.keys()])].map((key) => {
    const judged = judge.get(key);
    const members = people.get(key) ?? [];
    const byPerson = [...groupBy(members, (one) => one.judge!)];
    return {
      item: (judged ?? members)[0]!.item_id,
      judge: judged ? mean(judged.map(outcomeOf)) : null,
      people: new Map(byPerson.map(([name, own]) => [name, mean(own.map(outcomeOf))])),
    };
  });
}

export function judgeAgreement(
  items: readonly JudgedItem[],
  { judge, people }: AgreementOptions,
  level: number,
): JudgeAgreement {
  const both = items.filter((item) => item.judge !== null && item.people.size > 0);
  const decided = both.flatMap(({ item, judge: judged, people: judgedBy }): Decided[] => {
    const majority = majorityOf([...judgedBy.values()].map(verdictOf));
    return majority === null ? [] : [{ item, verdicts: [verdictOf(judged!), majority] }];
  });
  const whole = kappaOf(decided.map(({ verdicts }) => verdicts));
  return {
    judge,
    ...whole,
    accuracy_interval: whole.accuracy === null ? null : { ...accuracyInterval(decided, level), level },
    undecided: both.length - decided.length,
    people: people.map((name) => ({
      name,
      ...kappaOf(
        both.flatMap((item): Verdicts[] =>
          item.people.has(name) ? [[verdictOf(item.judge!), verdictOf(item.people.get(name)!)]] : [],
        ),
      ),
    })),
    reason:
      both.length === 0
        ? 'The judge and the people share no item.'
        : decided.length === 0
          ? 'People have no majority on any item that the judge judged.'
          : null,
  };
}

type Verdicts = [judge: number, person: number];
type Decided = { item: string; verdicts: Verdicts };

/** Wilson's; where several candidates share items, and the judge may err on all of them alike, Student's over items. */
function accuracyInterval(decided: readonly Decided[], level: number): { low: number; high: number } {
  const right = decided.map(({ verdicts: [judge, person] }) => Number(judge === person));
  const byItem = pulls(decided, right);
  const { variance, freedom } = termOf(byItem);
  if (byItem.size === decided.length || freedom === 0 || variance === 0)
    return wilson(mean(right), byItem.size, level);
  return studentInterval(mean(right), Math.sqrt(variance), freedom, level);
}
const verdicts = [0, 0.5, 1];

/** The verdict that more people gave than any other; null when there is none. */
function majorityOf(given: readonly number[]): number | null {
  const counts = verdicts.map((verdict) => given.filter((one) => one === verdict).length);
  const most = Math.max(...counts);
  return counts.filter((count) => count === most).length === 1 ? verdicts[counts.indexOf(most)]! : null;
}

function kappaOf(pairs: readonly Verdicts[]): Kappa {
  const items = pairs.length;
  if (items === 0) return { items, accuracy: null, kappa: null };
  const accuracy = pairs.filter(([judge, person]) => judge === person).length / items;
  const share = (verdict: number, side: 0 | 1) =>
    pairs.filter((pair) => pair[side] === verdict).length / items;
  const byChance = verdicts.reduce((sum, verdict) => sum + share(verdict, 0) * share(verdict, 1), 0);
  return { items, accuracy, kappa: byChance === 1 ? null : (accuracy - byChance) / (1 - byChance) };
}

/**
 * weight · (judge's mean on the items that it judged alone) + mean of (people − weight · judge) on the items of both. Unbiased
 * whatever the judge is like, when the people's items are drawn at random. Items that several candidates share are clusters.
 */
export function predictionPowered(items: readonly JudgedItem[], level: number): PredictionPowered {
  const alone = items.filter(({ judge, people }) => judge !== null && people.size === 0);
  const both = items.filter(({ judge, people }) => judge !== null && people.size > 0);
  const ofJudgeAlone = alone.map(({ judge }) => judge!);
  const ofPeople = both.map(({ people }) => mean([...people.values()]));
  const ofJudge = both.map(({ judge }) => judge!);
  const counts = { people_items: both.length, judge_items: alone.length };
  const byPeople = pulls(both, ofPeople);
  if (byPeople.size < 2)
    return {
      ...counts,
      win_rate: null,
      standard_error: null,
      confidence_interval: null,
      weight: null,
      people_win_rate: both.length === 0 ? null : mean(ofPeople),
      people_standard_error: null,
      reason: 'A correction by people needs at least two items that both the judge and people judged.',
    };
  const weight = alone.length < 2 ? 0 : powerWeight(ofPeople, ofJudge, ofJudgeAlone);
  const corrections = ofPeople.map((outcome, k) => outcome - weight * ofJudge[k]!);
  const winRate = mean(corrections) + (weight === 0 ? 0 : weight * mean(ofJudgeAlone));
  const corrected = pulls(both, corrections);
  const judged =
    weight === 0
      ? new Map<string, number>()
      : pulls(
          alone,
          ofJudgeAlone.map((outcome) => weight * outcome),
        );
  const terms = [corrected, judged].filter(({ size }) => size > 1).map(termOf);
  const inBoth = [...corrected].reduce((sum, [item, pull]) => sum + 2 * pull * (judged.get(item) ?? 0), 0);
  const variance = Math.max(
    0,
    terms.reduce((sum, term) => sum + term.variance, inBoth),
  );
  const standardError = Math.sqrt(variance);
  return {
    ...counts,
    win_rate: Math.min(1, Math.max(0, winRate)),
    standard_error: standardError,
    confidence_interval: {
      ...(variance === 0
        ? wilson(mean(ofPeople), byPeople.size, level)
        : studentInterval(winRate, standardError, satterthwaite(terms), level)),
      level,
    },
    weight,
    people_win_rate: mean(ofPeople),
    people_standard_error: Math.sqrt(termOf(byPeople).variance),
    reason: null,
  };
}

/** How far each item pulls the mean of the values, which are in the order of the items of all candidates. */
function pulls(items: readonly { item: string }[], values: readonly number[]): Map<string, number> {
  const center = values.length === 0 ? 0 : mean(values);
  const byItem = new Map<string, number>();
  for (const [k, { item }] of items.entries())
    byItem.set(item, (byItem.get(item) ?? 0) + (values[k]! - center) / values.length);
  return byItem;
}

/** Variance of a mean by the pulls of its clusters. */
function termOf(byItem: ReadonlyMap<string, number>): { variance: number; freedom: number } {
  const squares = [...byItem.values()].reduce((sum, pull) => sum + pull ** 2, 0);
  return { variance: (byItem.size / (byItem.size - 1)) * squares, freedom: byItem.size - 1 };
}

/** The weight of least variance, within 0..1. */
function powerWeight(people: readonly number[], judge: readonly number[], alone: readonly number[]): number {
  const spread = variance([...judge, ...alone]);
  if (spread === 0) return 0;
  const weight = covariance(people, judge) / ((1 + judge.length / alone.length) * spread);
  return Math.min(1, Math.max(0, weight));
}

const variance = (values: readonly number[]): number => covariance(values, values);

/** With n − 1. */
function covariance(a: readonly number[], b: readonly number[]): number {
  const [ofA, ofB] = [mean(a), mean(b)];
  return a.reduce((sum, value, k) => sum + (value - ofA) * (b[k]! - ofB), 0) / (a.length - 1);
}
