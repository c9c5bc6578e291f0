// The demo world: prompts with slots, and demonstrations with known defects, in plain English text.
// Guarantees: pure and seeded; a prompt's text carries every slot (`parsePrompt`), so that an outside judge
// needs nothing else; every injected defect is reported with its place. Idea: ALGORITHM 4.

import type { Random } from './random.ts';

export const tones = {
  warm: ['gentle', 'kind', 'sunny', 'tender'],
  formal: ['proper', 'precise', 'strict', 'polite'],
  funny: ['silly', 'goofy', 'witty', 'playful'],
  serious: ['grave', 'sober', 'solemn', 'stern'],
} as const;

export type Tone = keyof typeof tones;

/** What may stand in a slot of a template. `adjective` belongs to the tone; `claim` is never called for. */
export const vocabulary = {
  kind: ['letter', 'note', 'message', 'memo'],
  name: ['Anna', 'Bob', 'Carl', 'Dora', 'Emil', 'Faye', 'Gus', 'Hana'],
  topic: ['harbor', 'garden', 'school', 'budget', 'concert', 'museum', 'bakery', 'railway'],
  adjective: Object.values(tones).flat() as string[],
  quantity: ['two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine'],
  unit: ['boxes', 'chairs', 'bottles', 'tickets', 'plates', 'books'],
  item: ['ladder', 'camera', 'blanket', 'hammer', 'kettle', 'bucket', 'basket', 'mirror', 'candle', 'carpet'],
  claim: ['guaranteed', 'proven', 'flawless', 'undisputed'],
} as const satisfies Record<string, readonly string[]>;

export type SlotName = keyof typeof vocabulary;

export const rudeWords: readonly string[] = ['damn', 'stupid', 'rotten', 'lousy'];

/** What a prompt asks for. */
export type Slots = {
  kind: string;
  name: string;
  topic: string;
  tone: Tone;
  quantity: string;
  unit: string;
  items: readonly [string, string, string];
};

const itemKinds = ['item_1', 'item_2', 'item_3'] as const;

/** A response has one clause of each of these kinds; the greeting opens it, the closing ends it. */
export const requiredKinds = ['greeting', 'opening', 'tone', 'quantity', ...itemKinds, 'closing'] as const;

export type RequiredKind = (typeof requiredKinds)[number];

export type ClauseKind = RequiredKind | 'filler' | 'claim';

/** One word (or end mark) of a template: fixed text, or a slot to fill. */
export type TemplateWord = { text: string } | { slot: SlotName };

export type Template = { kind: ClauseKind; words: readonly TemplateWord[] };

const itemSentences = (ordinal: string) => [
  `${ordinal} bring the {item}.`,
  `${ordinal} comes the {item}.`,
  `${ordinal} find the {item}.`,
];

const sentences: Record<ClauseKind, readonly string[]> = {
  greeting: ['Dear {name},', 'Hello {name},', 'Hi {name},'],
  opening: [
    'This {kind} is about the {topic}.',
    'I send this {kind} about the {topic}.',
    'Let us talk about the {topic} today.',
    'Here is some news about the {topic}.',
  ],
  tone: [
    'It was a {adjective} day.',
    'I feel {adjective} today.',
    'The place is {adjective} and {adjective}.',
    'My view is {adjective}.',
  ],
  quantity: ['We need {quantity} {unit}.', 'Please order {quantity} {unit}.', 'There are {quantity} {unit}.'],
  item_1: itemSentences('First'),
  item_2: itemSentences('Next'),
  item_3: itemSentences('Finally'),
  filler: [
    'The weather is fine.',
    'See the plan for the week.',
    'Call me after lunch.',
    'The road is open again.',
  ],
  claim: ['It is {claim}.', 'Everyone says it is {claim}.', 'Our way is {claim}.'],
  closing: ['See you soon.', 'Best wishes.', 'Thanks again.', 'Bye for now.'],
};

/** Every clause that a response may be made of. */
export const templates: readonly Template[] = (Object.keys(sentences) as ClauseKind[]).flatMap((kind) =>
  sentences[kind].map((sentence) => ({ kind, words: parseTemplate(sentence) })),
);

function parseTemplate(sentence: string): TemplateWord[] {
  return [...sentence.matchAll(/\{(\w+)\}|\w+|[.,]/g)].map(([text, slot]) =>
    slot === undefined ? { text } : { slot: slot as SlotName },
  );
}

