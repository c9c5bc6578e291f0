import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import {
  ALIGNMENT_VERSION,
  alignTexts,
  applySegments,
  type Segment,
  type Span,
  segmentsInUnit,
} from '../../src/domain/alignment.ts';
import { units } from '../../src/domain/text.ts';
import { holds } from './holds.ts';
import { anyEdit, anyText } from './texts.ts';

/** Original with marks: `{old→new}`. */
function marked(original: string, edited: string): string {
  return alignTexts(original, edited)
    .segments.map(({ kind, original: from, edited: to }) =>
      kind === 'keep' ? original.slice(...from) : `{${original.slice(...from)}→${edited.slice(...to)}}`,
    )
    .join('');
}

const codes = (original: string, edited: string): string[] =>
  alignTexts(original, edited).warnings.map(({ code }) => code);

const graphemes = new Intl.Segmenter('und', { granularity: 'grapheme' });
function clusterBoundaries(text: string): Set<number> {
  return new Set([...graphemes.segment(text)].map(({ index }) => index)).add(text.length).add(0);
}

t.test('segments tile both texts, rebuild the edited one and never cut a grapheme cluster', async (t) => {
  holds(
    t,
    fc.property(anyEdit, ([original, edited]) => {
      const { segments } = alignTexts(original, edited);
      let at: Span = [0, 0];
      let previousKind = '';
      const boundaries = { original: clusterBoundaries(original), edited: clusterBoundaries(edited) };
      for (const segment of segments) {
        const { kind, original: from, edited: to } = segment;
        assert.deepEqual([from[0], to[0]], at);
        at = [from[1], to[1]];
        const [removed, added] = [from[1] - from[0], to[1] - to[0]];
        assert.equal(kind, expectedKind(segment, original, edited), `${removed} ${added}`);
        assert.ok(
          kind === 'keep' ? previousKind !== 'keep' : previousKind === 'keep' || previousKind === '',
          'kinds alternate',
        );
        assert.ok(boundaries.original.has(from[1]) && boundaries.edited.has(to[1]), 'clusters are whole');
        previousKind = kind;
      }
      assert.deepEqual(at, [original.length, edited.length]);
      assert.equal(applySegments(original, edited, segments), edited);
    }),
    { runs: 2000 },
  );
});

function expectedKind({ original: from, edited: to }: Segment, original: string, edited: string): string {
  if (from[0] === from[1]) return 'insert';
  if (to[0] === to[1]) return 'delete';
  return original.slice(...from) === edited.slice(...to) ? 'keep' : 'replace';
}

t.test('segments tile and rebuild in every unit, and no unit sees half a character', async (t) => {
  // a text as the list of what the unit counts
  const pieces = {
    utf16: (text: string) => Array.from({ length: text.length }, (_, k) => text.charCodeAt(k)),
    codepoint: (text: string) => Array.from(text, (character) => character.codePointAt(0)!),
    byte: (text: string) => [...new TextEncoder().encode(text)],
  };
  holds(
    t,
    fc.property(anyEdit, ([original, edited]) => {
      const { segments } = alignTexts(original, edited);
      for (const unit of units) {
        const from = pieces[unit](original);
        const to = pieces[unit](edited);
        const rebuilt: number[] = [];
        let at: Span = [0, 0];
        for (const { kind, original: a, edited: b } of segmentsInUnit(original, edited, segments, unit)) {
          assert.deepEqual([a[0], b[0]], at);
          at = [a[1], b[1]];
          if (kind === 'keep') assert.deepEqual(from.slice(...a), to.slice(...b));
          rebuilt.push(...(kind === 'keep' ? from.slice(...a) : to.slice(...b)));
        }
        assert.deepEqual(at, [from.length, to.length]);
        assert.deepEqual(rebuilt, to);
      }
    }),
  );
});

