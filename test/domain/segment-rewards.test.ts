import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import fc from 'fast-check';
import t from 'tap';
import { Tokenizer } from 'tokenizers';
import { alignTexts, type Segment } from '../../src/domain/alignment.ts';
import { type RewardedText, segmentOfTokens, segmentRewards } from '../../src/domain/segment-rewards.ts';
import type { Span } from '../../src/domain/text.ts';
import { changedTokens } from '../../src/domain/token-labels.ts';
import { tileOffsets } from '../../src/domain/token-offsets.ts';
import { holdsAsync } from './holds.ts';
import { anyEdit } from './texts.ts';

/** Words with the space before them, signs, EOS; the k-th token has the reward −2^k: a sum says which tokens are in it. */
function words(text: string): RewardedText {
  const covers = [...text.matchAll(/ ?[\p{L}\p{N}]+|[^\p{L}\p{N}]/gu)].map(
    ({ 0: piece, index }): Span => [index, index + piece.length],
  );
  return rewarded(text, [...covers, [text.length, text.length]]);
}

const rewarded = (text: string, covers: Span[]): RewardedText => ({
  text,
  covers,
  rewards: covers.map((_, token) => -(2 ** token)),
});

/** `kind:original tokens|edited tokens` of each segment with `,` between tokens, the end last. */
function shown(original: string, edited: string): string {
  const sides = [words(original), words(edited)] as const;
  const { segments, end } = segmentRewards(alignTexts(original, edited).segments, ...sides);
  const tokensOf = (side: 0 | 1, sum: number) =>
    sides[side].covers
      .filter((_, token) => (-sum & (2 ** token)) > 0)
      .map(([start, stop]) => sides[side].text.slice(start, stop) || '$')
      .join(',');
  return [...segments, { kind: 'end', ...end }]
    .map(
      ({ kind, original_reward, edited_reward }) =>
        `${kind}:${tokensOf(0, original_reward)}|${tokensOf(1, edited_reward)}`,
    )
    .join(' ; ');
}

t.test('a token that straddles segments belongs to the changed one', async (t) => {
  t.equal(
    shown('It was opened in 1936.', 'It was opened in 1932.'),
    'keep:It, was, opened, in|It, was, opened, in ; replace: 1936| 1932 ; keep:.|. ; end:$|$',
    'the space before the year is kept, but its token is that of the year',
  );
  t.equal(
    shown('a very big dog', 'a big dog'),
    'keep:a|a ; delete: very| ; keep: big, dog| big, dog ; end:$|$',
    'the space before a kept word does not count',
  );
});

t.test('an insertion has tokens on its own side only; at the end EOS stands apart', async (t) => {
  t.equal(
    shown('Dear Anna. Yours', 'Dear Anna. Thanks. Yours'),
    'keep:Dear, Anna,.|Dear, Anna,. ; insert:| Thanks,. ; keep: Yours| Yours ; end:$|$',
  );
  t.equal(shown('Thanks', 'Thanks Tom'), 'keep:Thanks|Thanks ; insert:| Tom ; end:$|$');
});

t.test('empty and equal texts', async (t) => {
  t.equal(shown('', ''), 'end:$|$');
  t.equal(shown('', 'Hi'), 'insert:|Hi ; end:$|$');
  t.equal(shown('Hi', 'Hi'), 'keep:Hi|Hi ; end:$|$');
});

t.test('tokens without text go with the next one that has any, the last ones to the end', async (t) => {
  const { segments } = alignTexts('one two', 'one 2');
  const covers: Span[] = [
    [0, 0],
    [0, 3],
    [3, 3],
    [3, 7],
    [7, 7],
    [7, 7],
  ];
  t.same(segmentOfTokens(segments, 'original', 'one two', covers), [0, 0, 1, 1, 2, 2]);
});

t.test('pieces of one character are in the segment of that character', async (t) => {
  const covers: Span[] = [
    [0, 1],
    [1, 4], // a space and the first byte
    [2, 4],
    [2, 4],
  ];
  const { segments } = alignTexts('a 👍', 'a 👎');
  t.same(
    segments.map(({ kind }) => kind),
    ['keep', 'replace'],
  );
  t.same(segmentOfTokens(segments, 'original', 'a 👍', covers), [0, 1, 1, 1]);
});

/** The rule, token by token and segment by segment. */
function oracle(segments: Segment[], side: 'original' | 'edited', text: string, covers: Span[]): number[] {
  const changed = segments.map(({ kind, [side]: span }) =>
    kind === 'keep' || span[0] === span[1] ? [] : [span],
  );
  const own = covers.map(([start, end], token) => {
    if (start === end) return null;
    const first = changed.findIndex((spans) => changedTokens(text, covers, spans)[token]);
    if (first !== -1) return first;
    const ink = start + /^\s*/.exec(text.slice(start, end))![0].length;
    const position = ink === end ? start : ink;
    return segments.findIndex((segment) => segment[side][0] <= position && position < segment[side][1]);
  });
  return own.map(
    (place, token) => place ?? own.slice(token).find((later) => later !== null) ?? segments.length,
  );
}

const golden = JSON.parse(await readFile(new URL('../golden/tokenizer.json', import.meta.url), 'utf8'));
const tokenizer = Tokenizer.fromString(JSON.stringify({ ...golden, added_tokens: [] }));
async function encode(text: string): Promise<RewardedText> {
  const encoding = await tokenizer.encode(text, null, { addSpecialTokens: false });
  const { covers } = tileOffsets(text, encoding.getOffsets());
  const all: Span[] = [...covers, [text.length, text.length]];
  // whole numbers of all sizes: sums are exact, and no token can stand in for another unnoticed
  return { text, covers: all, rewards: all.map((_, token) => -(((token + 1) * 2_654_435_761) % 1_000_003)) };
}

t.test('any edit: each token counts once, so that the segments and the end sum to the whole', async (t) => {
  await holdsAsync(
    t,
    fc.asyncProperty(anyEdit, async ([original, edited]) => {
      const { segments } = alignTexts(original, edited);
      const sides = { original: await encode(original), edited: await encode(edited) };
      const rewards = segmentRewards(segments, sides.original, sides.edited);
      const parts = [...rewards.segments, rewards.end];
      for (const side of ['original', 'edited'] as const) {
        const { text, covers, rewards: ofTokens } = sides[side];
        assert.deepEqual(segmentOfTokens(segments, side, text, covers), oracle(segments, side, text, covers));
        const total = parts.reduce((sum, part) => sum + part[`${side}_reward`], 0);
        assert.equal(
          total,
          ofTokens.reduce((sum, reward) => sum + reward, 0),
        );
        for (const part of rewards.segments)
          if (part[side][0] === part[side][1])
            assert.equal(part[`${side}_reward`], 0, 'nothing where no text is');
      }
      for (const part of parts) assert.equal(part.difference, part.edited_reward - part.original_reward);
    }),
    { runs: 1000 },
  );
});
