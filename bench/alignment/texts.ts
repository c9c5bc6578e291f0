// Pairs of long texts that are hard to align, of any length in UTF-16 units (for ASCII, bytes).
import { createRandom } from '../../examples/world/random.ts';

type Texts = [original: string, edited: string];

export function hardTexts(length: number): Record<string, Texts> {
  const random = createRandom('hard texts');
  const of = (pieces: string[], between = ''): string => {
    let text = '';
    while (text.length < length) text += random.pick(pieces) + between;
    return text;
  };
  const numbered = (prefix: string, count: number) =>
    Array.from({ length: count }, (_, k) => `${prefix}${k}`);
  const two = (pieces: string[], between?: string): Texts => [of(pieces, between), of(pieces, between)];
  const han = Array.from({ length: 500 }, (_, k) => String.fromCodePoint(0x4e00 + k * 7));
  const letters = [...'abcdefghijklmnopqrstuvwxyz'];
  const marks = ['\u0301', '\u0308', '\u0323', '\u0330'];
  const everyOther = of(numbered('w', 3000), ' ');
  return {
    'nothing shared': [of(numbered('a', 3000), ' '), of(numbered('b', 3000), ' ')],
    'every word followed by a new one': [everyOther, everyOther.replaceAll(' ', ' new ').slice(0, length)],
    'the same ten words in other orders': two(numbered('w', 10), ' '),
    'two signs in other orders': two(['.', ',']),
    'Chinese without spaces, other texts of 500 signs': two(han),
    'Chinese without spaces, other texts of 10 signs': two(han.slice(0, 10)),
    'one giant word, another one': two(letters),
    'pictures joined by ZWJ': two(['👩‍👩‍👧', '👨‍👩‍👦', '👩🏽‍🚀', '🏳️‍🌈', '👍🏽']),
    'letters with combining marks': two(
      letters.map((letter) => letter + marks.join('')),
      ' ',
    ),
    'one letter with thousands of marks': [`a${of(marks)}`, `a${of(marks)}`],
    'Devanagari conjuncts': two(['क्षि', 'त्र', 'ज्ञ', 'श्री'], ' '),
    'white space': two([' ', '\n', '\t', '\u00a0']),
  };
}
