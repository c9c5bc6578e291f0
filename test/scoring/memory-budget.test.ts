import { setImmediate as turn } from 'node:timers/promises';
import t from 'tap';
import { openMemoryBudget } from '../../src/scoring/memory-budget.ts';

t.test('memory is handed on in the order in which it was asked for', async (t) => {
  let asked = 0;
  const memory = openMemoryBudget(10, () => {
    asked++;
  });
  const got: string[] = [];
  const take = (name: string, bytes: number) => memory.take(bytes).then(() => got.push(name));
  await take('a', 6);
  void take('b', 8);
  void take('c', 1);
  await turn();
  t.same(got, ['a'], 'who needs little does not overtake');
  t.same([asked, memory.wanted, memory.tryTake(1)], [2, true, false]);
  memory.give(1);
  t.equal(asked, 3, 'what came back is not enough');
  memory.give(5);
  await turn();
  t.same([got, memory.wanted], [['a', 'b', 'c'], false]);
  t.ok(memory.tryTake(1));
  t.notOk(memory.tryTake(1));
});

t.test('what is larger than all memory gets all of it', async (t) => {
  const memory = openMemoryBudget(10);
  await memory.take(1);
  let got = false;
  void memory.take(50).then(() => {
    got = true;
  });
  await turn();
  t.notOk(got);
  memory.give(1);
  await turn();
  t.ok(got);
  t.notOk(memory.tryTake(1));
  memory.give(50);
  t.ok(memory.tryTake(10));
});
