// Projects an alignment of texts on tokens and decides which tokens carry a label (ALGORITHM 1; paper, section 3.1).
// Labels follow the text alone: a token whose text is kept has none, even when the two sides cut that text into different
// tokens (after an edit of its neighbour, or because a policy sampled an unusual cut). Else the cut would leak the label.
import type { Alignment, Segment } from './alignment.ts';
import type { Span } from './text.ts';

/** One version of a response. The last token is EOS, whose cover is empty at the end of the text. */
export interface TokenizedText {
  text: string;
  token_ids: number[];
  /** `covers` of token-offsets.ts, one per token. */
  covers: Span[];
}

export const labelRules = ['mix', 'all', 'none'] as const;
/**
 * What an insertion labels: `mix` the token of the original that stands where it goes in, and the first inserted token;
 * `all` every inserted token and nothing in the original; `none` nothing. Replaced and deleted tokens are labelled by all.
 */
export type LabelRule = (typeof labelRules)[number];

/** A place where the token ids differ. Outside the hunks both sides have the same ids in the same order. */
export interface Hunk {
  /** Consecutive token indices of the original; with those of `edited` in their place the edited ids come out. */
  original: number[];
  edited: number[];
  /** B_h: the labelled tokens of the original; with an insertion it may stand right after the hunk. */
  bad: number[];
  /** G_h: the labelled tokens of the edited text. */
  good: number[];
}

interface LabelledText {
  text: string;
  token_ids: number[];
  /** 1 on the tokens of B_h (original) or G_h (edited). */
  labels: (0 | 1)[];
  /** 1 on the tokens whose text the edit changed (U1). */
  changed: (0 | 1)[];
}

export interface TokenLabels {
  original: LabelledText;
  edited: LabelledText;
  hunks: Hunk[];
  /** False for equal texts and for rewrites (`alignment.minimal`): such an edit has no labels at all. */
  usable: boolean;
}

/** Which tokens a change touches, by `touchingSpans`. @param changed ascending, disjoint, in UTF-16 */
export function changedTokens(text: string, covers: readonly Span[], changed: readonly Span[]): boolean[] {
  return touchingSpans(text, covers, changed).map((span) => span !== null);
}

/**
 * The first of the changed spans that touches each token, by index, or null: it meets the token's cover without leading white
 * space. A token that is white space only counts with all of it, and white space that no token has but in front goes to the
 * token it is in front of.
 * @param changed ascending, disjoint, in UTF-16
 */
export function touchingSpans(
  text: string,
  covers: readonly Span[],
  changed: readonly Span[],
): (number | null)[] {
  const inked = covers.map((cover) => withoutLeadingSpace(text, cover));
  const touching = new Array<number | null>(covers.length).fill(null);
  let first = 0;
  for (const [index, span] of changed.entries()) {
    while (first < covers.length && covers[first]![1] <= span[0]) first++;
    let met = tokensMeeting(inked, first, span);
    if (met.length === 0) met = tokensMeeting(covers, first, span);
    for (const token of met) touching[token] ??= index;
  }
  return touching;
}

/** Token indices from `first` on; the starts of the spans ascend. */
function tokensMeeting(spans: readonly Span[], first: number, [start, end]: Span): number[] {
  const met: number[] = [];
  for (let t = first; t < spans.length && spans[t]![0] < end; t++) {
    if (spans[t]![1] > start && spans[t]![1] > spans[t]![0]) met.push(t);
  }
  return met;
}

/** White space only stays as it is. */
export function withoutLeadingSpace(text: string, [start, end]: Span): Span {
  const piece = text.slice(start, end);
  const inkedLength = piece.trimStart().length;
  return inkedLength === 0 ? [start, end] : [end - inkedLength, end];
}

/** Token labels of one edit. `alignment` is that of the two texts. */
export function labelTokens(
  alignment: Alignment,
  original: TokenizedText,
  edited: TokenizedText,
  rule: LabelRule = 'mix',
): TokenLabels {
  const changedOriginal = changedTokens(original.text, original.covers, alignment.changed_original);
  const changedEdited = changedTokens(edited.text, edited.covers, alignment.changed_edited);
  const usable = alignment.minimal && original.text !== edited.text;
  const matched = matchTokens(alignment.segments, original, changedOriginal, edited, changedEdited);
  const hunks = unmatchedRuns(matched, original.token_ids.length, edited.token_ids.length).map(
    (run): Hunk => {
      if (!usable) return { ...run, bad: [], good: [] };
      const bad = run.original.filter((t) => changedOriginal[t]);
      const good = run.edited.filter((t) => changedEdited[t]);
      if (bad.length > 0 || good.length === 0 || rule === 'all') return { ...run, bad, good };
      if (rule === 'none') return { ...run, bad: [], good: [] };
      const place = insertionPlace(alignment.segments, edited.covers[good[0]!]!);
      return { ...run, bad: [tokenStandingAt(original.covers, place)], good: good.slice(0, 1) };
    },
  );
  return {
    original: labelledText(
      original,
      hunks.flatMap((hunk) => hunk.bad),
      changedOriginal,
    ),
    edited: labelledText(
      edited,
      hunks.flatMap((hunk) => hunk.good),
      changedEdited,
    ),
    hunks,
    usable,
  };
}

