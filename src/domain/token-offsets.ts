// From the offsets that a tokenizer reports to offsets that tile the text (DESIGN 5). The `tokenizers` package counts code
// points, gives byte-level pieces of one character the whole character each, may trim white space from a token's span, and
// leaves out text that its normalizer drops.
import { positionsFromCodePoints, type Span } from './text.ts';

/** Two views of the tokens of one text, both in UTF-16 and in the tokens' order. */
export interface TokenOffsets {
  /**
   * Tile the text: each span starts where the one before it ends. Of several tokens that share a character the last one owns
   * it and the others have width zero there; text that no token covers belongs to the next token, at the end to the last.
   */
  offsets: Span[];
  /**
   * The same spans, reaching over the whole of every character that the token has a part of: they overlap where tokens share
   * a character. For the question which tokens a change of text touches.
   */
  covers: Span[];
}

/** @param codePointOffsets what `Encoding.getOffsets()` gives, one per token, without special tokens */
export function tileOffsets(text: string, codePointOffsets: readonly (readonly number[])[]): TokenOffsets {
  const inUtf16 = positionsFromCodePoints(text);
  const raw = codePointOffsets.map(([start, end]): Span => [inUtf16(start!), inUtf16(end!)]);
  // An empty span says nothing about where its token stands: it takes no text, unless there is no other token.
  const isEmpty = (span: Span) => span[0] === span[1];
  const lastWithText = raw.findLastIndex((span) => !isEmpty(span));
  const takesRest = lastWithText === -1 ? raw.length - 1 : lastWithText;

  // nextStart[i]: where the first character begins that a token after i has a part of
  const nextStart = new Array<number>(raw.length);
  let lowest = text.length;
  for (let i = raw.length - 1; i >= 0; i--) {
    nextStart[i] = lowest;
    if (!isEmpty(raw[i]!)) lowest = Math.min(lowest, raw[i]![0]);
  }

  let done = 0;
  const offsets = raw.map((span, i): Span => {
    const start = done;
    if (i === takesRest) done = text.length;
    else if (!isEmpty(span)) done = Math.max(done, Math.min(span[1], nextStart[i]!));
    return [start, done];
  });
  const covers = offsets.map(
    ([start, end], i): Span => [start, Math.max(end, isEmpty(raw[i]!) ? end : raw[i]![1])],
  );
  return { offsets, covers };
}
