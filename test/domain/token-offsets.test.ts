import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import fc from 'fast-check';
import t from 'tap';
import { Tokenizer } from 'tokenizers';
import { positionsFromCodePoints, type Span } from '../../src/domain/text.ts';
import { tileOffsets } from '../../src/domain/token-offsets.ts';
import { holds, holdsAsync } from './holds.ts';
import { anyText } from './texts.ts';

function assertTiles(text: string, offsets: Span[]): void {
  let at = 0;
  for (const [start, end] of offsets) {
    assert.equal(start, at);
    assert.ok(end >= start);
    assert.ok(text.slice(start, end).isWellFormed());
    at = end;
  }
  if (offsets.length > 0) assert.equal(at, text.length);
}

t.test('offsets in code points become UTF-16', async (t) => {
  t.same(
    tileOffsets('a👍b', [
      [0, 1],
      [1, 2],
      [2, 3],
    ]).offsets,
    [
      [0, 1],
      [1, 3],
      [3, 4],
    ],
  );
});

t.test('of tokens that share a character the last one owns it, and each one covers it', async (t) => {
  const thumb = tileOffsets('a 👍', [
    [0, 1],
    [1, 3],
    [2, 3],
    [2, 3],
  ]);
  t.same(thumb.offsets, [
    [0, 1],
    [1, 2],
    [2, 2],
    [2, 4],
  ]);
  t.same(thumb.covers, [
    [0, 1],
    [1, 4],
    [2, 4],
    [2, 4],
  ]);
});

t.test('text that no token covers belongs to the next token, at the end to the last', async (t) => {
  t.same(
    tileOffsets('  ab \n', [
      [2, 3],
      [3, 4],
    ]).offsets,
    [
      [0, 3],
      [3, 6],
    ],
  );
  t.same(
    tileOffsets('a b', [
      [0, 1],
      [2, 3],
    ]).offsets,
    [
      [0, 1],
      [1, 3],
    ],
  );
});

t.test('tokens without text have width zero where they stand', async (t) => {
  t.same(
    tileOffsets('ab', [
      [0, 0],
      [0, 1],
      [0, 0],
      [1, 2],
      [0, 0],
    ]).offsets,
    [
      [0, 0],
      [0, 1],
      [1, 1],
      [1, 2],
      [2, 2],
    ],
  );
  t.same(
    tileOffsets('ab', [
      [0, 0],
      [0, 0],
    ]).offsets,
    [
      [0, 0],
      [0, 2],
    ],
  );
  t.same(tileOffsets('', []), { offsets: [], covers: [] });
  t.same(tileOffsets('', [[0, 0]]).offsets, [[0, 0]]);
});

/** The owner of each character, as the rules say it: the last token that covers it, else the next token, else the last. */
function ownersOracle(text: string, spans: readonly (readonly [number, number])[]): number[] {
  return [...text].map((_, k) => {
    const covering = spans.findLastIndex(([start, end]) => start <= k && k < end);
    if (covering !== -1) return covering;
    const next = spans.findIndex(([start, end]) => start > k && end > start);
    return next !== -1 ? next : spans.findLastIndex(([start, end]) => end > start);
  });
}

t.test('equals the rules applied character by character', async (t) => {
  const tokens = fc.array(
    fc.record({ skip: fc.nat(1), back: fc.nat(1), length: fc.integer({ min: 1, max: 3 }) }),
    { minLength: 1, maxLength: 8 },
  );
  holds(
    t,
    fc.property(anyText, tokens, (text, steps) => {
      const count = [...text].length;
      const spans: [number, number][] = [];
      let at = 0;
      for (const { skip, back, length } of steps) {
        const previous = spans.at(-1);
        const start = Math.max(previous?.[0] ?? 0, at + skip - back);
        const end = Math.max(at, Math.min(count, start + length));
        if (start < end && end <= count) {
          spans.push([start, end]);
          at = end;
        }
      }
      if (spans.length === 0) return;
      const { offsets, covers } = tileOffsets(text, spans);
      assertTiles(text, offsets);
      const owners = ownersOracle(text, spans);
      let at16 = 0;
      [...text].forEach((character, k) => {
        const [start, end] = offsets[owners[k]!]!;
        assert.ok(
          start <= at16 && at16 + character.length <= end,
          JSON.stringify({ text, spans, offsets, k }),
        );
        spans.forEach(([from, to], token) => {
          const covered = covers[token]![0] <= at16 && at16 + character.length <= covers[token]![1];
          if (from <= k && k < to) assert.ok(covered);
        });
        at16 += character.length;
      });
    }),
    { runs: 2000 },
  );
});

const golden = JSON.parse(await readFile(new URL('../golden/tokenizer.json', import.meta.url), 'utf8'));
const tokenizer = Tokenizer.fromString(JSON.stringify({ ...golden, added_tokens: [] }));

t.test(
  'what a byte-level tokenizer reports tiles any text, and each token covers what it has bytes of',
  async (t) => {
    await holdsAsync(
      t,
      fc.asyncProperty(anyText, async (text) => {
        const encoding = await tokenizer.encode(text, null, { addSpecialTokens: false });
        const { offsets, covers } = tileOffsets(text, encoding.getOffsets());
        assertTiles(text, offsets);
        // Each character of a byte-level token stands for one byte.
        let byte = 0;
        encoding.getTokens().forEach((token, k) => {
          const [start, end] = covers[k]!;
          assert.ok(Buffer.byteLength(text.slice(0, start)) <= byte);
          byte += [...token].length;
          assert.ok(byte <= Buffer.byteLength(text.slice(0, end)));
        });
        assert.equal(byte, Buffer.byteLength(text));
      }),
      { runs: 500 },
    );
  },
);

t.test('pieces of one character have width zero but for the last', async (t) => {
  const text = 'a 👍🏽';
  const encoding = await tokenizer.encode(text, null, { addSpecialTokens: false });
  const { offsets } = tileOffsets(text, encoding.getOffsets());
  t.same(
    offsets.filter(([start, end]) => end > start).map((span) => text.slice(...span)),
    ['a', ' ', '👍', '🏽'],
  );
  t.ok(offsets.length > 4);
});

t.test('spaces that a tokenizer trims or drops are kept in the offsets', async (t) => {
  const words = ['[UNK]', 'the', 'cat', 'sat', '.'];
  const trimming = Tokenizer.fromString(
    JSON.stringify({
      version: '1.0',
      added_tokens: [],
      normalizer: { type: 'StripAccents' },
      pre_tokenizer: { type: 'BertPreTokenizer' },
      model: {
        type: 'WordLevel',
        vocab: Object.fromEntries(words.map((word, id) => [word, id])),
        unk_token: '[UNK]',
      },
    }),
  );
  const text = '  the\ncat  sat . ';
  const encoding = await trimming.encode(text, null, { addSpecialTokens: false });
  const { offsets } = tileOffsets(text, encoding.getOffsets());
  t.same(
    offsets.map((span) => text.slice(...span)),
    ['  the', '\ncat', '  sat', ' . '],
  );
});

t.test('they are those that the trainer projects rewards by', async (t) => {
  const { items } = JSON.parse(await readFile('test/golden/token_offsets.json', 'utf8')) as {
    items: { name: string; text: string; offsets: [number, number][]; tiles: [number, number][] }[];
  };
  for (const { name, text, offsets, tiles } of items) {
    const inUtf16 = positionsFromCodePoints(text);
    t.same(
      tileOffsets(text, offsets).offsets,
      tiles.map(([start, end]) => [inUtf16(start), inUtf16(end)]),
      name,
    );
  }
});
