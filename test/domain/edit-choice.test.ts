import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { majorityEdit } from '../../src/domain/edit-choice.ts';
import { holds } from './holds.ts';

const edits = (...texts: string[]) => texts.map((edited_response, k) => ({ id: `e${k}`, edited_response }));
const chosen = (...texts: string[]) => majorityEdit(edits(...texts));

t.test('the text that most editors submitted, in its latest edit', async (t) => {
  t.equal(chosen(), undefined);
  t.same(chosen('a b'), { id: 'e0', edited_response: 'a b' });
  t.same(chosen('a b', 'c d', 'a b', 'x y'), { id: 'e2', edited_response: 'a b' });
});

t.test('all different: the one that agrees best with the others, then the latest', async (t) => {
  t.equal(chosen('the cat sat', 'the cat ran', 'a dog ran')?.id, 'e1');
  t.equal(chosen('one', 'two')?.id, 'e1');
  t.equal(chosen('', ' ')?.id, 'e1');
});

t.test('a tie of majorities goes to the one nearer to all others', async (t) => {
  t.equal(chosen('a b c', 'x y z', 'a b c', 'x y z', 'a b d')?.edited_response, 'a b c');
});

t.test(
  'the order in which edits are read does not matter, and no other text was submitted more often',
  async (t) => {
    const text = fc
      .array(fc.constantFrom('a', 'b', 'c', 'd'), { maxLength: 4 })
      .map((words) => words.join(' '));
    holds(
      t,
      fc.property(fc.array(text, { minLength: 1, maxLength: 7 }), fc.nat(), (texts, turn) => {
        const list = edits(...texts);
        const winner = majorityEdit(list)!;
        const turned = [...list.slice(turn % list.length), ...list.slice(0, turn % list.length)];
        assert.equal(majorityEdit(turned), winner);
        assert.equal(majorityEdit([...list].reverse()), winner);
        const count = (wanted: string) => texts.filter((one) => one === wanted).length;
        assert.ok(texts.every((one) => count(one) <= count(winner.edited_response)));
        assert.equal(winner.id, `e${texts.lastIndexOf(winner.edited_response)}`);
      }),
    );
  },
);
