// JSON from outside, body or line, in one place: UTF-8 only, nested to a bounded depth, text that is Unicode (NUL cannot
// be stored in Postgres and a lone surrogate is no character). Nothing is trimmed, normalised or repaired. Each check is
// one pass that allocates nothing while all is well: millions of small values must not hold up the process.
import { findIllFormed } from '../domain/text.ts';
import { pointerToken } from '../errors.ts';

const maxDepth = 64;

export interface JsonError {
  code: 'malformed_json' | 'ill_formed_text' | 'beyond_limits';
  /** JSON pointer to what is wrong; empty when that is the whole */
  pointer: string;
  /** begins with a verb: "is not UTF-8" */
  detail: string;
}

const utf8 = new TextDecoder('utf-8', { fatal: true }); // drops a byte order mark

/**
 * Parses one JSON text. Of equal keys in an object the last one counts; `__proto__` is a key like any other.
 * @returns its value, undefined when there is nothing but white space, or the first thing that is wrong
 */
export function parseJson(bytes: Uint8Array): { value: unknown } | { error: JsonError } {
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch {
    return { error: { code: 'malformed_json', pointer: '', detail: 'is not UTF-8' } };
  }
  if (text.trim() === '') return { value: undefined };
  if (isNestedDeeper(bytes, maxDepth)) {
    const detail = `is nested deeper than ${maxDepth} levels`;
    return { error: { code: 'beyond_limits', pointer: '', detail } };
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return { error: { code: 'malformed_json', pointer: '', detail: explain(error as SyntaxError) } };
  }
  const wrong = findFault(value);
  return wrong ? { error: wrong } : { value };
}

/** Where the engine says that it is; its message may quote the text, which may be a secret. */
function explain({ message }: SyntaxError): string {
  if (message.startsWith('Unexpected end')) return 'is not valid JSON: it ends too early';
  const [, position] = / at position (\d+)/.exec(message) ?? [];
  return position === undefined ? 'is not valid JSON' : `is not valid JSON: look at character ${position}`;
}

const [quote, backslash] = [0x22, 0x5c];
const [openBracket, closeBracket, openBrace, closeBrace] = [0x5b, 0x5d, 0x7b, 0x7d];

/** Looks before parsing, which would take seconds for millions of brackets. */
function isNestedDeeper(json: Uint8Array, limit: number): boolean {
  if (!hasMoreBrackets(json, limit)) return false; // nearly always the end of it
  let depth = 0;
  for (let at = 0; at < json.length; at++) {
    const byte = json[at];
    if (byte === quote) {
      for (at++; at < json.length && json[at] !== quote; at++) if (json[at] === backslash) at++;
    } else if (byte === openBracket || byte === openBrace) {
      if (++depth > limit) return true;
    } else if (byte === closeBracket || byte === closeBrace) depth--;
  }
  return false;
}

/** Whether there are more than `limit` opening brackets, in strings too; native, and ends when it has found so many. */
function hasMoreBrackets(json: Uint8Array, limit: number): boolean {
  let found = 0;
  for (const bracket of [openBracket, openBrace]) {
    for (let at = json.indexOf(bracket); at !== -1; at = json.indexOf(bracket, at + 1))
      if (++found > limit) return true;
  }
  return false;
}

const kinds = {
  nul: 'a NUL character, which cannot be stored',
  lone_surrogate: 'a lone surrogate, which is not Unicode text',
};

/** The first place of a value that cannot be kept as it is, or null. The pointer is built on the way back. */
export function findFault(value: unknown): JsonError | null {
  if (typeof value === 'string') {
    const wrong = findIllFormed(value);
    return wrong && { code: 'ill_formed_text', pointer: '', detail: `contains ${kinds[wrong.kind]}` };
  }
  if (typeof value === 'number') {
    if (Number.isFinite(value)) return null;
    return { code: 'beyond_limits', pointer: '', detail: 'is a number beyond 1.8e308, which cannot be kept' };
  }
  if (typeof value !== 'object' || value === null) return null;
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) {
      const wrong = findFault(value[index]);
      if (wrong) return within(index, wrong);
    }
    return null;
  }
  for (const key in value) {
    if (findIllFormed(key)) {
      return { code: 'ill_formed_text', pointer: '', detail: 'has a field whose name is not Unicode text' };
    }
    const wrong = findFault((value as Record<string, unknown>)[key]);
    if (wrong) return within(key, wrong);
  }
  return null;
}

const within = (token: string | number, wrong: JsonError): JsonError => ({
  ...wrong,
  pointer: `/${pointerToken(token)}${wrong.pointer}`,
});