function labelledText(
  { text, token_ids }: TokenizedText,
  labelled: number[],
  changed: boolean[],
): LabelledText {
  const labels = token_ids.map((): 0 | 1 => 0);
  for (const t of labelled) labels[t] = 1;
  return { text, token_ids, labels, changed: changed.map((is) => (is ? 1 : 0)) };
}

/** Where in the original the change goes in that the cover of an edited token meets. */
function insertionPlace(segments: Segment[], [start, end]: Span): number {
  return segments.find(({ kind, edited }) => kind !== 'keep' && edited[0] < end && edited[1] > start)!
    .original[0];
}

/** The token whose choice decided what stands at a position: the first that reaches beyond it, EOS at the end. */
function tokenStandingAt(covers: readonly Span[], position: number): number {
  const at = covers.findIndex(([, end]) => end > position);
  return at === -1 ? covers.length - 1 : at;
}

type TokenPair = [original: number, edited: number];

/**
 * Pairs of tokens that are the same action on both sides: equal ids, unchanged, and what they spell stands at corresponding
 * places of a kept segment. Tokens that share a character are paired together or not at all. EOS pairs with EOS.
 */
function matchTokens(
  segments: Segment[],
  original: TokenizedText,
  changedOriginal: boolean[],
  edited: TokenizedText,
  changedEdited: boolean[],
): TokenPair[] {
  const editedGroups = new Map<number, TokenGroup>();
  for (const group of groupTokens(edited, changedEdited)) editedGroups.set(group.inked[0], group);
  const pairs: TokenPair[] = [];
  let s = 0;
  for (const group of groupTokens(original, changedOriginal)) {
    while (s < segments.length && segments[s]!.original[1] <= group.inked[0]) s++;
    const segment = segments[s];
    if (
      segment?.kind !== 'keep' ||
      group.inked[0] < segment.original[0] ||
      group.inked[1] > segment.original[1]
    )
      continue;
    const shift = segment.edited[0] - segment.original[0];
    const other = editedGroups.get(group.inked[0] + shift);
    if (other?.inked[1] !== group.inked[1] + shift || other.size !== group.size) continue;
    const equal = (k: number) => original.token_ids[group.first + k] === edited.token_ids[other.first + k];
    const tokens = Array.from({ length: group.size }, (_, k) => k);
    if (tokens.every(equal)) for (const k of tokens) pairs.push([group.first + k, other.first + k]);
  }
  const ends: TokenPair = [original.token_ids.length - 1, edited.token_ids.length - 1];
  if (original.token_ids[ends[0]] === edited.token_ids[ends[1]]) pairs.push(ends);
  return pairs;
}

/** Consecutive tokens that share characters, with any tokens of no text before them. */
interface TokenGroup {
  first: number;
  size: number;
  /** What the group spells, without leading white space. */
  inked: Span;
}

/** The groups without a changed token; EOS and tokens of no text before it are in none. */
function groupTokens({ text, covers }: TokenizedText, changed: boolean[]): TokenGroup[] {
  const groups: TokenGroup[] = [];
  let first = 0;
  for (let t = 0; t < covers.length; t++) {
    let end = covers[t]![1];
    if (end === covers[first]![0]) continue;
    while (t + 1 < covers.length && covers[t + 1]![0] < end) end = Math.max(end, covers[++t]![1]);
    const size = t + 1 - first;
    if (!changed.slice(first, t + 1).includes(true)) {
      groups.push({ first, size, inked: withoutLeadingSpace(text, [covers[first]![0], end]) });
    }
    first = t + 1;
  }
  return groups;
}

/** The runs of tokens between matched pairs, where either side has any. */
function unmatchedRuns(
  matched: TokenPair[],
  originalCount: number,
  editedCount: number,
): Pick<Hunk, 'original' | 'edited'>[] {
  const runs: Pick<Hunk, 'original' | 'edited'>[] = [];
  let i = 0;
  let j = 0;
  for (const [nextI, nextJ] of [...matched, [originalCount, editedCount] satisfies TokenPair]) {
    if (nextI > i || nextJ > j) runs.push({ original: range(i, nextI), edited: range(j, nextJ) });
    i = nextI + 1;
    j = nextJ + 1;
  }
  return runs;
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, k) => from + k);
