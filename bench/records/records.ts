// A second domain, as unlike the demo world's letters as can be: a person's facts become a JSON object with the keys that
// are asked for, in their order. There is one right answer, and what goes wrong is of another kind: types, keys, order and
// syntax; a record that cannot be parsed costs two more, however it was broken, so the score is not additive.
import { createRandom, type Random } from '../../examples/world/random.ts';

const values = {
  name: ['Anna', 'Bob', 'Carl', 'Dora', 'Emil', 'Faye', 'Gus', 'Hana', 'Ivan', 'June', 'Kurt', 'Lena'],
  city: [
    'Oslo',
    'Rome',
    'Lima',
    'Paris',
    'Cairo',
    'Delhi',
    'Tokyo',
    'Quito',
    'Sofia',
    'Accra',
    'Turin',
    'Bern',
  ],
  role: ['cook', 'pilot', 'nurse', 'judge', 'clerk', 'baker', 'actor', 'guard', 'tailor', 'farmer'],
  team: ['red', 'blue', 'green', 'white', 'black', 'pink', 'gold', 'grey'],
} as const;
type WordKey = keyof typeof values;
export const keys = ['name', 'city', 'role', 'team', 'age', 'floor', 'active', 'manager'] as const;
export type Key = (typeof keys)[number];

/** Keys that are asked for, in their order, with the JSON of each value; `extra` are told and not asked for. */
export interface Task {
  wanted: readonly Key[];
  facts: ReadonlyMap<Key, string>;
  /** the order in which the prompt tells the facts */
  told: readonly Key[];
}

const isWordKey = (key: Key): key is WordKey => key in values;

function drawValue(key: Key, random: Random): string {
  if (isWordKey(key)) return JSON.stringify(random.pick<string>(values[key]));
  if (key === 'active') return random.pick(['true', 'false']);
  if (key === 'manager') return random.chance(0.3) ? 'null' : JSON.stringify(random.pick(values.name));
  return String(key === 'age' ? 20 + random.integer(60) : 1 + random.integer(9));
}

export function drawTask(random: Random): Task {
  const told = random.shuffle(keys).slice(0, 5 + random.integer(3));
  const wanted = random.shuffle(told).slice(0, Math.min(told.length, 4 + random.integer(3)));
  return { wanted, told, facts: new Map(told.map((key) => [key, drawValue(key, random)])) };
}

export function renderPrompt({ wanted, told, facts }: Task): string {
  const tell = told.map((key) => `${key} ${facts.get(key)!.replaceAll('"', '')}`);
  return `Facts: ${tell.join(', ')}. Give JSON with the keys ${wanted.join(', ')}.`;
}

/** @throws Error for a prompt of another world */
export function parsePrompt(prompt: string): Task {
  const match = /^Facts: (.+)\. Give JSON with the keys (.+)\.$/.exec(prompt);
  if (!match) throw new Error(`Not a prompt for a record: ${prompt}`);
  const facts = match[1]!.split(', ').map((fact): [Key, string] => {
    const [key, value] = fact.split(' ') as [Key, string];
    const isBare = value === 'null' || key === 'active' || key === 'age' || key === 'floor';
    return [key, isBare ? value : JSON.stringify(value)];
  });
  return {
    wanted: match[2]!.split(', ') as Key[],
    told: facts.map(([key]) => key),
    facts: new Map(facts),
  };
}

// ---- writing, with mistakes

type Field = { key: string; value: string };

/** Of a writer with carelessness 1; per field, or per response. */
const rates = {
  wrongValue: 0.08,
  wrongType: 0.07,
  misspeltKey: 0.05,
  missingField: 0.05,
  missingComma: 0.04,
  extraField: 0.15,
  repeatedField: 0.1,
  swappedFields: 0.15,
  trailingComma: 0.1,
  missingBrace: 0.1,
  chatter: 0.2,
};

