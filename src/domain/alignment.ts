// Aligns an edited text with its original: what was kept, replaced, inserted, deleted (ALGORITHM 1, text first).
// Guarantees for well-formed text (parsed at the edge by text.ts): the segments tile both texts exactly, kept segments have
// equal text, no boundary cuts a surrogate pair or a grapheme cluster, the result is deterministic, memory linear, time bounded.
import { matchWords } from './match-words.ts';
import { defaultMinimality, excesses, lengthChange, type Minimality } from './minimality.ts';
import { positionsInUnit, type Span, type Unit } from './text.ts';
import { splitWords, type Words } from './words.ts';

/** Stored with every alignment; grows with each change that can move a boundary. */
export const ALIGNMENT_VERSION = 2;

export const segmentKinds = ['keep', 'replace', 'insert', 'delete'] as const;
export type SegmentKind = (typeof segmentKinds)[number];

export type { Span };

/** An insertion has an empty original span where the text goes in; a deletion an empty edited span. */
export interface Segment {
  kind: SegmentKind;
  original: Span;
  edited: Span;
}

export const alignmentWarnings = [
  'identical',
  'no_common_text',
  'mostly_rewritten',
  'many_changes',
  'length_changed',
  'only_white_space',
  'aligned_coarsely',
] as const;
export type AlignmentWarningCode = (typeof alignmentWarnings)[number];

export interface AlignmentWarning {
  code: AlignmentWarningCode;
  /** What it means and what to do. */
  detail: string;
}

export interface AlignmentStats {
  /** Share of the original's UTF-16 units that lie in changed segments, 0..1. */
  changed_fraction_original: number;
  /** Share of the edited text's UTF-16 units that lie in changed segments, 0..1. */
  changed_fraction_edited: number;
  /** 2 × kept / (original + edited), in UTF-16 units; 1 for equal texts. */
  similarity: number;
  /** Number of changed segments. */
  hunks: number;
  /** (edited − original) / original, in UTF-16 units; null when only the original is empty. */
  length_change: number | null;
}

export interface Alignment {
  version: number;
  segments: Segment[];
  changed_original: Span[];
  changed_edited: Span[];
  stats: AlignmentStats;
  /** An edit rather than a rewrite: some word is kept, and no threshold is exceeded. */
  minimal: boolean;
  warnings: AlignmentWarning[];
}

// Kept words between two changes that are taken into one change; never as many as either change has itself, so that
// single-word fixes that stand close together stay apart.
const longestClosedGap = 2;

// From this share of changed words on, in the original and in the edited text, a sentence was not edited but replaced.
const replacedSentenceFraction = 0.7;

/** Words [aStart, aEnd) of the original became words [bStart, bEnd) of the edited text; one of the two may be empty. */
interface Change {
  aStart: number;
  aEnd: number;
  bStart: number;
  bEnd: number;
}

/** Aligns two well-formed texts. @param limits over which the edit counts as a rewrite */
export function alignTexts(
  original: string,
  edited: string,
  limits: Readonly<Minimality> = defaultMinimality,
): Alignment {
  const a = splitWords(original);
  const b = splitWords(edited);
  const { partner, complete } = matchWords(a.text, b.text);
  const found = changesBetween(partner, b.text.length);
  const split = splitOffSentences(found, a, b, original, edited);
  const closed = closeGaps(slideToEdges(split, a, b, original, edited));
  const changes = closeGaps(fillSentences(closed, a, b, original, edited));
  const segments = renderSegments(changes, a, b, original, edited);
  return describe(original, edited, segments, { complete, limits });
}

/** The original's text with the segments applied, which is the edited text. */
export function applySegments(original: string, edited: string, segments: Segment[]): string {
  return segments
    .map(({ kind, original: from, edited: to }) =>
      kind === 'keep' ? original.slice(...from) : edited.slice(...to),
    )
    .join('');
}

/** Segments of two texts, from UTF-16 to `unit`. */
export function segmentsInUnit(
  original: string,
  edited: string,
  segments: readonly Segment[],
  unit: Unit,
): Segment[] {
  const inOriginal = positionsInUnit(original, unit);
  const inEdited = positionsInUnit(edited, unit);
  return segments.map(({ kind, original: from, edited: to }) => ({
    kind,
    original: [inOriginal(from[0]), inOriginal(from[1])],
    edited: [inEdited(to[0]), inEdited(to[1])],
  }));
}

