// Splits text into words and punctuation marks, the units in which edits are aligned (ALGORITHM 1: `\w+|\s+|[^\w\s]`,
// made Unicode-aware). No unit begins or ends inside a surrogate pair or a grapheme cluster (UAX 29); the tests hold this
// against Intl.Segmenter, which itself is too slow here (some 10 µs per cluster).

/** The words and punctuation marks of a text in order; what lies between them is white space. UTF-16 positions. */
export interface Words {
  text: string[];
  /** Where each word starts. */
  start: number[];
  /** Where each word ends (exclusive). */
  end: number[];
}

const letter = String.raw`[\p{L}\p{N}_]`;
// What continues the cluster before it: marks, joiners, skin tones, tags, and the two vowels that Unicode lists as letters.
const tail = String.raw`[\p{M}\p{Grapheme_Extend}\p{Emoji_Modifier}\u200d\u0e33\u0eb3]`;
const picture = String.raw`\p{Extended_Pictographic}`;
// Scripts that put no spaces between words: a unit is one letter with its marks, else an edit would change whole sentences.
const unspaced = String.raw`[\p{Script=Han}\p{Script=Hiragana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]`;
// Some joins are taken too often (a letter, a joiner, a picture): a unit may be longer than it need be, never cut a cluster.
const afterJoiner = String.raw`(?<=\u200d)`;
// Signs that stack the consonant after them (Indic_Conjunct_Break=Linker).
const linker = String.raw`[\u094d\u09cd\u0acd\u0b4d\u0c4d\u0d4d\u1039\u17d2\u1a60\u1b44\u1bab\ua9c0\uaaf6\u{10a3f}\u{11133}\u{113d0}\u{1193e}\u{11a47}\u{11a99}\u{11f42}]`;
const afterLinker = `(?<=${linker}${tail}*)`;
const symbol = String.raw`\p{Regional_Indicator}{2}${tail}*|${picture}(?:${tail}|${afterJoiner}${picture})*|.${tail}*`;
const spaced = String.raw`\s+${tail}*|${symbol}`;

const units = new RegExp(`${letter}(?:${letter}|${tail}|${afterJoiner}${picture})*|${spaced}`, 'gsu');
const letterOfWord = `(?!${unspaced})${letter}`;
const unitsAmongUnspaced = new RegExp(
  `${unspaced}(?:${tail}+(?:${afterLinker}(?:${unspaced}|(?:${letterOfWord})+))?)*|` +
    `${letterOfWord}(?:${letterOfWord}|${tail}|${afterJoiner}${picture}|${afterLinker}${letter})*|${spaced}`,
  'gsu',
);
const anyUnspaced = new RegExp(unspaced, 'u');

// Signs that form one cluster with what follows them (Grapheme_Cluster_Break=Prepend).
const prepended = String.raw`[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u0d4e\u{110bd}\u{110cd}\u{111c2}\u{111c3}\u{113d1}\u{1193f}\u{11941}\u{11a3a}\u{11a84}-\u{11a89}\u{11d46}\u{11f02}]`;
const anyPrepended = new RegExp(prepended, 'u');
const endsPrepended = new RegExp(`${prepended}$`, 'u');

/** Splits well-formed text. What makes a cluster follows the Unicode version of the JavaScript engine. */
export function splitWords(text: string): Words {
  const words: Words = { text: [], start: [], end: [] };
  const mayJoinNext = anyPrepended.test(text);
  let start = 0;
  for (const match of text.matchAll(anyUnspaced.test(text) ? unitsAmongUnspaced : units)) {
    const end = match.index + match[0].length;
    if (mayJoinNext && end < text.length && endsPrepended.test(match[0])) continue;
    const unit = text.slice(start, end);
    if (unit.trim() !== '') {
      words.text.push(unit);
      words.start.push(start);
      words.end.push(end);
    }
    start = end;
  }
  return words;
}