/** A response to the task by a writer who errs `carelessness` times as often as the usual one; 0: the right answer. */
export function writeRecord(task: Task, random: Random, carelessness: number): string {
  const errs = (rate: number): boolean => random.chance(Math.min(0.9, rate * carelessness));
  const fields: Field[] = [];
  for (const key of task.wanted) {
    if (errs(rates.missingField)) continue;
    let value = task.facts.get(key)!;
    if (errs(rates.wrongValue)) value = otherValue(key, value, random);
    if (errs(rates.wrongType)) value = otherType(value);
    fields.push({ key: errs(rates.misspeltKey) ? misspelt(key, random) : key, value });
  }
  const more = task.told.filter((key) => !task.wanted.includes(key));
  if (more.length > 0 && errs(rates.extraField)) {
    const key = random.pick(more);
    fields.splice(random.integer(fields.length + 1), 0, { key, value: task.facts.get(key)! });
  }
  if (fields.length > 0 && errs(rates.repeatedField)) {
    fields.splice(random.integer(fields.length + 1), 0, random.pick(fields));
  }
  if (fields.length > 1 && errs(rates.swappedFields)) {
    const first = random.integer(fields.length - 1);
    fields.splice(first, 2, fields[first + 1]!, fields[first]!);
  }
  let text = errs(rates.chatter) ? 'Here it is: {' : '{';
  fields.forEach(({ key, value }, place) => {
    const last = place === fields.length - 1;
    const comma = last ? errs(rates.trailingComma) : !errs(rates.missingComma);
    text += `${JSON.stringify(key)}: ${value}${comma ? ',' : ''}${last ? '' : ' '}`;
  });
  return errs(rates.missingBrace) ? text : `${text}}`;
}

function otherValue(key: Key, value: string, random: Random): string {
  for (let tries = 0; tries < 20; tries++) {
    const other = drawValue(key, random);
    if (other !== value) return other;
  }
  return value;
}

const otherType = (value: string): string =>
  value.startsWith('"') ? value.slice(1, -1) : JSON.stringify(value);

const misspelt = (key: Key, random: Random): string =>
  random.pick([key.toUpperCase(), `${key}s`, `the ${key}`]);

/** The one right answer. */
export const rightRecord = (task: Task): string => writeRecord(task, createRandom('right'), 0);

// ---- the hidden score

/** What differs from the right answer: lexemes of the response [start, end) that should be `right`. */
export interface Defect {
  start: number;
  end: number;
  right: readonly string[];
}

export interface Assessment {
  /** minus the number of defects, and two more for a text that no parser takes */
  score: number;
  defects: Defect[];
  lexemes: string[];
}

const lexemesOf = (text: string): string[] => text.match(/"[^"]*"?|[{}[\],:]|[^\s"{}[\],:]+/g) ?? [];

/**
 * Compares the response with the right answer, lexeme by lexeme: a wrong one is a defect, and so is each run of
 * lexemes too many, or too few, up to the next comma. Throws if the prompt is not of this world.
 */
export function assess(prompt: string, response: string): Assessment {
  const right = lexemesOf(rightRecord(parsePrompt(prompt)));
  const lexemes = lexemesOf(response);
  const defects = splitAtFields(departures(lexemes, right), lexemes);
  return { score: 0 - defects.length - (parses(response) ? 0 : 2), defects, lexemes };
}

export const score = (prompt: string, response: string): number => assess(prompt, response).score;

