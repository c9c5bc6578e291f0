import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import fc from 'fast-check';
import t from 'tap';
import { Tokenizer } from 'tokenizers';
import { alignTexts } from '../../src/domain/alignment.ts';
import type { Span } from '../../src/domain/text.ts';
import {
  changedTokens,
  type LabelRule,
  labelTokens,
  type TokenizedText,
  type TokenLabels,
} from '../../src/domain/token-labels.ts';
import { tileOffsets } from '../../src/domain/token-offsets.ts';
import { holds, holdsAsync } from './holds.ts';
import { anyEdit, anyText } from './texts.ts';

const EOS = 2;

/** Pieces as GPT-2 cuts them, roughly: words and signs with one space before, runs of space. Ids are of the pieces' text. */
function tokenize(
  text: string,
  pattern = / ?[\p{L}\p{N}\p{M}]+| ?[^\s\p{L}\p{N}\p{M}]+|\s+(?!\S)|\s/gu,
): TokenizedText {
  const pieces = [...text.matchAll(pattern)];
  return {
    text,
    token_ids: [...pieces.map(([piece]) => idOf(piece)), EOS],
    covers: [
      ...pieces.map(({ 0: piece, index }): Span => [index, index + piece.length]),
      [text.length, text.length],
    ],
  };
}

const ids = new Map<string, number>();
function idOf(piece: string): number {
  if (!ids.has(piece)) ids.set(piece, 100 + ids.size);
  return ids.get(piece)!;
}

/** The labels of an edit as texts: `original | edited`, with labelled tokens in brackets. */
function labelled(original: string, edited: string, rule: LabelRule = 'mix'): string {
  const sides = { original: tokenize(original), edited: tokenize(edited) };
  const labels = labelTokens(alignTexts(original, edited), sides.original, sides.edited, rule);
  const show = (side: 'original' | 'edited') =>
    sides[side].covers
      .map(([start, end], t) => {
        const piece = start === end ? '$' : sides[side].text.slice(start, end);
        return labels[side].labels[t] ? `[${piece}]` : piece;
      })
      .join('');
  return `${show('original')} | ${show('edited')}`;
}

/** Outside the hunks both sides have the same ids; with the edited tokens in place of the original ones the edited ids come out. */
function assertRebuilds({ original, edited, hunks }: TokenLabels): void {
  const rebuilt: number[] = [];
  let i = 0;
  for (const hunk of hunks) {
    const start = hunk.original[0] ?? originalPosition(hunk, hunks);
    while (i < start) rebuilt.push(original.token_ids[i++]!);
    i += hunk.original.length;
    rebuilt.push(...hunk.edited.map((j) => edited.token_ids[j]!));
  }
  rebuilt.push(...original.token_ids.slice(i));
  assert.deepEqual(rebuilt, edited.token_ids);
}

/** Where an insertion goes in: after as many matched tokens as stand before it in the edited text. */
function originalPosition(insertion: TokenLabels['hunks'][number], hunks: TokenLabels['hunks']): number {
  const before = hunks.slice(0, hunks.indexOf(insertion));
  const inEdited = before.reduce((sum, hunk) => sum + hunk.edited.length, 0);
  const inOriginal = before.reduce((sum, hunk) => sum + hunk.original.length, 0);
  return insertion.edited[0]! - inEdited + inOriginal;
}

t.test('a substitution labels all changed tokens on both sides', async (t) => {
  t.equal(labelled('The cat sat.', 'The dog sat.'), 'The[ cat] sat.$ | The[ dog] sat.$');
  t.equal(
    labelled('See the old red cars there.', 'See the one new car that stops there.'),
    'See the[ old][ red][ cars] there.$ | See the[ one][ new][ car][ that][ stops] there.$',
  );
});

t.test('a deletion labels what is deleted and nothing in the edited text', async (t) => {
  t.equal(labelled('a very big dog', 'a big dog'), 'a[ very] big dog$ | a big dog$');
  t.equal(labelled('It is so. Really.', 'It is so.'), 'It is so.[ Really][.]$ | It is so.$');
});

