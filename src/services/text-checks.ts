// Text is Unicode: NUL cannot be stored in Postgres and a lone surrogate is no character. Both are refused wherever
// JSON comes in; nothing is trimmed, normalised or repaired.
import { findIllFormed } from '../domain/text.ts';
import { pointerToken } from '../errors.ts';

export interface IllFormedText {
  pointer: string;
  detail: string;
}

const maxDepth = 64;

const kinds = {
  nul: 'a NUL character, which cannot be stored',
  lone_surrogate: 'a lone surrogate, which is not Unicode text',
};

function* illFormed(value: unknown, pointer: string, depth: number): Generator<IllFormedText> {
  if (typeof value === 'string') {
    const wrong = findIllFormed(value);
    if (wrong) yield { pointer, detail: `contains ${kinds[wrong.kind]}` };
  } else if (typeof value === 'object' && value !== null) {
    if (depth === maxDepth) {
      yield { pointer, detail: `is nested deeper than ${maxDepth} levels` };
      return;
    }
    for (const [key, child] of Object.entries(value)) {
      if (findIllFormed(key)) yield { pointer, detail: 'has a field whose name is not Unicode text' };
      yield* illFormed(child, `${pointer}/${pointerToken(key)}`, depth + 1);
    }
  }
}

/** The first place of a JSON value that cannot be taken as text, or null. */
export function findIllFormedText(value: unknown): IllFormedText | null {
  return illFormed(value, '', 0).next().value ?? null;
}
