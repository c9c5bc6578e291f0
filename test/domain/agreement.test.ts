import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { addItem, changedUnits, emptyAgreement, summarizeAgreement } from '../../src/domain/agreement.ts';
import { alignTexts } from '../../src/domain/alignment.ts';
import { splitWords } from '../../src/domain/words.ts';
import { holds } from './holds.ts';
import { anyEdit } from './texts.ts';

type Value = string | number | null;

/** Nominal alpha from the coincidence matrix, as it is defined: any categories, any number of coders, null = no value. */
function oracle(coders: Value[][]): number {
  const values = [...new Set(coders.flat().filter((value) => value !== null))];
  const coincidence = new Map(values.map((c) => [c, new Map(values.map((k) => [k, 0]))]));
  for (let unit = 0; unit < coders[0]!.length; unit++) {
    const given = coders.map((coder) => coder[unit]!).filter((value) => value !== null);
    for (const [i, c] of given.entries()) {
      for (const [j, k] of given.entries()) {
        const row = coincidence.get(c)!;
        if (i !== j) row.set(k, row.get(k)! + 1 / (given.length - 1));
      }
    }
  }
  const sum = (list: Iterable<number>) => [...list].reduce((total, one) => total + one, 0);
  const marginal = new Map(values.map((c) => [c, sum(coincidence.get(c)!.values())]));
  const n = sum(marginal.values());
  let observed = 0;
  let expected = 0;
  for (const c of values) {
    for (const k of values) {
      if (c === k) continue;
      observed += coincidence.get(c)!.get(k)!;
      expected += marginal.get(c)! * marginal.get(k)!;
    }
  }
  return 1 - ((n - 1) * observed) / expected;
}

const letters = (text: string): Value[] => [...text].map((letter) => (letter === '-' ? null : letter));
const near = (one: number, other: number, by = 1e-9) =>
  assert.ok(Math.abs(one - other) < by, `${one} ${other}`);
const pooled = (items: boolean[][][]) => {
  const sums = emptyAgreement();
  for (const marks of items) addItem(sums, marks);
  return summarizeAgreement(sums);
};
const bits = (text: string): boolean[] => [...text].map((bit) => bit === '1');

t.test(
  'the oracle gives the values of the worked examples (Krippendorff 2011, sections A to C)',
  async (t) => {
    const round = (value: number) => Math.round(value * 1000) / 1000;
    t.equal(round(oracle([letters('0100000010'), letters('1110010000')])), 0.095);
    t.equal(round(oracle([letters('aabbdcccedda'), letters('babbbccceddd')])), 0.692);
    const four = ['123321412---', '1233224125-3', '-3332342251-', '12332441251-'];
    t.equal(round(oracle(four.map(letters))), 0.743);
  },
);

t.test('alpha equals the worked example of two observers and two values', async (t) => {
  const { alpha } = pooled([[bits('0100000010'), bits('1110010000')]]);
  t.equal(Math.round(alpha! * 1000) / 1000, 0.095);
});

/** Items of several editors each, over units of their own. */
const anyItems = fc.array(
  fc.tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 12 })).chain(([editors, units]) =>
    fc.array(fc.array(fc.boolean(), { minLength: units, maxLength: units }), {
      minLength: editors,
      maxLength: editors,
    }),
  ),
  { minLength: 1, maxLength: 8 },
);

t.test(
  'pooled sums give the alpha of all units at once, where editors have no value for items of others',
  async (t) => {
    holds(
      t,
      fc.property(anyItems, (items) => {
        const coders = Array.from({ length: 5 }, (_, coder) =>
          items.flatMap((marks) =>
            marks[0]!.map((_, unit): Value => (marks[coder] ? Number(marks[coder][unit]) : null)),
          ),
        );
        const { alpha, reason } = pooled(items);
        const expected = oracle(coders);
        if (Number.isNaN(expected)) assert.ok(alpha === null && reason !== null);
        else near(alpha!, expected);
      }),
    );
  },
);

t.test('neither the order of the editors nor that of the items matters', async (t) => {
  holds(
    t,
    fc.property(anyItems, (items) => {
      const [one, other] = [pooled(items), pooled([...items].reverse().map((marks) => [...marks].reverse()))];
      assert.equal(one.reason, other.reason);
      if (one.alpha !== null) near(one.alpha, other.alpha!);
      if (one.pairwise_f1 !== null) near(one.pairwise_f1, other.pairwise_f1!);
      if (one.confidence_interval) near(one.confidence_interval.low, other.confidence_interval!.low, 1e-6);
    }),
  );
});