t.test('an insertion labels the token that skipped it and the first inserted one', async (t) => {
  t.equal(labelled('a dog runs', 'a very big dog runs'), 'a[ dog] runs$ | a[ very] big dog runs$');
  t.equal(labelled('a dog runs', 'See a dog runs'), '[a] dog runs$ | [See] a dog runs$');
  t.equal(labelled('It is so.', 'It is so. Yes it is.'), 'It is so.[$] | It is so.[ Yes] it is.$');
});

t.test('the other rules for insertions', async (t) => {
  t.equal(labelled('a dog runs', 'a very big dog runs', 'all'), 'a dog runs$ | a[ very][ big] dog runs$');
  t.equal(labelled('a dog runs', 'a very big dog runs', 'none'), 'a dog runs$ | a very big dog runs$');
  for (const rule of ['mix', 'all', 'none'] as const) {
    t.equal(labelled('The cat sat', 'The dog sat', rule), 'The[ cat] sat$ | The[ dog] sat$');
    t.equal(labelled('a very big dog', 'a big dog', rule), 'a[ very] big dog$ | a big dog$');
  }
});

t.test('white space: what stands before a changed word is not changed, what changed itself is', async (t) => {
  t.equal(labelled('one  two three', 'one two three'), 'one[ ] two three$ | one[ two] three$');
  t.equal(labelled('one,two three', 'one, two three'), 'one,[two] three$ | one,[ two] three$');
  t.equal(labelled('one\ntwo three', 'one two three'), 'one[\n]two three$ | one[ two] three$');
});

t.test('an edit that changes nothing gives no labels, however the texts are cut into tokens', async (t) => {
  holds(
    t,
    fc.property(anyText, fc.constantFrom<LabelRule>('mix', 'all', 'none'), (text, rule) => {
      const letters = tokenize(text, /./gsu);
      for (const edited of [tokenize(text), letters]) {
        const labels = labelTokens(alignTexts(text, text), tokenize(text), edited, rule);
        assert.equal(labels.usable, false);
        for (const side of [labels.original, labels.edited])
          assert.ok(!side.labels.includes(1) && !side.changed.includes(1));
        if (edited !== letters) assert.deepEqual(labels.hunks, []);
        assertRebuilds(labels);
      }
    }),
  );
});

t.test('kept text that is cut into other tokens carries no label', async (t) => {
  const original = 'lowering the big cat';
  const edited = 'lowering the small cat';
  const sides = [tokenize(original, /low|ering| the| b|ig| c|at/g), tokenize(edited)] as const;
  const labels = labelTokens(alignTexts(original, edited), ...sides);
  t.same(labels.original.labels, [0, 0, 0, 1, 1, 0, 0, 0]);
  t.same(labels.edited.labels, [0, 0, 1, 0, 0]);
  t.same(labels.hunks, [
    { original: [0, 1], edited: [0], bad: [], good: [] },
    { original: [3, 4, 5, 6], edited: [2, 3], bad: [3, 4], good: [2] },
  ]);
  assertRebuilds(labels);
});

t.test('a rewrite is not usable and has no labels', async (t) => {
  const [original, edited] = ['alpha beta gamma', 'one two three'];
  const labels = labelTokens(alignTexts(original, edited), tokenize(original), tokenize(edited));
  t.equal(labels.usable, false);
  t.notOk([...labels.original.labels, ...labels.edited.labels].includes(1));
  t.same(labels.original.changed, [1, 1, 1, 0]);
});

/** Character by character: a token is touched when a changed character is in it, leading white space aside. */
function changedOracle(text: string, covers: Span[], changed: Span[]): boolean[] {
  const marked = covers.map(() => false);
  for (const [start, end] of changed) {
    const touches = (from: number, to: number) => from < end && to > start && to > from;
    const inked = covers.map(([from, to]): Span => {
      let first = from;
      while (first < to && /\s/.test(text[first]!)) first++;
      return first === to ? [from, to] : [first, to];
    });
    const some = inked.some((span) => touches(...span));
    (some ? inked : covers).forEach((span, t) => {
      if (touches(...span)) marked[t] = true;
    });
  }
  return marked;
}

