// What a sceptic would change about the demo world: where labels stand, what the score is, what editors see, how often
// annotators err.
import { edit } from '../../examples/world/annotators.ts';
import { createRandom, type Random } from '../../examples/world/random.ts';
import { type Clause, readClauses } from '../../examples/world/reading.ts';
import { assess } from '../../examples/world/scorer.ts';
import {
  parsePrompt,
  type RequiredKind,
  requiredKinds,
  setInitial,
  wordings,
} from '../../examples/world/world.ts';
import type { LabelRow } from '../../src/services/label-rows.ts';
import { type DrawnPair, plainScenario, type Scenario } from './draw.ts';

const editorWith =
  (rates: { fix: number; gratuitous: number; harm: number }): Scenario['edit'] =>
  ({ prompt, external_id }, response, seed) =>
    edit(prompt, response, createRandom(`${seed}/edits/${external_id}`), rates);

export const scenarios: Scenario[] = [
  plainScenario,
  { ...plainScenario, name: 'shuffled locations', labels: shuffled },
  { ...plainScenario, name: 'non-additive score', score: nonAdditiveScore },
  { ...plainScenario, name: 'editors without the score', edit: towardsPreferred },
  {
    ...plainScenario,
    name: 'noise 25 %',
    flipRate: 0.25,
    edit: editorWith({ fix: 0.75, gratuitous: 0.25, harm: 0.25 }),
  },
  {
    ...plainScenario,
    name: 'noise 40 %',
    flipRate: 0.4,
    edit: editorWith({ fix: 0.6, gratuitous: 0.4, harm: 0.4 }),
  },
  {
    ...plainScenario,
    name: 'over-editing',
    edit: (pair, response, seed) =>
      rewordAsWell(
        pair.prompt,
        plainScenario.edit(pair, response, seed),
        createRandom(`${seed}/reword/${pair.external_id}`),
      ),
  },
];

/** In training, the labels of each original stand at random places; the figures are measured on true ones. */
function shuffled(rows: LabelRow[], seed: number): LabelRow[] {
  return rows.map((row) => {
    if (row.type === 'pair' || row.split !== 'train') return row;
    const random = createRandom(`${seed}/shuffle/${row.id}`);
    return { ...row, hunks: [], original: { ...row.original, labels: random.shuffle(row.original.labels) } };
  });
}

/** Each kind of defect counts once, however often it occurs; a claim beside a rude word costs two more. */
function nonAdditiveScore(prompt: string, response: string): number {
  const kinds = new Set(assess(prompt, response).defects.map(({ kind }) => kind));
  const together = kinds.has('unsupported_claim') && kinds.has('rude_word');
  return 0 - kinds.size - (together ? 2 : 0);
}

/**
 * An editor who knows the two responses and which is preferred, and nothing else: takes over three quarters of what the
 * preferred one says otherwise, deletes what only the other one says and puts in what it lacks.
 */
function towardsPreferred(pair: DrawnPair, response: string, seed: number): string {
  const random = createRandom(`${seed}/blind/${pair.external_id}`);
  const preferred = pair.preference === 'a' ? pair.response_a : pair.response_b;
  const slots = parsePrompt(pair.prompt);
  const said = new Map(
    readClauses(slots, preferred).flatMap((clause) =>
      clause.reading ? [[clause.reading.template.kind, textOf(preferred, clause)] as const] : [],
    ),
  );
  const takesOver = (): boolean => random.chance(0.75);
  const kept: { kind: string | undefined; text: string }[] = [];
  for (const clause of readClauses(slots, response)) {
    const [kind, text] = [clause.reading?.template.kind, textOf(response, clause)];
    const other = kind && said.get(kind);
    if (kind && other !== undefined) kept.push({ kind, text: other !== text && takesOver() ? other : text });
    else if (!takesOver()) kept.push({ kind, text });
  }
  for (const [kind, text] of said) {
    if (kept.some((clause) => clause.kind === kind) || !takesOver()) continue;
    const closing = kept.findIndex((clause) => clause.kind === 'closing');
    kept.splice(kind === 'greeting' ? 0 : closing === -1 ? kept.length : closing, 0, { kind, text });
  }
  return kept.map(({ text }) => text).join(' ');
}

/** Words four in ten clauses anew that are right. */
export function rewordAsWell(prompt: string, response: string, random: Random): string {
  const slots = parsePrompt(prompt);
  let edited = response;
  for (const clause of readClauses(slots, edited).reverse()) {
    const kind = clause.reading?.template.kind;
    if (!isRequired(kind) || !random.chance(0.4)) continue;
    const text = anotherWording(textOf(edited, clause), wordings(slots, kind), random);
    const start = clause.words[0]!.start;
    edited = `${edited.slice(0, start)}${kind === 'opening' ? setInitial(text, start > 0) : text}${edited.slice(clause.words.at(-1)!.end)}`;
  }
  return edited;
}

const isRequired = (kind: string | undefined): kind is RequiredKind =>
  requiredKinds.some((required) => required === kind);

function anotherWording(text: string, options: string[], random: Random): string {
  const others = options.filter((option) => option.toLowerCase() !== text.toLowerCase());
  return others.length === 0 ? text : random.pick(others);
}

const textOf = (response: string, { words }: Clause): string =>
  response.slice(words[0]!.start, words.at(-1)!.end);