function changesBetween(partner: Int32Array, editedCount: number): Change[] {
  const changes: Change[] = [];
  let aNext = 0;
  let bNext = 0;
  for (let i = 0; i <= partner.length; i++) {
    const j = i < partner.length ? partner[i]! : editedCount;
    if (j < 0) continue;
    if (i > aNext || j > bNext) changes.push({ aStart: aNext, aEnd: i, bStart: bNext, bEnd: j });
    aNext = i + 1;
    bNext = j + 1;
  }
  return changes;
}

/**
 * A run that was only deleted or only inserted can often stand in several places ("a [b a] b" = "[a b] a b"): it moves to
 * where its edges are those of lines, sentences, clauses or words, in this order; among equals to the last place, since of
 * two copies the repetition is the mistake.
 */
function slideToEdges(changes: Change[], a: Words, b: Words, original: string, edited: string): Change[] {
  const slid: Change[] = [];
  changes.forEach((change, index) => {
    const previous = slid.at(-1) ?? { aEnd: 0, bEnd: 0 };
    const next = changes[index + 1] ?? { aStart: a.text.length, bStart: b.text.length };
    let shift = 0;
    if (change.bStart === change.bEnd) {
      shift = bestShift(a, original, change.aStart, change.aEnd, previous.aEnd, next.aStart);
    } else if (change.aStart === change.aEnd) {
      shift = bestShift(b, edited, change.bStart, change.bEnd, previous.bEnd, next.bStart);
    }
    slid.push({
      aStart: change.aStart + shift,
      aEnd: change.aEnd + shift,
      bStart: change.bStart + shift,
      bEnd: change.bEnd + shift,
    });
  });
  return slid;
}

/** How far the run [start, end) moves within [lowest, highest), where every move swaps it with an equal word. */
function bestShift(
  words: Words,
  text: string,
  start: number,
  end: number,
  lowest: number,
  highest: number,
): number {
  const size = end - start;
  let first = start;
  while (first > lowest && words.text[first - 1] === words.text[first + size - 1]) first--;
  let best = first;
  let bestStrength = -1;
  for (let at = first; ; at++) {
    const before = edgeStrength(words, text, at);
    const after = edgeStrength(words, text, at + size);
    const strength = (before ?? after ?? 0) + (after ?? before ?? 0);
    if (strength >= bestStrength) {
      best = at;
      bestStrength = strength;
    }
    if (at + size >= highest || words.text[at] !== words.text[at + size]) return best - start;
  }
}

/**
 * A replacement that ends with whole sentences that were only deleted or only inserted ("[a. B c→d]." where "[a→d].[ B c.→]"
 * says what happened) is two changes, with the end of the first sentence kept between them.
 */
function splitOffSentences(
  changes: Change[],
  a: Words,
  b: Words,
  original: string,
  edited: string,
): Change[] {
  return changes.flatMap((change, index): Change[] => {
    const { aStart, aEnd, bStart, bEnd } = change;
    const next = changes[index + 1];
    if (aStart === aEnd || bStart === bEnd || next?.aStart === aEnd + 1) return [change];
    const deleted = firstSentenceEnd(a, original, aStart, aEnd);
    if (deleted !== null) {
      return [
        { ...change, aEnd: deleted },
        { aStart: deleted + 1, aEnd: aEnd + 1, bStart: bEnd + 1, bEnd: bEnd + 1 },
      ];
    }
    const inserted = firstSentenceEnd(b, edited, bStart, bEnd);
    if (inserted !== null) {
      return [
        { ...change, bEnd: inserted },
        { aStart: aEnd + 1, aEnd: aEnd + 1, bStart: inserted + 1, bEnd: bEnd + 1 },
      ];
    }
    return [change];
  });
}

/** The first word of [start, end) that ends a sentence as the kept word `end` does, or null. */
function firstSentenceEnd(words: Words, text: string, start: number, end: number): number | null {
  if (end === words.text.length || !endsSentence(words, text, end)) return null;
  for (let k = start; k < end; k++) {
    if (words.text[k] === words.text[end] && endsSentence(words, text, k)) return k;
  }
  return null;
}