t.test('statistics follow from the segments', async (t) => {
  holds(
    t,
    fc.property(anyEdit, ([original, edited]) => {
      const { segments, changed_original, changed_edited, stats, minimal } = alignTexts(original, edited);
      const changed = segments.filter(({ kind }) => kind !== 'keep');
      assert.equal(stats.hunks, changed.length);
      assert.deepEqual(
        changed_original,
        changed.map((segment) => segment.original).filter(([start, end]) => start < end),
      );
      assert.deepEqual(
        changed_edited,
        changed.map((segment) => segment.edited).filter(([start, end]) => start < end),
      );
      const length = (spans: Span[]) => spans.reduce((sum, [start, end]) => sum + end - start, 0);
      assert.equal(Math.round(stats.changed_fraction_original * original.length), length(changed_original));
      assert.equal(Math.round(stats.changed_fraction_edited * edited.length), length(changed_edited));
      assert.ok(stats.similarity >= 0 && stats.similarity <= 1);
      assert.equal(stats.similarity === 1, original === edited);
      if (minimal) assert.ok(stats.similarity >= 0.4);
    }),
  );
});

t.test('a text is kept whole when nothing was edited', async (t) => {
  holds(
    t,
    fc.property(anyText, (text) => {
      const { segments, warnings, stats } = alignTexts(text, text);
      assert.deepEqual(
        segments,
        text === '' ? [] : [{ kind: 'keep', original: [0, text.length], edited: [0, text.length] }],
      );
      assert.deepEqual(
        warnings.map(({ code }) => code),
        ['identical'],
      );
      assert.deepEqual(stats, {
        changed_fraction_original: 0,
        changed_fraction_edited: 0,
        similarity: 1,
        hunks: 0,
        length_change: 0,
      });
    }),
  );
});

t.test('changes are words, not letters, with the white space that belongs to them', async (t) => {
  t.equal(marked('The cat sat.', 'The car sat.'), 'The {cat→car} sat.');
  t.equal(marked('a very big dog', 'a big dog'), 'a {very →}big dog');
  t.equal(marked('a big dog', 'a very big dog'), 'a {→very }big dog');
  t.equal(marked('It is so.', 'It is so. Really.'), 'It is so.{→ Really.}');
  t.equal(marked('He said no.', 'She said no.'), '{He→She} said no.');
  t.equal(marked('one,two', 'one, two'), 'one,{→ }two');
  t.equal(marked('one  two', 'one two'), 'one{  → }two');
  t.equal(marked('x\r\ny', 'x\ny'), 'x{\r\n→\n}y');
  t.equal(marked('', 'new'), '{→new}');
  t.equal(marked('gone', ''), '{gone→}');
});

t.test('of two copies the later one is the change, and a run has the edges of sentences', async (t) => {
  t.equal(marked('See you. See you. Bye.', 'See you. Bye.'), 'See you. {See you. →}Bye.');
  t.equal(marked('the the cat', 'the cat'), 'the {the →}cat');
  t.equal(marked('A is. B is. C is.', 'A is. C is.'), 'A is. {B is. →}C is.');
  t.equal(marked('One.\n\nTwo.\n\nThree.', 'One.\n\nThree.'), 'One.\n\n{Two.\n\n→}Three.');
  t.equal(marked('first, then', 'first, second, then'), 'first, {→second, }then');
});

t.test('sentences that were removed or added after a replaced word are a change of their own', async (t) => {
  t.equal(
    marked('See the cat. It is bad. Go on.', 'See the dog. Go on.'),
    'See the {cat→dog}. {It is bad. →}Go on.',
  );
  t.equal(
    marked('See the cat. Go on.', 'See the dog. It is good. Go on.'),
    'See the {cat→dog}. {→It is good. }Go on.',
  );
  t.equal(
    marked('See the cat. Run off. Run off. Go on.', 'See the dog. Run off. Go on.'),
    'See the {cat→dog}. Run off. {Run off. →}Go on.',
  );
});

t.test('a short gap inside a change is closed, single-word fixes stay apart', async (t) => {
  t.equal(
    marked('We flew to big old Rome last May.', 'We drove by car to small new Paris last May.').includes(
      'to',
    ),
    true,
  );
  t.equal(
    marked('red old the cheap car here', 'blue new the dear car here'),
    '{red old→blue new} the {cheap→dear} car here',
  );
  t.equal(
    marked('red old the cheap bad car is here', 'blue new the dear good car is here'),
    '{red old the cheap bad→blue new the dear good} car is here',
  );
  t.equal(marked('gentle and kind', 'silly and witty'), '{gentle→silly} and {kind→witty}');
});

