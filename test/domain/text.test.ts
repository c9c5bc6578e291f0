import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import {
  findIllFormed,
  positionsFromCodePoints,
  positionsInUnit,
  spansInUnit,
  type Unit,
} from '../../src/domain/text.ts';
import { holds } from './holds.ts';
import { anyText } from './texts.ts';

const length: Record<Unit, (text: string) => number> = {
  utf16: (text) => text.length,
  codepoint: (text) => [...text].length,
  byte: (text) => Buffer.byteLength(text),
};

t.test('NUL and lone surrogates are found where they are', async (t) => {
  t.same(findIllFormed('a👍\0'), { index: 3, kind: 'nul' });
  t.same(findIllFormed('a\ud83d'), { index: 1, kind: 'lone_surrogate' });
  t.same(findIllFormed('\udc4d👍'), { index: 0, kind: 'lone_surrogate' });
  t.same(findIllFormed('👍\udc4d'), { index: 2, kind: 'lone_surrogate' });
  t.same(findIllFormed('\ud83d👍'), { index: 0, kind: 'lone_surrogate' });
  t.equal(findIllFormed('👍\u0001\ufffd'), null);
  const units = fc.array(fc.constantFrom('a', '\ud83d', '\udc4d', '👍', 'é')).map((all) => all.join(''));
  holds(
    t,
    fc.property(units, (text) => assert.equal(findIllFormed(text) === null, text.isWellFormed())),
  );
});

t.test('positions in each unit count what stands before them', async (t) => {
  holds(
    t,
    fc.property(anyText, fc.constantFrom<Unit>('utf16', 'codepoint', 'byte'), (text, unit) => {
      const position = positionsInUnit(text, unit);
      for (let i = 0; i <= text.length; i++) {
        const before = text.slice(0, i);
        if (before.isWellFormed()) assert.equal(position(i), length[unit](before));
      }
    }),
  );
});

t.test('code points lead back to UTF-16', async (t) => {
  holds(
    t,
    fc.property(anyText, (text) => {
      const toUtf16 = positionsFromCodePoints(text);
      const characters = [...text];
      for (let k = 0; k <= characters.length; k++) {
        assert.equal(toUtf16(k), characters.slice(0, k).join('').length);
      }
    }),
  );
});

t.test('spans are converted by both ends', async (t) => {
  const spans: [number, number][] = [
    [0, 1],
    [1, 3],
    [3, 3],
    [3, 4],
  ];
  t.same(spansInUnit('é👍x', spans, 'utf16'), spans);
  t.same(spansInUnit('é👍x', spans, 'codepoint'), [
    [0, 1],
    [1, 2],
    [2, 2],
    [2, 3],
  ]);
  t.same(spansInUnit('é👍x', spans, 'byte'), [
    [0, 2],
    [2, 6],
    [6, 6],
    [6, 7],
  ]);
});
