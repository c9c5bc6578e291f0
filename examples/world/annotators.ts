// Simulated people of the demo world: annotators who vote on pairs, and an editor who repairs a response.
// Both see the hidden score through noise, which is the point: how much of it stays in the labels is said in data.ts.

import type { Random } from './random.ts';
import { assess, type Defect, score } from './scorer.ts';
import { vocabulary } from './world.ts';

export type Votes = { a: number; b: number };

/** Share of annotators who mean `a` and say `b`. */
const usualFlipRate = 0.1;

/** Probability of a vote for the response whose hidden score is higher by `difference`: Bradley-Terry with flips. */
export function voteProbability(difference: number, flipRate = usualFlipRate): number {
  return flipRate + (1 - 2 * flipRate) / (1 + Math.exp(-difference));
}

/** The votes of independent annotators on a pair whose response a has a hidden score that is higher by `difference`. */
export function vote(difference: number, annotators: number, random: Random, flipRate?: number): Votes {
  const probability = voteProbability(difference, flipRate);
  const votes = { a: 0, b: 0 };
  for (let annotator = 0; annotator < annotators; annotator += 1) {
    votes[random.chance(probability) ? 'a' : 'b'] += 1;
  }
  return votes;
}

/** What follows from votes: the majority, or null when there is none. */
export function majority(votes: Votes): 'a' | 'b' | null {
  if (votes.a === votes.b) return null;
  return votes.a > votes.b ? 'a' : 'b';
}

/** The judge's verdict: the candidate's share of the win, 1, 0 or (equal hidden scores) 0.5. */
export function judge(prompt: string, candidate: string, baseline: string): 0 | 0.5 | 1 {
  return judgeScores(score(prompt, candidate), score(prompt, baseline));
}

export function judgeScores(candidate: number, baseline: number): 0 | 0.5 | 1 {
  if (candidate === baseline) return 0.5;
  return candidate > baseline ? 1 : 0;
}

export type EditorRates = {
  /** Share of defects that the editor sees and repairs. */
  fix: number;
  /** Share of responses in which the editor also changes something that was as good before. */
  gratuitous: number;
  /** Share of responses in which the editor also makes a right value wrong. */
  harm: number;
};

export const editorRates: EditorRates = { fix: 0.75, gratuitous: 0.15, harm: 0.08 };

/** A minimal edit of a response by an editor with these error rates. */
export function edit(
  prompt: string,
  response: string,
  random: Random,
  rates: EditorRates = editorRates,
): string {
  const { defects } = assess(prompt, response);
  const changes = defects
    .filter(() => random.chance(rates.fix))
    .map(({ repair }) => chooseRepair(repair, random));
  if (random.chance(rates.gratuitous)) changes.push(...anotherGreeting(response, random));
  if (random.chance(rates.harm)) changes.push(...wrongValue(response, defects, random));
  return applyChanges(response, changes);
}

type Change = { start: number; end: number; text: string };

function chooseRepair({ start, end, options }: Defect['repair'], random: Random): Change {
  return { start, end, text: random.pick(options) };
}

function anotherGreeting(response: string, random: Random): Change[] {
  const word = /^(Dear|Hello|Hi)\b/.exec(response)?.[0];
  if (word === undefined) return [];
  const text = random.pick(['Dear', 'Hello', 'Hi'].filter((other) => other !== word));
  return [{ start: 0, end: word.length, text }];
}

const valueLists = [vocabulary.name, vocabulary.topic, vocabulary.quantity, vocabulary.unit, vocabulary.item];

/** Replaces a value that no defect touches by another of its kind. */
function wrongValue(response: string, defects: readonly Defect[], random: Random): Change[] {
  const values = [...response.matchAll(/\w+/g)].flatMap(({ 0: word, index: start }) => {
    const list: readonly string[] | undefined = valueLists.find((values: readonly string[]) =>
      values.includes(word),
    );
    const end = start + word.length;
    const blamed = defects.some((defect) => start < defect.end && defect.start < end);
    return list === undefined || blamed
      ? []
      : [{ start, end, others: list.filter((other) => other !== word) }];
  });
  if (values.length === 0) return [];
  const { start, end, others } = random.pick(values);
  return [{ start, end, text: random.pick(others) }];
}

/** Applies changes from left to right; where two overlap, the later one only changes what is left of its span. */
function applyChanges(response: string, changes: readonly Change[]): string {
  const insertionsFirst = ({ start, end }: Change): number => (start === end ? 0 : 1);
  const ordered = [...changes].sort(
    (one, other) => one.start - other.start || insertionsFirst(one) - insertionsFirst(other),
  );
  let edited = '';
  let position = 0;
  for (const { start, end, text } of ordered) {
    if (start < position && end <= position) continue;
    edited += response.slice(position, Math.max(start, position)) + text;
    position = end;
  }
  return edited + response.slice(position);
}
