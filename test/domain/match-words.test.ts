import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { matchWords } from '../../src/domain/match-words.ts';
import { holds } from './holds.ts';

/** Ratcliff-Obershelp as it is defined: the longest common block, first in a, then in b; then left and right of it. */
function oracle(a: string[], b: string[]): number[] {
  const partner = a.map(() => -1);
  const search = (aStart: number, aEnd: number, bStart: number, bEnd: number) => {
    let best = { i: 0, j: 0, length: 0 };
    for (let i = aStart; i < aEnd; i++) {
      for (let j = bStart; j < bEnd; j++) {
        let length = 0;
        while (i + length < aEnd && j + length < bEnd && a[i + length] === b[j + length]) length++;
        if (length > best.length) best = { i, j, length };
      }
    }
    if (best.length === 0) return;
    for (let k = 0; k < best.length; k++) partner[best.i + k] = best.j + k;
    search(aStart, best.i, bStart, best.j);
    search(best.i + best.length, aEnd, best.j + best.length, bEnd);
  };
  search(0, a.length, 0, b.length);
  return partner;
}

t.test('equals Ratcliff-Obershelp by definition', async (t) => {
  for (const letters of ['ab', 'abcd', 'abcdefghijklmnop']) {
    const words = fc.array(fc.constantFrom(...letters), { maxLength: 40 });
    holds(
      t,
      fc.property(words, words, (a, b) => {
        const { partner, complete } = matchWords(a, b);
        assert.deepEqual([...partner], oracle(a, b));
        assert.ok(complete);
      }),
      { runs: 1000 },
    );
  }
});

t.test('frequent words are not dropped in long texts', async (t) => {
  const a = Array.from({ length: 500 }, (_, k) => (k % 2 ? 'the' : `w${k}`));
  t.same(
    [...matchWords(a, [...a, 'end']).partner],
    a.map((_, k) => k),
  );
});

t.test('beyond the limit of work it matches common ends and says so', async (t) => {
  const a = Array.from({ length: 20_000 }, () => '.');
  const b = [...a.slice(0, 100), '!', ...a.slice(100)];
  b[15_000] = '?';
  const { partner, complete } = matchWords(a, b);
  t.equal(complete, false);
  t.equal(partner[99], 99);
  t.equal(partner.at(-1), b.length - 1);
  t.ok(
    partner.every(
      (j, i) =>
        j === -1 || (a[i] === b[j] && (i === 0 || j > Math.max(...partner.slice(Math.max(0, i - 3), i)))),
    ),
  );
});