/** Draws what a prompt asks for; the three items differ. */
export function drawSlots(random: Random): Slots {
  const [first, second, third] = random.shuffle(vocabulary.item);
  return {
    kind: random.pick(vocabulary.kind),
    name: random.pick(vocabulary.name),
    topic: random.pick(vocabulary.topic),
    tone: random.pick(Object.keys(tones) as Tone[]),
    quantity: random.pick(vocabulary.quantity),
    unit: random.pick(vocabulary.unit),
    items: [first!, second!, third!],
  };
}

export function renderPrompt({ kind, name, topic, tone, quantity, unit, items }: Slots): string {
  return (
    `Write a ${kind} to ${name} about the ${topic} in a ${tone} tone. ` +
    `Ask for ${quantity} ${unit}, the ${items[0]}, the ${items[1]} and the ${items[2]}.`
  );
}

const promptPattern =
  /^Write a (\w+) to (\w+) about the (\w+) in a (\w+) tone\. Ask for (\w+) (\w+), the (\w+), the (\w+) and the (\w+)\.$/;

/** The slots of a prompt of this world. Throws for any other text: there is nothing to judge it by. */
export function parsePrompt(prompt: string): Slots {
  const match = promptPattern.exec(prompt);
  const [kind, name, topic, tone, quantity, unit, first, second, third] = match?.slice(1) ?? [];
  if (third === undefined || !Object.hasOwn(tones, tone!)) {
    throw new Error(
      `Not a prompt of the demo world (see examples/world/main.ts prompts): ${prompt.slice(0, 80)}`,
    );
  }
  return {
    kind: kind!,
    name: name!,
    topic: topic!,
    tone: tone as Tone,
    quantity: quantity!,
    unit: unit!,
    items: [first!, second!, third],
  };
}

/** The words that fit a slot in a clause of this kind under this prompt. Any claim fits, as none is called for. */
export function acceptedWords(slots: Slots, kind: ClauseKind, slot: SlotName): readonly string[] {
  if (slot === 'adjective') return tones[slots.tone];
  if (slot === 'claim') return vocabulary.claim;
  if (slot === 'item') return [slots.items[itemKinds.indexOf(kind as (typeof itemKinds)[number])]!];
  return [slots[slot]];
}

/** Every wording of a clause that carries out the prompt. */
export function wordings(slots: Slots, kind: ClauseKind): string[] {
  return templates
    .filter((template) => template.kind === kind)
    .flatMap(({ words }) =>
      words.reduce<string[][]>(
        (beginnings, word) => {
          const choices = 'text' in word ? [word.text] : acceptedWords(slots, kind, word.slot);
          return beginnings.flatMap((beginning) => choices.map((choice) => [...beginning, choice]));
        },
        [[]],
      ),
    )
    .map(joinWords);
}

/** Words and end marks as text: a space before each word but the first. */
export function joinWords(words: readonly string[]): string {
  return words.map((word, index) => (index === 0 || /^[.,]$/.test(word) ? word : ` ${word}`)).join('');
}

export type DefectKind =
  | 'wrong_value'
  | 'rude_word'
  | 'unsupported_claim'
  | 'repeated_clause'
  | 'missing_clause'
  | 'bad_grammar';

/** A defect and its place: UTF-16 offsets, half-open; something missing has the width zero. */
export type DefectSpan = { kind: DefectKind; start: number; end: number };

/** How often a careless writer (`carelessness` 1) makes each mistake, per place where it can be made. */
export const errorRates = {
  wrongValue: { name: 0.2, topic: 0.2, adjective: 0.25, quantity: 0.2, unit: 0.2, kind: 0.2, item: 0.12 },
  rudeWord: 0.1,
  claim: 0.25,
  repeatedClause: 0.15,
  missingItem: 0.15,
  missingClosing: 0.12,
  badGrammar: 0.06,
} as const;

const fillerRate = 0.4;

type DraftWord = { text: string; slot?: SlotName; defect?: DefectKind };
type DraftClause = { words: DraftWord[]; defect?: DefectKind };

export type Demonstration = {
  text: string;
  /** Every defect that was put in, except missing clauses, which have no place of their own. */
  defects: DefectSpan[];
  missing: ClauseKind[];
};

/**
 * Writes a response to a prompt, 8 to 9 clauses long, with random defects.
 * `carelessness` scales all error rates: 0 makes none.
 */
