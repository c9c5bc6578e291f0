// The benchmark's figures on spans that can be counted by hand.
import t from 'tap';
import { bootstrap, countHits, parseHumanEdits, scoreOf } from '../../bench/alignment/human-spans.ts';

t.test('error spans count code points, and a token is marked by any part of it', async (t) => {
  const line = { rejected: '😀 one two, three', chosen: '', error_spans: [[2, 4, 'Irrelevant']] };
  const [edit] = parseHumanEdits(`${JSON.stringify(line)}\n\n`);
  t.same(edit!.errorSpans, [[3, 5]]);
  // tokens: 😀 one two , three
  t.same(countHits(edit!.rejected, [[7, 11]], edit!.errorSpans), { both: 0, methodOnly: 2, peopleOnly: 1 });
  t.same(countHits(edit!.rejected, [[0, 6]], edit!.errorSpans), { both: 1, methodOnly: 1, peopleOnly: 0 });
});

t.test('precision, recall and F1 are micro-averages, and items without marks count', async (t) => {
  const items = [
    { both: 3, methodOnly: 0, peopleOnly: 1 },
    { both: 0, methodOnly: 1, peopleOnly: 1 },
    { both: 0, methodOnly: 0, peopleOnly: 0 },
  ];
  t.same(scoreOf(items), { precision: 3 / 4, recall: 3 / 5, f1: 6 / 9 });
});

t.test('methods are drawn together: equal ones never differ', async (t) => {
  const items = Array.from({ length: 20 }, (_, k) => ({ both: k, methodOnly: 20 - k, peopleOnly: k % 3 }));
  t.same(
    bootstrap([items, items], ([one, other]) => one! - other!),
    [0, 0],
  );
  const [low, high] = bootstrap([items], ([one]) => one!);
  t.ok(low < scoreOf(items).f1 && scoreOf(items).f1 < high);
});
