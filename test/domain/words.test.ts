import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { splitWords } from '../../src/domain/words.ts';
import { holds } from './holds.ts';
import { anyText } from './texts.ts';

t.test('words, numbers and marks are units; white space lies between them', async (t) => {
  t.same(splitWords(' Don’t pay 3.50 €!').text, ['Don', '’', 't', 'pay', '3', '.', '50', '€', '!']);
  t.same(splitWords('naïve e\u0301tude').text, ['naïve', 'e\u0301tude']);
  t.same(splitWords('👩‍👩‍👧👍🏽🇫🇷🇩🇪').text, ['👩‍👩‍👧', '👍🏽', '🇫🇷', '🇩🇪']);
  t.same(splitWords('東京へ行く').text, ['東', '京', 'へ', '行', 'く']);
  t.same(splitWords('한국어 문장').text, ['한국어', '문장']);
  t.same(splitWords(' \n').text, []);
  t.same(splitWords('a b'), { text: ['a', 'b'], start: [0, 2], end: [1, 3] });
});

t.test('no unit cuts a grapheme cluster, and nothing but white space is left out', async (t) => {
  const graphemes = new Intl.Segmenter('und', { granularity: 'grapheme' });
  const character = fc.oneof(
    fc.string({ unit: 'grapheme', minLength: 1, maxLength: 1 }),
    fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }),
    // where the rules of UAX 29 are: marks, joiners, prepended signs, jamo, stackers, flags, pictures
    fc.constantFrom(
      ...'\u0300\u200d\u200c\u0600\u110bd\u094d\u1039\u17d2\u1100\u1161\u11a8\u0e33\ufe0f\u20e3ℹa1 \n',
      '🇦',
      '👩',
      '🏽',
      'က',
      'ក',
      'क',
      '\u{e0067}',
      '\u{110bd}',
    ),
  );
  holds(
    t,
    fc.property(
      fc.oneof(
        anyText,
        fc.array(character, { maxLength: 8 }).map((all) => all.join('')),
      ),
      (text) => {
        const inside = new Set(Array.from({ length: text.length }, (_, k) => k));
        for (const { index } of graphemes.segment(text)) inside.delete(index);
        const words = splitWords(text);
        let end = 0;
        words.text.forEach((word, k) => {
          assert.equal(word, text.slice(words.start[k], words.end[k]));
          assert.ok(
            !inside.has(words.start[k]!) && !inside.has(words.end[k]!),
            `${JSON.stringify(text)} at ${words.start[k]}`,
          );
          assert.equal(text.slice(end, words.start[k]).trim(), '');
          end = words.end[k]!;
        });
        assert.equal(text.slice(end).trim(), '');
      },
    ),
    { runs: 5000 },
  );
});