export function writeDemonstration(slots: Slots, random: Random, carelessness: number): Demonstration {
  const errs = (rate: number): boolean => random.chance(rate * carelessness);
  const draft = (kind: ClauseKind): DraftClause => draftClause(slots, kind, random, carelessness);

  const missing: ClauseKind[] = itemKinds.filter(() => errs(errorRates.missingItem));
  const items = itemKinds.filter((kind) => !missing.includes(kind));
  const others: ClauseKind[] = ['tone', 'quantity'];
  if (random.chance(fillerRate)) others.push('filler');
  if (errs(errorRates.claim)) others.push('claim');

  const order = random.shuffle([...others, ...items.map(() => 'item' as const)]);
  const body = [draft('opening'), ...order.map((kind) => draft(kind === 'item' ? items.shift()! : kind))];
  for (const clause of body) {
    if (errs(errorRates.rudeWord)) insertRudeWord(clause, random);
    if (clause.defect === undefined && errs(errorRates.badGrammar)) breakGrammar(clause, random);
  }
  if (errs(errorRates.repeatedClause)) {
    const index = random.integer(body.length);
    const place = index + 1 + random.integer(body.length - index);
    body.splice(place, 0, repeatClause(body[index]!));
  }

  const clauses = [draft('greeting'), ...body];
  if (errs(errorRates.missingClosing)) missing.push('closing');
  else clauses.push(draft('closing'));
  return { ...renderClauses(clauses), missing };
}

function draftClause(slots: Slots, kind: ClauseKind, random: Random, carelessness: number): DraftClause {
  const { words } = random.pick(templates.filter((template) => template.kind === kind));
  const filled = words.map((word): DraftWord => {
    if ('text' in word) return word;
    const { slot } = word;
    const accepted = acceptedWords(slots, kind, slot);
    if (slot !== 'claim' && random.chance(errorRates.wrongValue[slot] * carelessness)) {
      const others = vocabulary[slot].filter((other) => !accepted.includes(other));
      return { text: random.pick(others), slot, defect: 'wrong_value' };
    }
    return { text: random.pick(accepted), slot };
  });
  return kind === 'claim' ? { words: filled, defect: 'unsupported_claim' } : { words: filled };
}

/** Puts a rude word before the first filled slot; a clause without slots stays as it is. */
function insertRudeWord(clause: DraftClause, random: Random): void {
  const place = clause.words.findIndex((word) => word.slot !== undefined);
  if (place >= 0) clause.words.splice(place, 0, { text: random.pick(rudeWords), defect: 'rude_word' });
}

/** Doubles or drops one fixed word inside the clause; the first word, which tells clauses apart, stays. */
function breakGrammar(clause: DraftClause, random: Random): void {
  const { words } = clause;
  const places = words.flatMap(({ slot, defect, text }, place) =>
    place > 0 && slot === undefined && defect === undefined && text !== '.' ? [place] : [],
  );
  if (places.length === 0) return;
  const place = random.pick(places);
  if (random.chance(0.5)) {
    words.splice(place + 1, 0, { text: words[place]!.text, defect: 'bad_grammar' });
  } else {
    words.splice(place, 1, { text: '', defect: 'bad_grammar' });
  }
}

/** A copy, which as a whole is one defect; rude words in it count again. */
function repeatClause(clause: DraftClause): DraftClause {
  const words = clause.words.map(
    ({ text, defect }): DraftWord => (defect === 'rude_word' ? { text, defect } : { text }),
  );
  return { words, defect: 'repeated_clause' };
}

/** Renders clauses as text: a capital starts each sentence, and the first one after the greeting does not. */
function renderClauses(clauses: readonly DraftClause[]): { text: string; defects: DefectSpan[] } {
  let text = '';
  const defects: DefectSpan[] = [];
  clauses.forEach((clause, index) => {
    const clauseStart = text.length + (index === 0 ? 0 : 1);
    clause.words.forEach((word, position) => {
      if (text !== '' && word.text !== '' && !/^[.,]$/.test(word.text)) text += ' ';
      const start = text.length;
      text += position === 0 ? setInitial(word.text, index === 1) : word.text;
      if (word.defect !== undefined) defects.push({ kind: word.defect, start, end: text.length });
    });
    if (clause.defect !== undefined) {
      defects.push({ kind: clause.defect, start: clauseStart, end: text.length });
    }
  });
  return { text, defects };
}

/** The sentence with the initial that its place asks for: lower case after the greeting, except for "I". */
export function setInitial(sentence: string, afterGreeting: boolean): string {
  const lowered = afterGreeting && !/^I\b/.test(sentence);
  const initial = sentence.slice(0, 1);
  return (lowered ? initial.toLowerCase() : initial.toUpperCase()) + sentence.slice(1);
}