const endsSentence = (words: Words, text: string, k: number): boolean =>
  (edgeStrength(words, text, k + 1) ?? 3) >= 3;

/** How natural a boundary before word k is: 4 line, 3 sentence, 2 clause, 1 white space, 0 none; at an edge of the text any. */
function edgeStrength(words: Words, text: string, k: number): number | null {
  if (k === 0 || k === words.text.length) return null;
  const space = text.slice(words.end[k - 1], words.start[k]);
  if (/[\n\r\u2028\u2029]/.test(space)) return 4;
  const before = words.text[k - 1]!;
  if (/^[。！？｡]/.test(before)) return 3;
  if (space === '') return 0;
  if (/^[.!?…؟।]/.test(before)) return 3;
  return /^[,;:，；：、،؛]/.test(before) ? 2 : 1;
}

/**
 * The words that a replaced sentence has in common with the new one ("was", "of the", the full stop) are there by chance: they
 * are changed as well. Both sentences must be mostly changed, so that a sentence cut down to its core, or built around it,
 * keeps the core.
 */
function fillSentences(changes: Change[], a: Words, b: Words, original: string, edited: string): Change[] {
  const aReplaced = inReplacedSentence(a, original, changes, (change) => [change.aStart, change.aEnd]);
  const bReplaced = inReplacedSentence(b, edited, changes, (change) => [change.bStart, change.bEnd]);
  const filled: Change[] = [];
  let i = 0;
  let j = 0;
  for (const change of [...changes, null]) {
    for (const aEnd = change?.aStart ?? a.text.length; i < aEnd; i++, j++) {
      if (aReplaced[i] && bReplaced[j]) filled.push({ aStart: i, aEnd: i + 1, bStart: j, bEnd: j + 1 });
    }
    if (change) {
      filled.push(change);
      i = change.aEnd;
      j = change.bEnd;
    }
  }
  return filled;
}

/** Which words stand in sentences that are mostly changed: 1 for each that does. */
function inReplacedSentence(
  words: Words,
  text: string,
  changes: Change[],
  changedWords: (change: Change) => Span,
): Uint8Array {
  const changed = new Uint8Array(words.text.length);
  for (const change of changes) changed.fill(1, ...changedWords(change));
  const replaced = new Uint8Array(words.text.length);
  let start = 0;
  let count = 0;
  for (let k = 0; k < words.text.length; k++) {
    count += changed[k]!;
    if (!endsSentence(words, text, k)) continue;
    if (count >= replacedSentenceFraction * (k + 1 - start)) replaced.fill(1, start, k + 1);
    start = k + 1;
    count = 0;
  }
  return replaced;
}

/** Joins changes that touch, and those with a gap of kept words that is short in itself and against both of them. */
function closeGaps(changes: Change[]): Change[] {
  const size = (change: Change) => Math.max(change.aEnd - change.aStart, change.bEnd - change.bStart);
  const joined: Change[] = [];
  for (const change of changes) {
    const previous = joined.at(-1);
    const gap = previous ? change.aStart - previous.aEnd : Number.POSITIVE_INFINITY;
    if (
      previous &&
      (gap === 0 || (gap <= longestClosedGap && gap < Math.min(size(previous), size(change))))
    ) {
      previous.aEnd = change.aEnd;
      previous.bEnd = change.bEnd;
    } else {
      joined.push({ ...change });
    }
  }
  return joined;
}

