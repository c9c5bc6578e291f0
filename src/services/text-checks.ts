// Text is Unicode: NUL cannot be stored in Postgres and a lone surrogate is no character. Both are refused wherever
// JSON comes in; nothing is trimmed, normalised or repaired.
import { pointerToken } from '../errors.ts';

export interface IllFormedText {
  pointer: string;
  detail: string;
}

const maxDepth = 64;

function* illFormed(value: unknown, pointer: string, depth: number): Generator<IllFormedText> {
  if (typeof value === 'string') {
    if (!value.isWellFormed())
      yield { pointer, detail: 'contains a lone surrogate, which is not Unicode text' };
    else if (value.includes('\0'))
      yield { pointer, detail: 'contains a NUL character, which cannot be stored' };
  } else if (typeof value === 'object' && value !== null) {
    if (depth === maxDepth) {
      yield { pointer, detail: `is nested deeper than ${maxDepth} levels` };
      return;
    }
    for (const [key, child] of Object.entries(value)) {
      if (!key.isWellFormed() || key.includes('\0'))
        yield { pointer, detail: 'has a field whose name is not Unicode text' };
      yield* illFormed(child, `${pointer}/${pointerToken(key)}`, depth + 1);
    }
  }
}

/** The first place of a JSON value that cannot be taken as text, or null. */
export function findIllFormedText(value: unknown): IllFormedText | null {
  return illFormed(value, '', 0).next().value ?? null;
}