t.test('1 for equal edits, about 0 for edits at random, below 0 for opposite ones', async (t) => {
  t.match(pooled([[bits('0110'), bits('0110'), bits('0110')]]), {
    alpha: 1,
    pairwise_f1: 1,
    changed_fraction: 0.5,
  });
  t.ok(pooled([[bits('0101'), bits('1010')]]).alpha! < -0.5);
  const random = fc.sample(
    fc.array(fc.array(fc.boolean(), { minLength: 40, maxLength: 40 }), { minLength: 3, maxLength: 3 }),
    {
      numRuns: 300,
      seed: 5,
    },
  );
  const { alpha, confidence_interval } = pooled(random);
  t.ok(Math.abs(alpha!) < 0.02, `${alpha}`);
  t.ok(confidence_interval!.low < 0 && confidence_interval!.high > 0);
});

t.test('what cannot be told has a reason', async (t) => {
  t.match(pooled([]), { alpha: null, pairwise_f1: null, changed_fraction: null, reason: /two editors/ });
  t.match(pooled([[bits('0110')]]), { alpha: null, reason: /two editors/ });
  t.match(pooled([[bits('000'), bits('000')]]), { alpha: null, pairwise_f1: 1, reason: /No editor changed/ });
  t.match(pooled([[bits('11'), bits('11')]]), { alpha: null, pairwise_f1: 1, reason: /every token/ });
  t.equal(pooled([[bits('01'), bits('10')]]).confidence_interval, null, 'one item');
});

t.test(
  'F1 of two editors: both over all, mean over each two, 1 where neither changed anything',
  async (t) => {
    t.equal(pooled([[bits('1100'), bits('0110')]]).pairwise_f1, 0.5);
    t.equal(pooled([[bits('1100'), bits('0000')]]).pairwise_f1, 0);
    t.equal(
      pooled([
        [bits('1100'), bits('0110')],
        [bits('00'), bits('00')],
      ]).pairwise_f1,
      0.75,
    );
    near(pooled([[bits('1100'), bits('1100'), bits('0011')]]).pairwise_f1!, 1 / 3);
  },
);

t.test('the interval is about that of leaving out one item after the other', async (t) => {
  const items = fc
    .sample(
      fc.tuple(
        fc.array(fc.nat(9), { minLength: 30, maxLength: 30 }),
        fc.array(fc.nat(9), { minLength: 30, maxLength: 30 }),
      ),
      { numRuns: 60, seed: 8 },
    )
    .map(([truth, noise], k) => [
      truth.map((x) => x < 3),
      truth.map((x, i) => (noise[i]! < k % 6 ? x < 7 : x < 3)),
    ]);
  const { alpha, confidence_interval } = pooled(items);
  const without = items.map((_, k) => pooled(items.filter((_, other) => other !== k)).alpha!);
  const mean = without.reduce((sum, one) => sum + one, 0) / items.length;
  const variance =
    without.reduce((sum, one) => sum + (one - mean) ** 2, 0) * ((items.length - 1) / items.length);
  const half = 2.001 * Math.sqrt(variance); // Student's t with 59 degrees of freedom
  for (const side of [confidence_interval!.high - alpha!, alpha! - confidence_interval!.low])
    t.ok(Math.abs(side / half - 1) < 0.05, `${side} ${half}`);
});

/** The words of the original, changed ones in brackets, `$` its end. */
function marked(original: string, edited: string): string {
  const changes = alignTexts(original, edited).segments.filter(({ kind }) => kind !== 'keep');
  const units = changedUnits(
    original,
    changes.map((segment) => segment.original),
  );
  return [...splitWords(original).text, '$'].map((word, k) => (units[k] ? `[${word}]` : word)).join(' ');
}

t.test(
  'an edit marks the words that it changes, an insertion the one that stands in its place',
  async (t) => {
    t.equal(marked('The cat sat.', 'The dog sat.'), 'The [cat] sat . $');
    t.equal(marked('a very big dog', 'a big dog'), 'a [very] big dog $');
    t.equal(marked('a big dog', 'a very big dog'), 'a [big] dog $');
    t.equal(marked('It is so.', 'It is so. Yes.'), 'It is so . [$]');
    t.equal(marked('one  two', 'one two'), 'one [two] $');
    t.equal(marked('one two ', 'one two'), 'one two [$]');
    t.equal(marked('', 'new'), '[$]');
    t.equal(marked('same', 'same'), 'same $');
  },
);

t.test('every change marks something, and what is marked touches a change', async (t) => {
  holds(
    t,
    fc.property(anyEdit, ([original, edited]) => {
      const changes = alignTexts(original, edited)
        .segments.filter(({ kind }) => kind !== 'keep')
        .map((segment) => segment.original);
      const { start, end } = splitWords(original);
      const meets = (k: number) => changes.some(([from, to]) => start[k]! < to && end[k]! > from);
      const standing = changes
        .filter(([from, to]) => !start.some((at, k) => at < to && end[k]! > from))
        .map(([from]) => {
          const k = end.findIndex((at) => at > from);
          return k === -1 ? end.length : k;
        });
      const expected = [...start, null].map((_, k) => (k < start.length && meets(k)) || standing.includes(k));
      assert.deepEqual(changedUnits(original, changes), expected);
    }),
    { runs: 2000 },
  );
});
