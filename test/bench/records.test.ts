// The second domain of bench:pipeline: what its hidden score and its editor promise.
import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import {
  assess,
  drawTask,
  edit,
  parsePrompt,
  renderPrompt,
  rightRecord,
  score,
  writeRecord,
} from '../../bench/records/records.ts';
import { createRandom } from '../../examples/world/random.ts';

const tasks = fc.nat().map((number) => drawTask(createRandom(`task ${number}`)));

t.test('a prompt carries its whole task', async () => {
  fc.assert(
    fc.property(tasks, (task) => {
      const read = parsePrompt(renderPrompt(task));
      assert.deepEqual([read.wanted, read.told, [...read.facts]], [task.wanted, task.told, [...task.facts]]);
    }),
  );
  assert.throws(() => parsePrompt('Write a poem.'), /Not a prompt for a record/);
});

t.test('the right answer is the object that was asked for, and scores 0', async () => {
  fc.assert(
    fc.property(tasks, (task) => {
      const text = rightRecord(task);
      assert.deepEqual(Object.keys(JSON.parse(text)), [...task.wanted]);
      for (const [key, value] of Object.entries(JSON.parse(text)))
        assert.equal(JSON.stringify(value), task.facts.get(key as never));
      assert.equal(score(renderPrompt(task), text), 0);
    }),
  );
});

t.test('mistakes cost one each, and two more when no parser takes the record', async (t) => {
  const prompt =
    'Facts: name Anna, age 34, team red, active true. Give JSON with the keys age, name, active.';
  const right = '{"age": 34, "name": "Anna", "active": true}';
  const cases: [string, number][] = [
    [right, 0],
    ['{"age":34,"name":"Anna","active":true}', 0],
    ['{"age": 35, "name": "Anna", "active": true}', -1],
    ['{"age": "34", "name": "Anna", "active": true}', -1],
    ['{"age": 34, "name": Anna, "active": true}', -3],
    ['{"age": 34, "NAME": "Anna", "active": true}', -1],
    ['{"age": 34, "active": true}', -1],
    ['{"age": 34}', -2],
    ['{"age": 34, "name": "Anna", "team": "red", "active": true}', -1],
    ['{"age": 34, "name": "Anna", "active": true,}', -3],
    ['{"age": 34, "name": "Anna", "active": true', -3],
    ['{"age": 34 "name": "Anna", "active": true}', -3],
    ['Here it is: {"age": 34, "name": "Anna", "active": true}', -3],
  ];
  for (const [text, expected] of cases) t.equal(score(prompt, text), expected, text);
  t.ok(score(prompt, '') < -3);
  t.ok(score(prompt, 'no idea') < -3);
});

t.test(
  'an editor who repairs everything leaves nothing to repair, and one who errs mostly helps',
  async (t) => {
    const all = { ...createRandom('all'), chance: (p: number) => p === 0.75 };
    let better = 0;
    let worse = 0;
    for (let n = 0; n < 400; n++) {
      const random = createRandom(`edit ${n}`);
      const task = drawTask(random);
      const prompt = renderPrompt(task);
      const text = writeRecord(task, random, 1);
      assert.equal(score(prompt, edit(prompt, text, all)), 0, text);
      const gain = score(prompt, edit(prompt, text, random)) - assess(prompt, text).score;
      if (gain > 0) better++;
      if (gain < 0) worse++;
    }
    t.ok(better > 200);
    t.ok(worse < 40);
  },
);
