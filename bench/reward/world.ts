// What reward models learn from in bench:reward: pairs of the demo world, labelled by annotators of each condition; and
// test rows that are the same for all conditions of a draw, labelled without error.
import { type EditorRates, edit, majority, vote } from '../../examples/world/annotators.ts';
import { type PairRow, pairRows } from '../../examples/world/data.ts';
import { createRandom, type Random } from '../../examples/world/random.ts';
import { score } from '../../examples/world/scorer.ts';
import { parsePrompt, type RequiredKind, requiredKinds, wordings } from '../../examples/world/world.ts';
import type { Votes } from '../../src/domain/votes.ts';
import type { LabelSource } from '../../src/services/label-rows.ts';
import { rewordAsWell } from '../loop/scenarios.ts';

/** What annotators do, and how much of it there is. */
export interface Condition {
  /** how many edits each pair gets, taken in turn: `[1]` one each */
  editors: number[];
  /** edits in all, unless pairs run out of defects first */
  edits: number;
  rates: EditorRates;
  flipRate: number;
  /** who vote on a pair */
  voters: number;
  /** share of the pairs whose hidden scores differ by at most one defect; as drawn unless given */
  ambiguous?: number;
  /** share of the edits that are rewrites without a common text */
  rewrites: number;
  /** four in ten clauses that were right are worded anew */
  overEditing: boolean;
}

const trainingPairs = 8000; // of which a condition takes what it needs
const testPairs = 1500;
const testEdits = 600;
/** Under which every edit is a rewrite: values such as names are in common by necessity. */
const nothing = { max_changed_fraction: 0, max_hunks: null, max_length_change: null };
const perfect: EditorRates = { fix: 1, gratuitous: 0, harm: 0 };

type Labelled = PairRow & { votes: Votes; preference: 'a' | 'b' };

/** Training rows of a draw. Conditions that agree on pairs and annotators share them. */
export function trainingRows(seed: number, condition: Condition): LabelSource[] {
  const pairs = choose(pairRows(seed, trainingPairs), condition);
  const rows: LabelSource[] = [];
  let edits = 0;
  for (const pair of pairs) {
    if (edits >= condition.edits) break;
    const labelled = labelPair(seed, pair, condition);
    const side = labelled.preference === 'a' ? 'b' : 'a';
    const original = side === 'a' ? pair.response_a : pair.response_b;
    const count = Math.min(
      condition.editors[rows.length % condition.editors.length]!,
      condition.edits - edits,
    );
    const texts = Array.from({ length: count }, (_, editor) =>
      editOf(seed, labelled, original, editor, condition),
    ).filter((text) => text !== original);
    if (texts.length === 0) continue;
    edits += texts.length;
    const row = source(labelled, labelled.votes, texts, 'train');
    rows.push(isRewritten(seed, pair, condition.rewrites) ? { ...row, minimality: nothing } : row);
  }
  return rows;
}

/** Test rows of a draw: preferences that follow the hidden score, and edits that repair all defects. */
export function testRows(seed: number): LabelSource[] {
  return pairRows(seed + 500, testPairs).flatMap((pair, index) => {
    const difference = differenceOf(pair);
    if (difference === 0) return [];
    const preference = difference > 0 ? 'a' : 'b';
    const original = preference === 'a' ? pair.response_b : pair.response_a;
    const repaired = edit(pair.prompt, original, createRandom(`${seed}/test/${pair.external_id}`), perfect);
    const votes = { a: 0, b: 0, tie: 0 };
    const edits = index < testEdits ? [repaired] : [];
    return [source({ ...pair, preference, votes }, votes, edits, 'test')];
  });
}

/** An answer of its own in the place of an edit: other wordings than the original's, in another order. */
export function rewrite(prompt: string, original: string, random: Random): string {
  const slots = parsePrompt(prompt);
  const textOf = (kind: RequiredKind): string => {
    const others = wordings(slots, kind).filter((text) => !original.includes(text));
    return random.pick(others.length > 0 ? others : wordings(slots, kind));
  };
  const between = requiredKinds.filter((kind) => kind !== 'greeting' && kind !== 'closing');
  return ['greeting' as const, ...random.shuffle(between), 'closing' as const].map(textOf).join(' ');
}

function choose(pairs: PairRow[], { ambiguous }: Condition): PairRow[] {
  if (ambiguous === undefined) return pairs;
  const close = pairs.filter((pair) => Math.abs(differenceOf(pair)) <= 1);
  const clear = pairs.filter((pair) => Math.abs(differenceOf(pair)) > 1);
  const mixed: PairRow[] = [];
  for (let taken = 1; close.length > 0 && clear.length > 0; taken += 1) {
    const wanted = Math.round(taken * ambiguous) > Math.round((taken - 1) * ambiguous);
    mixed.push((wanted ? close : clear).shift()!);
  }
  return mixed;
}

/** The first votes are the same however many there are. */
function labelPair(seed: number, pair: PairRow, { flipRate, voters }: Condition): Labelled {
  const votes = vote(differenceOf(pair), voters, createRandom(`${seed}/votes/${pair.external_id}`), flipRate);
  return { ...pair, votes: { ...votes, tie: 0 }, preference: majority(votes)! }; // odd numbers of voters
}

function editOf(
  seed: number,
  pair: Labelled,
  original: string,
  editor: number,
  { rates, rewrites, overEditing }: Condition,
): string {
  const random = createRandom(`${seed}/edits/${pair.external_id}/${editor}`);
  if (isRewritten(seed, pair, rewrites)) return rewrite(pair.prompt, original, random);
  const edited = edit(pair.prompt, original, random, rates);
  return overEditing
    ? rewordAsWell(pair.prompt, edited, createRandom(`${seed}/reword/${pair.external_id}`))
    : edited;
}

const isRewritten = (seed: number, { external_id }: PairRow, share: number): boolean =>
  createRandom(`${seed}/rewrites/${external_id}`).chance(share);

function source(
  { external_id, prompt, response_a, response_b, preference }: Labelled,
  votes: Votes,
  texts: string[],
  split: 'train' | 'test',
): LabelSource {
  const side = preference === 'a' ? 'b' : 'a';
  const edits = texts.map((edited_response) => ({ side, edited_response }) as const);
  return { key: `${split}-${external_id}`, split, prompt, response_a, response_b, preference, votes, edits };
}

const differenceOf = ({ prompt, response_a, response_b }: PairRow): number =>
  score(prompt, response_a) - score(prompt, response_b);
