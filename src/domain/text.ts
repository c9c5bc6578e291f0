// Text as Unicode: what is refused at the edge, and positions in the three units that callers count in. Inside, every
// position is a UTF-16 index, as in JavaScript strings. All functions but `findIllFormed` assume well-formed text.

/** Half-open. */
export type Span = [start: number, end: number];

export const units = ['utf16', 'codepoint', 'byte'] as const;
/** `byte` counts UTF-8. */
export type Unit = (typeof units)[number];

export interface IllFormed {
  /** UTF-16 index of the first such character. */
  index: number;
  kind: 'nul' | 'lone_surrogate';
}

const illFormed = /\0|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;

/** The first NUL (Postgres cannot store it) or lone surrogate (no Unicode text) of a string, or null. */
export function findIllFormed(text: string): IllFormed | null {
  if (text.isWellFormed() && !text.includes('\0')) return null; // native, and nearly always the end of it
  const match = illFormed.exec(text);
  return match && { index: match.index, kind: match[0] === '\0' ? 'nul' : 'lone_surrogate' };
}

const identity = (position: number): number => position;

/**
 * From UTF-16 positions (0..length) of one text to another unit. Builds its index once: make it once per text.
 * A position inside a surrogate pair counts as the end of the pair.
 */
export function positionsInUnit(text: string, unit: Unit): (position: number) => number {
  const same =
    unit === 'utf16'
      ? true
      : unit === 'codepoint'
        ? !/[\ud800-\udfff]/.test(text)
        : /^[\0-\x7f]*$/.test(text);
  if (same) return identity;
  const index = new Uint32Array(text.length + 1);
  let count = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    const lowSurrogate = code >= 0xdc00 && code <= 0xdfff;
    index[i] = count;
    if (!lowSurrogate) count += unit === 'codepoint' ? 1 : utf8Length(code);
  }
  index[text.length] = count;
  return (position) => index[position]!;
}

/** Bytes of a character of the basic plane, or of the whole pair that a high surrogate begins. */
function utf8Length(code: number): number {
  if (code < 0x80) return 1;
  if (code < 0x800) return 2;
  return code >= 0xd800 && code <= 0xdbff ? 4 : 3;
}

/** Spans of a text, from UTF-16 to `unit`. */
export function spansInUnit(text: string, spans: readonly Span[], unit: Unit): Span[] {
  const position = positionsInUnit(text, unit);
  return spans.map(([start, end]) => [position(start), position(end)]);
}

/** From code point positions (0..number of code points) of one text to UTF-16. Builds its index once. */
export function positionsFromCodePoints(text: string): (position: number) => number {
  if (!/[\ud800-\udfff]/.test(text)) return identity;
  const index: number[] = [];
  let at = 0;
  for (const character of text) {
    index.push(at);
    at += character.length;
  }
  index.push(at);
  return (position) => index[position]!;
}
