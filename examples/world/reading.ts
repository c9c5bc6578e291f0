// Reads free text as clauses of the demo world: which template each clause is meant to be, and where it departs
// from it. Guarantees: total on any string (half words, broken UTF-8, nothing at all) and deterministic.

import {
  acceptedWords,
  rudeWords,
  type SlotName,
  type Slots,
  type Template,
  templates,
  vocabulary,
} from './world.ts';

/** A word, full stop or comma of a response, with its UTF-16 offsets; `key` is its form for comparison. */
export type Word = { text: string; key: string; start: number; end: number };

/**
 * One step of the alignment of a clause with its template. `word` is absent where the clause lacks a template
 * word, `expected` where the clause has a word too many. `wrong`: the word stands in a slot whose value under this
 * prompt is another; then the clause departs from its template in meaning only.
 */
export type Step = {
  word?: Word;
  expected?: { place: number; options: readonly string[] };
  cost: number;
  wrong: boolean;
};

/** A template and how a clause corresponds to it. */
export type Reading = { template: Template; steps: readonly Step[] };

export type Clause = {
  words: readonly Word[];
  /** Rude words are set aside before the clause is read. */
  rude: readonly Word[];
  /** Absent if the clause resembles no template. */
  reading?: Reading;
};

/** The costs of an alignment, and the cost per word above which a clause resembles its template no longer. */
const unknownValueCost = 0.75;
const mismatchCost = 1;
const resemblanceLimit = 0.5;

/**
 * Cuts a response into clauses, at full stops and at the first comma (the greeting's), and reads each as the
 * template from which it differs least, in words and then in wrong values. Case does not count.
 */
export function readClauses(slots: Slots, response: string): Clause[] {
  return splitClauses(response).map((words) => {
    const rude = words.filter(({ key }) => rudeKeys.has(key));
    const others = words.filter(({ key }) => !rudeKeys.has(key));
    const reading = readAsTemplate(slots, others);
    return reading === undefined ? { words, rude } : { words, rude, reading };
  });
}

/** A full stop or comma belongs to the clause that it ends. */
function splitClauses(text: string): Word[][] {
  const clauses: Word[][] = [];
  let current: Word[] = [];
  for (const { 0: word, index: start } of text.matchAll(/[.,]|[^\s.,]+/g)) {
    current.push({ text: word, key: word.toLowerCase(), start, end: start + word.length });
    if (word === '.' || (word === ',' && clauses.length === 0)) {
      clauses.push(current);
      current = [];
    }
  }
  return current.length === 0 ? clauses : [...clauses, current];
}

function readAsTemplate(slots: Slots, words: readonly Word[]): Reading | undefined {
  // Most clauses follow a template to the word: then no other can be nearer, and ten times less is to be done.
  const followed = patterns.filter(
    ({ places }) =>
      places.length === words.length && places.every(({ keys }, index) => keys.has(words[index]!.key)),
  );
  const candidates = followed.length > 0 ? followed : patterns;
  const tables = candidates.map((pattern) => ({ pattern, costs: alignmentCosts(words, pattern) }));
  const distance = ({ costs }: { costs: number[][] }): number => costs.at(-1)!.at(-1)!;
  const least = Math.min(...tables.map(distance));
  const readings = tables
    .filter((table) => distance(table) === least)
    .map(({ pattern, costs }) => ({
      template: pattern.template,
      steps: traceSteps(slots, words, pattern, costs),
    }));
  const wrongValues = ({ steps }: Reading): number => steps.filter(({ wrong }) => wrong).length;
  const best = readings.reduce((one, other) => (wrongValues(other) < wrongValues(one) ? other : one));
  const length = Math.max(words.length, best.template.words.length);
  return least > resemblanceLimit * length ? undefined : best;
}

/** The templates, prepared for comparison: for each place the keys that stand there at no cost. */
type Pattern = { template: Template; places: readonly { keys: ReadonlySet<string>; isSlot: boolean }[] };

const patterns: readonly Pattern[] = templates.map((template) => ({
  template,
  places: template.words.map((word) =>
    'text' in word
      ? { keys: keySet([word.text]), isSlot: false }
      : { keys: keySet(vocabulary[word.slot]), isSlot: true },
  ),
}));

const rudeKeys = keySet(rudeWords);

function keySet(words: readonly string[]): ReadonlySet<string> {
  return new Set(words.map((word) => word.toLowerCase()));
}

/** Fixed words match or do not; a slot takes its own vocabulary at no cost and any other word at some. */
function matchCost(key: string, { keys, isSlot }: Pattern['places'][number]): number {
  if (keys.has(key)) return 0;
  return isSlot && key !== '.' && key !== ',' ? unknownValueCost : mismatchCost;
}

/** Levenshtein's table: [i][j] is the least cost of aligning the first i words with the first j places. */
function alignmentCosts(words: readonly Word[], { places }: Pattern): number[][] {
  const costs = [Array.from({ length: places.length + 1 }, (_, column) => column * mismatchCost)];
  for (const [row, { key }] of words.entries()) {
    const above = costs[row]!;
    const current = [(row + 1) * mismatchCost];
    for (const [column, place] of places.entries()) {
      current.push(
        Math.min(
          above[column]! + matchCost(key, place),
          above[column + 1]! + mismatchCost,
          current[column]! + mismatchCost,
        ),
      );
    }
    costs.push(current);
  }
  return costs;
}

/** One cheapest alignment; of a word said twice, the second is the one too many. */
function traceSteps(slots: Slots, words: readonly Word[], pattern: Pattern, costs: number[][]): Step[] {
  const { template, places } = pattern;
  const expectedAt = (place: number) => {
    const word: { text: string } | { slot: SlotName } = template.words[place]!;
    return { place, options: 'text' in word ? [word.text] : acceptedWords(slots, template.kind, word.slot) };
  };
  const steps: Step[] = [];
  let row = words.length;
  let column = places.length;
  while (row > 0 || column > 0) {
    const total = costs[row]![column]!;
    const word = words[row - 1];
    const place = places[column - 1];
    const cost = word && place ? matchCost(word.key, place) : Number.POSITIVE_INFINITY;
    if (word && total === costs[row - 1]![column]! + mismatchCost) {
      steps.push({ word, cost: mismatchCost, wrong: false });
      row -= 1;
    } else if (word && place && total === costs[row - 1]![column - 1]! + cost) {
      const expected = expectedAt(column - 1);
      const wrong = cost < mismatchCost && !keySet(expected.options).has(word.key);
      steps.push({ word, expected, cost, wrong });
      row -= 1;
      column -= 1;
    } else {
      steps.push({ expected: expectedAt(column - 1), cost: mismatchCost, wrong: false });
      column -= 1;
    }
  }
  return steps.reverse();
}