/** From changed words to segments of text: what lies between kept words is compared, white space included. */
function renderSegments(changes: Change[], a: Words, b: Words, original: string, edited: string): Segment[] {
  const segments: Segment[] = [];
  let aDone = 0;
  let bDone = 0;
  const push = (kind: SegmentKind, aEnd: number, bEnd: number) => {
    if (aEnd === aDone && bEnd === bDone) return;
    const last = segments.at(-1);
    if (kind === 'keep' && last?.kind === 'keep') {
      last.original[1] = aEnd;
      last.edited[1] = bEnd;
    } else {
      segments.push({ kind, original: [aDone, aEnd], edited: [bDone, bEnd] });
    }
    aDone = aEnd;
    bDone = bEnd;
  };
  const pushChange = (aEnd: number, bEnd: number) => {
    push(aEnd === aDone ? 'insert' : bEnd === bDone ? 'delete' : 'replace', aEnd, bEnd);
  };
  /** Up to (aEnd, bEnd), with the changed words of `change` in it. White space around them stays where both sides have it. */
  const pushBetween = (change: Change, aEnd: number, bEnd: number) => {
    const aLead = original.slice(aDone, change.aStart < change.aEnd ? a.start[change.aStart] : aEnd);
    const bLead = edited.slice(bDone, change.bStart < change.bEnd ? b.start[change.bStart] : bEnd);
    if (aLead === bLead) push('keep', aDone + aLead.length, bDone + bLead.length);
    const aTrail = original.slice(change.aStart < change.aEnd ? a.end[change.aEnd - 1] : aDone, aEnd);
    const bTrail = edited.slice(change.bStart < change.bEnd ? b.end[change.bEnd - 1] : bDone, bEnd);
    const kept = aTrail === bTrail ? aTrail.length : 0;
    pushChange(aEnd - kept, bEnd - kept);
    push('keep', aEnd, bEnd);
  };
  let next = 0;
  for (let i = 0, j = 0; i <= a.text.length; i++, j++) {
    const change =
      changes[next]?.aStart === i ? changes[next++]! : { aStart: i, aEnd: i, bStart: j, bEnd: j };
    i = change.aEnd;
    j = change.bEnd;
    pushBetween(change, a.start[i] ?? original.length, b.start[j] ?? edited.length);
    push('keep', a.end[i] ?? original.length, b.end[j] ?? edited.length);
  }
  return segments;
}

function describe(
  original: string,
  edited: string,
  segments: Segment[],
  { complete, limits }: { complete: boolean; limits: Readonly<Minimality> },
): Alignment {
  const changed = segments.filter((segment) => segment.kind !== 'keep');
  const changedOriginal = changed.map((segment) => segment.original).filter(([start, end]) => end > start);
  const changedEdited = changed.map((segment) => segment.edited).filter(([start, end]) => end > start);
  const kept = original.length - totalLength(changedOriginal);
  const both = original.length + edited.length;
  const stats: AlignmentStats = {
    changed_fraction_original: fraction(totalLength(changedOriginal), original.length),
    changed_fraction_edited: fraction(totalLength(changedEdited), edited.length),
    similarity: both === 0 ? 1 : (2 * kept) / both,
    hunks: changed.length,
    length_change: lengthChange(original, edited),
  };
  const keptWords = segments.some(
    ({ kind, original: span }) => kind === 'keep' && original.slice(...span).trim() !== '',
  );
  const onlySpace = changed.every(
    (segment) =>
      original.slice(...segment.original).trim() === '' && edited.slice(...segment.edited).trim() === '',
  );
  const identical = original === edited;
  const exceeded = identical || !keptWords ? [] : excesses(stats, limits);
  const warnings: AlignmentWarning[] = identical
    ? [warning('identical')]
    : keptWords
      ? [...exceeded, ...(onlySpace ? [warning('only_white_space')] : [])]
      : [warning('no_common_text')];
  if (!complete) warnings.push(warning('aligned_coarsely'));
  return {
    version: ALIGNMENT_VERSION,
    segments,
    changed_original: changedOriginal,
    changed_edited: changedEdited,
    stats,
    minimal: identical || (keptWords && exceeded.length === 0),
    warnings,
  };
}

const totalLength = (spans: Span[]): number => spans.reduce((sum, [start, end]) => sum + end - start, 0);
const fraction = (part: number, whole: number): number => (whole === 0 ? 0 : part / whole);

const warning = (code: keyof typeof warningDetails): AlignmentWarning => ({
  code,
  detail: warningDetails[code],
});

const warningDetails = {
  identical:
    'The edited text equals the original, so there is nothing to learn from it. Change what is wrong, or skip the pair.',
  no_common_text:
    'No word of the original is kept, but for such as any text has, so no token can be told apart. Edit the original in place instead of writing a new text; as it is, the edit can only serve as a comparison of whole responses.',
  only_white_space:
    'Only white space is changed. Keep the edit if the layout was the mistake; otherwise change the words that are wrong.',
  aligned_coarsely:
    'The texts are long and repeat the same few words, so the alignment was cut short and some kept text may be marked as changed. Shorter texts are aligned in full.',
} as const satisfies Partial<Record<AlignmentWarningCode, string>>;
