// Reads a win rate out in plain sentences, and says what one should know before one relies on it.
import type { WinRateOptions, WinRateReport } from './win-rate.ts';

type Figures = Omit<WinRateReport, 'summary' | 'notes'>;

/** A larger share of failures is said in the summary: it may hide or feign a difference. */
const tolerableNulls = 0.05;

/** Of the verdicts in both orders: not much above what coins give. */
const doubtfulConsistency = 0.6;

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

const counted = (count: number, noun: string): string =>
  `${String(count).replace(/\B(?=(\d{3})+$)/g, ',')} ${noun}${count === 1 ? '' : 's'}`;

/** @param candidate its name, where there is one */
export function summarise(figures: Figures, level: number, candidate: string | null): string {
  const { win_rate, n, clusters, candidates, length_controlled, nulls } = figures;
  if (win_rate === null) return `There is no win rate: ${lowerFirst(figures.reason!)}`;
  const who = candidates ? `${candidates.length} candidates together win` : `${called(candidate)} wins`;
  const sentences = [
    `${who} ${percent(win_rate)} of ${counted(n, 'judgement')} of ${counted(clusters, 'item')}${within(figures, level)}.`,
  ];
  if (length_controlled?.win_rate != null)
    sentences.push(`At equal length it would be ${percent(length_controlled.win_rate)}.`);
  if (candidates) sentences.push(strongestOf(figures));
  if ((nulls.share ?? 0) > tolerableNulls)
    sentences.push(
      `${percent(nulls.share!)} of the judgements failed, which may hide or feign a difference.`,
    );
  return sentences.filter((sentence) => sentence !== '').join(' ');
}

/** The interval, with the training variance in it where that is known, and what it says. */
function within(figures: Figures, level: number): string {
  const { training, confidence_interval, candidates } = figures;
  const interval = training?.confidence_interval ?? confidence_interval!;
  const over = training?.confidence_interval
    ? `, over items and ${counted(training.seeds.length, 'training')}`
    : '';
  const range = `${Number((100 * level).toPrecision(6))} % interval ${percent(interval.low)} to ${percent(interval.high)}`;
  return ` (${range}${over})${candidates ? '' : `: ${verdict(figures, interval)}`}`;
}

function verdict(figures: Figures, { low, high }: { low: number; high: number }): string {
  if (low > 0.5) return 'it is better than the baseline';
  if (high < 0.5) return 'it is worse than the baseline';
  return `no difference from the baseline is shown${detectable(figures)}`;
}

/** Where it is possible at all, and not of the interval that has the training variance. */
function detectable({ training, minimal_detectable_difference: points }: Figures): string {
  return points === null || points > 0.5 || training?.confidence_interval
    ? ''
    : `; a difference of ${(100 * points).toFixed(1)} points would be found four times in five`;
}

function strongestOf({ ranking }: Figures): string {
  if (!ranking) return '';
  const [first] = ranking;
  const name = first!.is_baseline ? 'The baseline' : nameOf(first!.candidate);
  const alone = first!.rank_interval?.high === 1;
  return `${name} ranks first${alone ? '' : ', though not beyond doubt'}.`;
}

const nameOf = (candidate: string | null): string =>
  candidate === null ? 'The candidate without a name' : JSON.stringify(candidate);

/** `candidate` is the name of one that was not given any (services/evaluations.ts). */
const called = (candidate: string | null): string =>
  candidate === null || candidate === 'candidate' ? 'The candidate' : JSON.stringify(candidate);

const lowerFirst = (text: string): string => text[0]!.toLowerCase() + text.slice(1);

export function notesOn(figures: Figures, options: WinRateOptions): string[] {
  return [
    ...onFailures(figures),
    ...onOrders(figures),
    ...onTraining(figures, options),
    ...onCandidates(figures),
    ...onLengths(figures, options),
    ...onPeople(figures, options),
  ];
}

function onFailures({ nulls, dropped }: Figures): string[] {
  const notes: string[] = [];
  if ((nulls.share ?? 0) > tolerableNulls)
    notes.push(
      `${counted(dropped.null, 'judgement')} failed, ${percent(nulls.share!)}: more than ${percent(tolerableNulls)}. The figures leave them out, as if they were like the others; imputation_bounds shows how far they could move the win rate.`,
    );
  if (dropped.out_of_range > 0)
    notes.push(`${counted(dropped.out_of_range, 'outcome')} outside 0..1 did not count.`);
  return notes;
}

function onOrders({ position_consistency }: Figures): string[] {
  if (position_consistency === null || position_consistency > doubtfulConsistency) return [];
  return [
    `Where a judge saw both orders it gave the same verdict in ${percent(position_consistency)} of the cases; one that tosses coins does in half of them. Its verdicts hang on the place more than on the responses.`,
  ];
}

function onTraining({ training, candidates }: Figures, { trained_policies }: WinRateOptions): string[] {
  const trainings = candidates ? candidates.map((one) => one.training) : [training];
  const known = trainings.some((one) => one?.confidence_interval);
  if (!trained_policies && trainings.every((one) => one === null)) return [];
  const leftOut =
    'The intervals are over items: they leave out training variance, by which the same recipe with other random numbers would come out otherwise.';
  return [
    known
      ? `${leftOut} Only the intervals in \`training\` have it.`
      : `${leftOut} Judge several trainings, with a training_seed each, to include it.`,
  ];
}

function onCandidates({ candidates, comparisons, ranking }: Figures): string[] {
  if (!candidates) return [];
  return [
    'The figures at the top are pooled over all candidates, clustered by item; `candidates` has each alone.',
    ...(comparisons!.length > 1
      ? [
          `The intervals of the ${comparisons!.length} comparisons are each at the level by itself, not all at once.`,
        ]
      : []),
    ...(ranking
      ? ['Strengths have half a win and half a loss against the baseline added, so that they stay finite.']
      : []),
  ];
}

function onLengths({ length_controlled, candidates }: Figures, { length_control }: WinRateOptions): string[] {
  const controlled = candidates ? candidates.map((one) => one.length_controlled) : [length_controlled];
  const notes: string[] = [];
  if (controlled.some((one) => one?.win_rate != null && !one.identified))
    notes.push(
      'A length-controlled win rate is not identified by the judgements: only the penalty of the regression keeps it finite.',
    );
  if (controlled.some((one) => one?.difficulty === 'estimated'))
    notes.push(
      'The difficulty of the items is estimated from the judgements themselves; the standard errors of the length-controlled win rates take it as known.',
    );
  if (length_control?.method === 'alpaca_eval' && !length_control.gamed_baselines?.length)
    notes.push('No gamed baselines were given, which AlpacaEval adds at a weight of 0.1 each.');
  return notes;
}

function onPeople({ agreement, prediction_powered }: Figures, options: WinRateOptions): string[] {
  if (!agreement) return [];
  return [
    ...(options.agreement ? ['The win rate at the top counts the judgements of all judges alike.'] : []),
    ...(prediction_powered?.win_rate != null
      ? [
          'The prediction-powered estimate is right for whatever judge, if the items that people judged were drawn at random from all.',
        ]
      : []),
  ];
}
