// What an edit bought: the rewards of both versions of a response, added up over the segments of their alignment (DESIGN 5).
// Each token counts once, in the segment its text lies in or in the end, so that the parts sum to the whole on both sides.
import type { Segment } from './alignment.ts';
import type { Span } from './text.ts';
import { touchingSpans, withoutLeadingSpace } from './token-labels.ts';

/** One version of a response. EOS, if it was scored, is the last token; its cover is empty at the end of the text. */
export interface RewardedText {
  text: string;
  /** `covers` of token-offsets.ts, one per token, in UTF-16. */
  covers: Span[];
  /** One per token. */
  rewards: number[];
}

/** Sums over the tokens of one place; a side without tokens there has 0. */
export interface RewardDifference {
  original_reward: number;
  edited_reward: number;
  /** edited − original: above 0 the edited version is better here. */
  difference: number;
}

export interface SegmentRewards {
  segments: (Segment & RewardDifference)[];
  /** What ends the response: EOS, and tokens that a tokenizer puts after all text. */
  end: RewardDifference;
}

/** @param segments an alignment of the two texts */
export function segmentRewards(
  segments: readonly Segment[],
  original: RewardedText,
  edited: RewardedText,
): SegmentRewards {
  const originalSums = sumBySegment(segments, 'original', original);
  const editedSums = sumBySegment(segments, 'edited', edited);
  const differenceAt = (place: number): RewardDifference => {
    const [original_reward, edited_reward] = [originalSums[place]!, editedSums[place]!];
    return { original_reward, edited_reward, difference: edited_reward - original_reward };
  };
  return {
    segments: segments.map((segment, place) => ({ ...segment, ...differenceAt(place) })),
    end: differenceAt(segments.length),
  };
}

/** One sum for each segment, and that of the end last. */
function sumBySegment(
  segments: readonly Segment[],
  side: 'original' | 'edited',
  { text, covers, rewards }: RewardedText,
): number[] {
  const sums = new Array<number>(segments.length + 1).fill(0);
  segmentOfTokens(segments, side, text, covers).forEach((place, token) => {
    sums[place]! += rewards[token]!;
  });
  return sums;
}

/**
 * The index of the segment that each token belongs to; `segments.length` is the end. A token that touches a changed segment
 * belongs to the first such segment, as in the labels that a reward model learns from: white space in front of a word does
 * not count. A token without text belongs with the next one that has any, and to the end when none follows.
 */
export function segmentOfTokens(
  segments: readonly Segment[],
  side: 'original' | 'edited',
  text: string,
  covers: readonly Span[],
): number[] {
  const hasText = ([start, end]: Span): boolean => start < end;
  const changed = [...segments.keys()].filter(
    (index) => segments[index]!.kind !== 'keep' && hasText(segments[index]![side]),
  );
  const touching = touchingSpans(
    text,
    covers,
    changed.map((index) => segments[index]![side]),
  );
  const places = new Array<number>(covers.length);
  let segment = 0;
  for (const [token, cover] of covers.entries()) {
    if (!hasText(cover)) continue;
    const [start] = withoutLeadingSpace(text, cover);
    while (segments[segment]![side][1] <= start) segment++; // the segments tile the text, and starts ascend
    const span = touching[token]!;
    places[token] = span === null ? segment : changed[span]!;
  }
  let next = segments.length;
  for (let token = covers.length - 1; token >= 0; token--) {
    if (hasText(covers[token]!)) next = places[token]!;
    else places[token] = next;
  }
  return places;
}