t.test(
  'a sentence that was replaced is changed as a whole, one that was cut down or built out is not',
  async (t) => {
    t.equal(
      marked(
        'She lives in Rome. He sold the old house in March.',
        'She lives in Rome. Nobody bought our boat in spite of that.',
      ),
      'She lives in Rome. {He sold the old house in March.→Nobody bought our boat in spite of that.}',
    );
    t.equal(
      marked('He sold the old house of his aunt in March.', 'He sold it.'),
      'He sold {the old house of his aunt in March→it}.',
    );
    t.equal(
      marked('He left.', 'On the next day he packed, and He left.'),
      '{→On the next day he packed, and }He left.',
    );
    t.equal(
      marked('彼は家を売った。雨が降る。', '彼は家を売った。犬は庭で寝た。'),
      '彼は家を売った。{雨が降る。→犬は庭で寝た。}',
    );
  },
);

t.test('scripts without spaces are aligned letter by letter', async (t) => {
  t.equal(marked('今日は天気がいい。', '今日は気分がいい。'), '今日は{天→}気{→分}がいい。');
  t.equal(marked('我喜欢红茶', '我喜欢绿茶'), '我喜欢{红→绿}茶');
});

t.test('warnings say what is wrong with an edit', async (t) => {
  const rewritten = ['Stay. All of these words will go away.', 'Stay. Other thoughts came instead.'] as const;
  t.same(codes('a b', 'a b'), ['identical']);
  t.same(codes('a b', 'c d'), ['no_common_text']);
  t.same(codes('', 'c d'), ['no_common_text']);
  t.same(codes('All of these words go away.', 'Other thoughts came instead.'), ['no_common_text']);
  t.same(codes(...rewritten), ['mostly_rewritten']);
  t.same(codes('a b', 'a  b'), ['only_white_space']);
  t.same(codes('a big cat', 'a small cat'), []);
  t.equal(alignTexts('a b', 'c d').minimal, false);
  t.equal(alignTexts(...rewritten).minimal, false);
  t.equal(alignTexts('a big cat', 'a small cat').minimal, true);
  for (const { detail } of alignTexts('a b', 'c d').warnings) t.match(detail, /instead|skip|Keep|Change/);
  t.equal(alignTexts('a', 'b').version, ALIGNMENT_VERSION);
});

t.test('time is bounded on texts of 20 kB, whatever they are', async (t) => {
  const random = fc.sample(fc.infiniteStream(fc.nat()), { numRuns: 1, seed: 4 })[0]!;
  const text = (vocabulary: string[]) => {
    let result = '';
    while (result.length < 20_000) result += vocabulary[random.next().value! % vocabulary.length]!;
    return result;
  };
  const numbered = (prefix: string, count: number) =>
    Array.from({ length: count }, (_, k) => `${prefix}${k} `);
  const cases: Record<string, [string, string]> = {
    'nothing shared': [text(numbered('a', 3000)), text(numbered('b', 3000))],
    'few words': [text(numbered('w', 10)), text(numbered('w', 10))],
    'two signs': [text(['.', ',']), text(['.', ','])],
    pictures: [text(['👩‍👩‍👧', '👍🏽', '🎉']), text(['👩‍👩‍👧', '👍🏽', '🎉'])],
    'every other word new': [
      numbered('a', 3000).join(''),
      numbered('a', 3000)
        .map((word, k) => `${word}b${k} `)
        .join(''),
    ],
  };
  alignTexts(...cases['few words']!);
  for (const [name, [original, edited]] of Object.entries(cases)) {
    const start = process.cpuUsage();
    const { segments } = alignTexts(original, edited);
    const milliseconds = process.cpuUsage(start).user / 1000;
    t.ok(milliseconds < 400, `${name}: ${milliseconds.toFixed(0)} ms`); // 3 to 40 ms on a machine with nothing else to do
    t.equal(applySegments(original, edited, segments), edited);
  }
  const [original, edited] = cases['every other word new']!;
  t.equal(alignTexts(original, edited).stats.hunks, 3000, 'no limit is felt where words tell apart');
  t.same(codes(...cases['two signs']!).at(-1), 'aligned_coarsely');
});
