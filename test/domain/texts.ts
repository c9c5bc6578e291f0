// Texts for property tests: ordinary prose with edits, and Unicode that breaks careless code.
import fc from 'fast-check';

const hostile = [
  'é', // precomposed
  'e\u0301', // combining acute
  'o\u0323\u0302', // two marks
  '\u0301', // a mark with nothing to stand on
  '👩‍👩‍👧', // joined by ZWJ
  '👍🏽', // skin tone
  '🇫🇷',
  '🇩', // half a flag
  '𝒳', // astral letter
  '1️⃣', // keycap
  '🏴󠁧󠁢󠁳󠁣󠁴󠁿', // tag sequence
  '\r\n',
  '\r',
  '\n\n',
  '\t',
  '\u00a0',
  '\u2028',
  '\u200b',
  '\u200d',
  '\ufeff',
  '\u0600', // Arabic number sign, joins what follows
  'क्षि', // Indic conjunct
  'က္က', // Myanmar stack
  'กำ', // Thai with sara am
  '각', // Hangul jamo
  '\u1112\u1161', // two that join
  '\u11ab', // one that joins what is before it
  '\u{1f3fd}', // a skin tone alone
  '☎\ufe0e', // as text
  '\ufe0f', // a variation selector alone
  '葛\u{e0100}', // an ideographic variation
  '\u200e', // left-to-right mark
  '\u202e', // right-to-left override
  '\u2067שלום\u2069', // isolated
  '\u00ad', // soft hyphen
  '\u3000', // ideographic space
  '\u0085', // next line: no white space to JavaScript
  ' \u0301', // a mark on a space
  'র্য', // Bengali conjunct
  '한국어',
  '漢字',
  'ひらがな',
  'カタカナ',
  'عَرَبِي',
  '…',
  '’',
  '。',
];
const words = [
  'the',
  'The',
  'cat',
  'sat',
  'on',
  'a',
  'mat',
  'big',
  'very',
  '3.5',
  "don't",
  '.',
  ',',
  '!',
  '-',
  ' ',
  ' ',
  ' ',
  '  ',
];

/** Well-formed text of up to some 30 pieces, few enough kinds that two texts have much in common. */
export const anyText: fc.Arbitrary<string> = fc
  .array(
    fc.oneof(
      { weight: 6, arbitrary: fc.constantFrom(...words) },
      { weight: 3, arbitrary: fc.constantFrom(...hostile) },
      { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 3 }) },
    ),
    { maxLength: 30 },
  )
  .map((pieces) => pieces.join(''));

/** An original and an edit of it: some pieces dropped, doubled or exchanged. */
export const anyEdit: fc.Arbitrary<[original: string, edited: string]> = fc.oneof(
  fc.tuple(anyText, anyText),
  fc
    .array(
      fc.tuple(
        fc.constantFrom(...words, ...hostile),
        fc.constantFrom('keep', 'keep', 'keep', 'drop', 'double', 'change'),
      ),
      {
        maxLength: 40,
      },
    )
    .map((pieces): [string, string] => {
      const edit: Record<string, (piece: string) => string> = {
        keep: (piece) => piece,
        drop: () => '',
        double: (piece) => piece + piece,
        change: (piece) => `${piece}x`,
      };
      return [
        pieces.map(([piece]) => piece).join(''),
        pieces.map(([piece, how]) => edit[how]!(piece)).join(''),
      ];
    }),
);