function parses(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** The cheapest way from `lexemes` to `right` (Levenshtein): one departure for each wrong lexeme and each run that is too long or short. */
function departures(lexemes: readonly string[], right: readonly string[]): Defect[] {
  const width = right.length + 1;
  const cost = new Uint16Array((lexemes.length + 1) * width);
  for (let i = lexemes.length; i >= 0; i--) {
    for (let j = right.length; j >= 0; j--) {
      const at = i * width + j;
      if (i === lexemes.length) cost[at] = 2 * (right.length - j);
      else if (j === right.length) cost[at] = 2 * (lexemes.length - i);
      else {
        const same = lexemes[i] === right[j];
        const replaced = cost[at + width + 1]! + (same ? 0 : isAlike(lexemes[i]!, right[j]!) ? 2 : 5);
        cost[at] = Math.min(replaced, cost[at + width]! + 2, cost[at + 1]! + 2);
      }
    }
  }
  const defects: Defect[] = [];
  let [i, j] = [0, 0];
  while (i < lexemes.length || j < right.length) {
    const at = i * width + j;
    const both = i < lexemes.length && j < right.length;
    if (both && lexemes[i] === right[j] && cost[at] === cost[at + width + 1]) {
      i++;
      j++;
      continue;
    }
    const price = both ? (isAlike(lexemes[i]!, right[j]!) ? 2 : 5) : 0;
    if (both && lexemes[i] !== right[j] && cost[at] === cost[at + width + 1]! + price) {
      defects.push({ start: i, end: i + 1, right: [right[j]!] });
      i++;
      j++;
    } else if (i < lexemes.length && cost[at] === cost[at + width]! + 2) {
      const last = defects.at(-1);
      if (last && last.end === i && last.right.length === 0) last.end = i + 1;
      else defects.push({ start: i, end: i + 1, right: [] });
      i++;
    } else {
      const last = defects.at(-1);
      if (last && last.start === i && last.end === i) last.right = [...last.right, right[j]!];
      else defects.push({ start: i, end: i, right: [right[j]!] });
      j++;
    }
  }
  return defects;
}

const isPunctuation = (lexeme: string): boolean => /^[{}[\],:]$/.test(lexeme);
/** A value in the place of a value, a key in that of a key: both are words. */
const isAlike = (one: string, other: string): boolean => isPunctuation(one) === isPunctuation(other);

/** Runs that go over several fields are as many defects. */
function splitAtFields(defects: Defect[], lexemes: readonly string[]): Defect[] {
  return defects.flatMap((defect) => {
    const { start, end, right } = defect;
    if (right.length === 0) {
      return chunks(lexemes.slice(start, end)).map(([from, to]) => ({
        start: start + from,
        end: start + to,
        right: [],
      }));
    }
    if (start < end) return [defect];
    return chunks(right).map(([from, to]) => ({ start, end, right: right.slice(from, to) }));
  });
}

/** [from, to) of each part that ends with a comma, and of the rest. */
function chunks(lexemes: readonly string[]): [number, number][] {
  const ends = lexemes.flatMap((lexeme, place) => (lexeme === ',' && place > 0 ? [place + 1] : []));
  const bounds = [0, ...ends.filter((end) => end < lexemes.length), lexemes.length];
  return bounds.slice(1).map((to, part) => [bounds[part]!, to]);
}

// ---- the simulated editor

/** Repairs three quarters of the defects; in 15 % of the responses also leaves out a space, and in 8 % makes a value wrong. */
export function edit(prompt: string, response: string, random: Random): string {
  const { defects, lexemes } = assess(prompt, response);
  const repaired = new Map(defects.filter(() => random.chance(0.75)).map((defect) => [defect, true]));
  const blamed = new Set(defects.flatMap(({ start, end }) => range(start, end)));
  const harmed = random.chance(0.08)
    ? random.pick(
        range(0, lexemes.length)
          .filter((i) => !blamed.has(i) && /^\d/.test(lexemes[i]!))
          .concat(-1),
      )
    : -1;
  const edited: string[] = [];
  for (let i = 0; i <= lexemes.length; i++) {
    for (const defect of defects) {
      if (defect.start === i && repaired.has(defect)) edited.push(...defect.right);
    }
    if (i === lexemes.length) break;
    const isReplaced = defects.some((d) => repaired.has(d) && d.start <= i && i < d.end);
    if (!isReplaced) edited.push(i === harmed ? String(1 + random.integer(9)) : lexemes[i]!);
  }
  if (edited.length === 0) return response;
  const text = render(edited);
  return random.chance(0.15) ? text.replace(': ', ':') : text;
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

/** Lexemes as writers space them. */
function render(lexemes: readonly string[]): string {
  return lexemes
    .map((lexeme, place) => {
      const before = lexemes[place - 1];
      const tight = before === undefined || before === '{' || /^[},:\]]$/.test(lexeme);
      return tight ? lexeme : ` ${lexeme}`;
    })
    .join('');
}
