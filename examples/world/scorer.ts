// The hidden scorer of the demo world: minus one per defect, whatever the length of the response.
// It judges any text by the prompt's text alone, and says of each defect where it is and what would repair it.
// It serves annotators and the judge only; nothing that is trained sees it.

import { type Clause, type Reading, readClauses, type Step, type Word } from './reading.ts';
import {
  type ClauseKind,
  type DefectKind,
  type DefectSpan,
  joinWords,
  parsePrompt,
  type RequiredKind,
  requiredKinds,
  type Slots,
  setInitial,
  type Template,
  wordings,
} from './world.ts';

/** A defect with its remedy: replace [repair.start, repair.end) of the response by one of `repair.options`. */
export type Defect = DefectSpan & { repair: { start: number; end: number; options: readonly string[] } };

export type Assessment = {
  /** Minus the number of defects. */
  score: number;
  /** In the order of the text; what is missing is blamed on the place (of width zero) where it should stand. */
  defects: Defect[];
};

/**
 * Judges a response. One defect each: a wrong value in a slot; a rude word; a claim; a clause said again; a run of
 * words that departs from the wording of its clause; a clause that is none, or a greeting or closing elsewhere
 * than at the ends (bad grammar as a whole); a required clause that is missing.
 * The order of the other clauses does not count. Throws if the prompt is not of the demo world.
 */
export function assess(prompt: string, response: string): Assessment {
  const slots = parsePrompt(prompt);
  const clauses = readClauses(slots, response);
  const known = clauses.filter(({ reading }) => reading !== undefined);

  const defects: Defect[] = [];
  const said = new Set<Template | ClauseKind>();
  const placed = new Map<ClauseKind, Clause>();
  for (const clause of clauses) {
    const { words, rude, reading } = clause;
    defects.push(...rude.map((word) => removal('rude_word', response, [word])));
    if (words.length === rude.length) continue;
    if (reading === undefined || isMisplaced(clause, known)) {
      defects.push(removal('bad_grammar', response, words));
      continue;
    }
    const { kind } = reading.template;
    const subject = kind === 'filler' ? reading.template : kind;
    if (said.has(subject)) {
      defects.push(removal('repeated_clause', response, words));
    } else if (kind === 'claim') {
      defects.push(removal('unsupported_claim', response, words));
    } else {
      defects.push(...judgeWording(response, reading, kind === 'opening' && placed.has('greeting')));
      placed.set(kind, clause);
    }
    said.add(subject);
  }
  const missing = requiredKinds.filter((kind) => !placed.has(kind));
  defects.push(...missing.map((kind) => omission(slots, response, kind, placed)));
  return { score: 0 - defects.length, defects: defects.sort((a, b) => a.start - b.start || a.end - b.end) };
}

/** The hidden score alone. */
export function score(prompt: string, response: string): number {
  return assess(prompt, response).score;
}

/** Something that has to go, with the white space before it (after it, where the response starts with it). */
function removal(kind: DefectKind, response: string, words: readonly Word[]): Defect {
  const start = words[0]!.start;
  const end = words.at(-1)!.end;
  const before = /\s*$/.exec(response.slice(0, start))![0].length;
  const after = start === before ? /^\s*/.exec(response.slice(end))![0].length : 0;
  return { kind, start, end, repair: { start: start - before, end: end + after, options: [''] } };
}

/** A greeting opens the response and a closing ends it; clauses that are none do not count. */
function isMisplaced(clause: Clause, known: readonly Clause[]): boolean {
  const kind = clause.reading?.template.kind;
  return (kind === 'greeting' && clause !== known[0]) || (kind === 'closing' && clause !== known.at(-1));
}

/** Wrong values, and each run of other departures from the template as one piece of bad grammar. */
function judgeWording(response: string, { steps }: Reading, lowerInitial: boolean): Defect[] {
  const departs = (step: Step | undefined): boolean => step !== undefined && step.cost > 0 && !step.wrong;
  const defects: Defect[] = [];
  for (let first = 0; first < steps.length; first += 1) {
    const { word, expected, wrong } = steps[first]!;
    if (wrong) {
      const { start, end } = word!;
      defects.push({ kind: 'wrong_value', start, end, repair: { start, end, options: expected!.options } });
    } else if (departs(steps[first])) {
      let end = first + 1;
      while (departs(steps[end])) end += 1;
      defects.push(misphrasing(response, steps, first, end, lowerInitial));
      first = end - 1;
    }
  }
  return defects;
}

/** The departure steps[first, end): words to replace, words too many, or words left out. */
function misphrasing(
  response: string,
  steps: readonly Step[],
  first: number,
  end: number,
  lowerInitial: boolean,
): Defect {
  const kind = 'bad_grammar';
  const words = steps.slice(first, end).flatMap(({ word }) => word ?? []);
  const expected = steps.slice(first, end).flatMap((step) => step.expected?.options[0] ?? []);
  if (expected.length === 0) return removal(kind, response, words);

  const startsSentence = steps.slice(0, first).every((step) => step.expected === undefined);
  const text = startsSentence ? setInitial(joinWords(expected), lowerInitial) : joinWords(expected);
  if (words.length > 0) {
    const span = { start: words[0]!.start, end: words.at(-1)!.end };
    return { kind, ...span, repair: { ...span, options: [text] } };
  }
  const preceding = steps.slice(0, first).findLast(({ word }) => word !== undefined)?.word;
  if (preceding !== undefined) {
    const inserted = joinWords([preceding.text, ...expected]).slice(preceding.text.length);
    return insertion(kind, preceding.end, [inserted]);
  }
  const following = steps.slice(end).find(({ word }) => word !== undefined)!.word!;
  return insertion(kind, following.start, [`${text} `]);
}

/**
 * A missing greeting is due at the start; another clause before the next required one that is there, in the order
 * of `requiredKinds`, and at the end if there is none.
 */
function omission(
  slots: Slots,
  response: string,
  kind: RequiredKind,
  placed: ReadonlyMap<ClauseKind, Clause>,
): Defect {
  const later = requiredKinds.slice(requiredKinds.indexOf(kind) + 1);
  const next = later.map((other) => placed.get(other)).find((clause) => clause !== undefined);
  const options = wordings(slots, kind);
  if (next === undefined) {
    return insertion(
      'missing_clause',
      response.length,
      options.map((option) => ` ${option}`),
    );
  }
  const place = kind === 'greeting' ? 0 : next.words[0]!.start;
  return insertion(
    'missing_clause',
    place,
    options.map((option) => `${option} `),
  );
}

function insertion(kind: DefectKind, place: number, options: readonly string[]): Defect {
  return { kind, start: place, end: place, repair: { start: place, end: place, options } };
}