t.test('changed tokens equal the rule applied character by character', async (t) => {
  holds(
    t,
    fc.property(anyEdit, fc.boolean(), ([original, edited], asLetters) => {
      const { covers } = tokenize(original, asLetters ? /./gsu : undefined);
      const { changed_original: changed } = alignTexts(original, edited);
      assert.deepEqual(changedTokens(original, covers, changed), changedOracle(original, covers, changed));
    }),
    { runs: 2000 },
  );
});

const golden = JSON.parse(await readFile(new URL('../golden/tokenizer.json', import.meta.url), 'utf8'));
const tokenizer = Tokenizer.fromString(JSON.stringify({ ...golden, added_tokens: [] }));
async function encode(text: string): Promise<TokenizedText> {
  const encoding = await tokenizer.encode(text, null, { addSpecialTokens: false });
  const { covers } = tileOffsets(text, encoding.getOffsets());
  return { text, token_ids: [...encoding.getIds(), EOS], covers: [...covers, [text.length, text.length]] };
}

t.test(
  'with a byte-level tokenizer and any edit: hunks rebuild the edited ids, labels follow the text',
  async (t) => {
    await holdsAsync(
      t,
      fc.asyncProperty(
        anyEdit,
        fc.constantFrom<LabelRule>('mix', 'all', 'none'),
        async ([original, edited], rule) => {
          const alignment = alignTexts(original, edited);
          const labels = labelTokens(alignment, await encode(original), await encode(edited), rule);
          assertRebuilds(labels);
          assert.equal(labels.usable, alignment.minimal && original !== edited);
          const { changed: changedOriginal, labels: bad } = labels.original;
          const { changed: changedEdited, labels: good } = labels.edited;
          assert.equal(changedOriginal.includes(1), alignment.changed_original.length > 0);
          assert.equal(changedEdited.includes(1), alignment.changed_edited.length > 0);
          assert.ok(good.every((label, t) => label <= changedEdited[t]!));
          for (const hunk of labels.hunks) {
            const changedHere = hunk.original.filter((t) => changedOriginal[t]);
            const addedHere = hunk.edited.filter((t) => changedEdited[t]);
            if (!labels.usable) assert.deepEqual([hunk.bad, hunk.good], [[], []]);
            else if (changedHere.length > 0)
              assert.deepEqual([hunk.bad, hunk.good], [changedHere, addedHere]);
            else if (rule === 'all') assert.deepEqual([hunk.bad, hunk.good], [[], addedHere]);
            else if (rule === 'none' || addedHere.length === 0)
              assert.deepEqual([hunk.bad, hunk.good], [[], []]);
            else assert.deepEqual([hunk.bad.length, hunk.good], [1, addedHere.slice(0, 1)]);
          }
          const inHunks = new Set(labels.hunks.flatMap((hunk) => hunk.original));
          assert.ok(
            changedOriginal.every((is, t) => !is || inHunks.has(t)),
            'changed tokens are in hunks',
          );
          assert.deepEqual(
            new Set(labels.hunks.flatMap((hunk) => hunk.bad)),
            new Set(bad.flatMap((label, t) => (label ? [t] : []))),
          );
        },
      ),
      { runs: 1000 },
    );
  },
);

t.test('all pieces of a changed character are changed, with the space that one of them has', async (t) => {
  const [original, edited] = ['good 🙂 day', 'good day'];
  const { original: side } = labelTokens(
    alignTexts(original, edited),
    await encode(original),
    await encode(edited),
  );
  const touched = (await encode(original)).covers.map(([start, end]) => start < 7 && end > 5);
  t.same(side.labels, touched.map(Number));
});
