// The demo world: what the hidden scorer promises, against the generator's own account of the defects it put in.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import t from 'tap';
import { edit, majority, voteProbability } from '../../examples/world/annotators.ts';
import { demonstrationRows, editRow, pairRows, promptRows } from '../../examples/world/data.ts';
import { createRandom } from '../../examples/world/random.ts';
import { assess, type Defect, score } from '../../examples/world/scorer.ts';
import {
  type DefectSpan,
  drawSlots,
  parsePrompt,
  renderPrompt,
  templates,
  vocabulary,
  wordings,
  writeDemonstration,
} from '../../examples/world/world.ts';

const perfect = { fix: 1, gratuitous: 0, harm: 0 };

function example(name: string, carelessness: number) {
  const random = createRandom(name);
  const slots = drawSlots(random);
  return { prompt: renderPrompt(slots), slots, random, ...writeDemonstration(slots, random, carelessness) };
}

const examples = fc
  .tuple(fc.nat(), fc.double({ min: 0, max: 3, noNaN: true }))
  .map(([number, carelessness]) => example(`example ${number}`, carelessness));

t.test('a prompt carries all its slots', async (t) => {
  fc.assert(
    fc.property(fc.nat(), (number) => {
      const slots = drawSlots(createRandom(`slots ${number}`));
      assert.deepEqual(parsePrompt(renderPrompt(slots)), slots);
      assert.equal(new Set(slots.items).size, 3);
    }),
  );
  t.throws(() => parsePrompt('Write a poem.'), /Not a prompt of the demo world/);
});

t.test('a demonstration without mistakes scores 0, however long it is', async (t) => {
  const lengths = new Set<number>();
  for (let number = 0; number < 300; number += 1) {
    const { prompt, text } = example(`clean ${number}`, 0);
    assert.equal(score(prompt, text), 0, text);
    lengths.add(text.length);
  }
  t.ok(lengths.size > 30);
});

t.test('each injected defect costs exactly one and is blamed where it is', async (t) => {
  const kinds = new Set<string>();
  fc.assert(
    fc.property(examples, ({ prompt, text, defects, missing }) => {
      const assessment = assess(prompt, text);
      assert.equal(assessment.score, 0 - (defects.length + missing.length));
      const places = assessment.defects.filter(({ kind }) => kind !== 'missing_clause');
      assert.equal(places.length, defects.length);
      for (const defect of defects) {
        kinds.add(defect.kind);
        assert.ok(
          places.some((place) => covers(place, defect)),
          `${defect.kind} [${defect.start}, ${defect.end}) of ${text}`,
        );
      }
    }),
    { numRuns: 200 },
  );
  t.equal(kinds.size, 5, 'every kind of defect that has a place came up');
});

/** The blame lies on the defect; for left-out words, at their place or at the white space next to it. */
function covers(blame: Defect, defect: DefectSpan): boolean {
  if (blame.kind !== defect.kind) return false;
  if (blame.start === defect.start && blame.end === defect.end) return true;
  // A word left out has no place of its own: the space after the word before it will do.
  const isOmission = defect.kind === 'bad_grammar' && defect.start === defect.end;
  return isOmission && Math.abs(blame.start - defect.start) <= 1;
}

t.test('missing clauses are blamed on the place where the editor puts them', async (t) => {
  const { prompt, slots, text } = example('missing', 0);
  const clauses = text.split(/(?<=[.,]) /);
  for (const [index, clause] of clauses.entries()) {
    const without = clauses.filter((_, other) => other !== index).join(' ');
    const { defects } = assess(prompt, without);
    if (wordings(slots, 'filler').includes(clause)) t.strictSame(defects, []);
    else {
      t.strictSame(
        defects.map(({ kind, start, end }) => [kind, end - start]),
        [['missing_clause', 0]],
        clause,
      );
    }
    t.equal(score(prompt, edit(prompt, without, createRandom('x'), perfect)), 0);
  }
});

t.test('sentences that the task allows change nothing: the score is neutral to length', async (t) => {
  const { prompt, text } = example('plain', 0);
  const fillers = templates.filter(({ kind }) => kind === 'filler').length;
  const slots = parsePrompt(prompt);
  const [greeting, ...rest] = text.split(/(?<=[.,]) /);
  const others = wordings(slots, 'filler').filter((filler) => !text.includes(filler));
  t.ok(others.length >= fillers - 1);
  const longer = [greeting, rest[0], ...others, ...rest.slice(1)].join(' ');
  t.equal(score(prompt, longer), 0, longer);
  t.equal(
    score(prompt, `${longer} ${others[0]}`),
    -3,
    'said again, and after the closing, which no longer ends',
  );
});

t.test('every wording of a clause is read as what it is', async (t) => {
  const { prompt, slots, text } = example('wordings', 0);
  const clauses = text.split(/(?<=[.,]) /);
  for (const { kind } of templates) {
    const said = wordings(slots, kind);
    const place = clauses.findIndex((clause) =>
      said.some((one) => one.toLowerCase() === clause.toLowerCase()),
    );
    for (const wording of said) {
      const changed = place < 0 ? clauses.toSpliced(1, 0, wording) : clauses.with(place, wording);
      assert.equal(score(prompt, changed.join(' ')), kind === 'claim' ? -1 : 0, wording);
    }
  }
  t.pass('none failed');
});

t.test('prices are those of the text, not of its case', async (t) => {
  const { prompt, text } = example('case', 2);
  t.equal(score(prompt, text.toUpperCase()), score(prompt, text));
});

t.test('half words, broken characters and cut-off ends cost what they break', async (t) => {
  const prompt =
    'Write a note to Faye about the museum in a funny tone. Ask for five bottles, the camera, the blanket and the mirror.';
  const text =
    'Dear Faye, this note is about the museum. It was a silly day. We need five bottles. First find the camera. Next find the blanket. Finally find the mirror. See you soon.';
  t.equal(score(prompt, text), 0);
  for (const [broken, kinds] of [
    [text.replace('museum', 'mus'), ['wrong_value']],
    [text.replace('museum', 'mus\ufffdum'), ['wrong_value']],
    [text.replace('find the camera', 'fi the camera'), ['bad_grammar']],
    [text.replace('need five', 'need \ufffd\ufffd five'), ['bad_grammar']],
    [text.replace(' See you soon.', ''), ['missing_clause']],
    [text.replace(' mirror. See you soon.', ' mir'), ['wrong_value', 'bad_grammar', 'missing_clause']],
    [text.replace('See you soon.', 'See you soon'), ['bad_grammar']],
    [text.replace('Dear Faye, ', ''), ['missing_clause']],
    [text.replace('Dear Faye', 'Dear'), ['bad_grammar']],
    [text.replace('Next find', 'Next harbor green tree find'), ['bad_grammar']],
    [text.replace('See you', 'Lorem ipsum dolor sit amet. See you'), ['bad_grammar']],
    [text.replace('Next', 'Thanks again. Next'), ['bad_grammar']],
    [text.replace('We need', 'Damn. We need'), ['rude_word', 'bad_grammar']],
    ['', Array(8).fill('missing_clause')],
  ] as const) {
    const { defects } = assess(prompt, broken);
    t.strictSame(
      defects.map(({ kind }) => kind),
      kinds,
      broken,
    );
    t.equal(score(prompt, edit(prompt, broken, createRandom('x'), perfect)), 0, broken);
  }
});

t.test('any text is judged, within its bounds, and editing it does not make it worse', async (t) => {
  const prompt = example('any', 0).prompt;
  const words = fc.constantFrom(
    ...Object.values(vocabulary).flat(),
    ...[
      'Dear',
      'First',
      'Next',
      'the',
      'damn',
      'See',
      'you',
      'soon',
      '.',
      ',',
      ' ',
      '\ufffd',
      'about',
      'We need',
    ],
  );
  const texts = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.array(words, { maxLength: 60 }).map((list) => list.join(' ')),
  );
  fc.assert(
    fc.property(texts, (text) => {
      const assessment = assess(prompt, text);
      assert.equal(assessment.score, 0 - assessment.defects.length);
      for (const { start, end, repair } of assessment.defects) {
        assert.ok(0 <= repair.start && repair.start <= start && start <= end && end <= repair.end);
        assert.ok(repair.end <= text.length && repair.options.length > 0);
      }
      const edited = edit(prompt, text, createRandom(text), perfect);
      assert.ok(score(prompt, edited) >= assessment.score, JSON.stringify({ text, edited }));
    }),
    { numRuns: 200 },
  );
  t.pass('none failed');
});

t.test('an editor who never errs brings the score to 0', async (t) => {
  fc.assert(
    fc.property(examples, ({ prompt, text, random }) => {
      const edited = edit(prompt, text, random, perfect);
      assert.equal(score(prompt, edited), 0, JSON.stringify({ text, edited }));
      assert.doesNotMatch(edited, / {2}|^ | $/);
    }),
    { numRuns: 200 },
  );
  t.pass('none failed');
});

t.test('an editor leaves alone what is right', async (t) => {
  const { prompt, text, random } = example('right', 0);
  t.equal(edit(prompt, text, random, perfect), text);
  t.equal(edit(prompt, text, random, { fix: 0, gratuitous: 0, harm: 0 }), text);
  const greeted = edit(prompt, text, random, { fix: 0, gratuitous: 1, harm: 0 });
  t.not(greeted, text);
  t.equal(score(prompt, greeted), 0);
  t.equal(score(prompt, edit(prompt, text, random, { fix: 0, gratuitous: 0, harm: 1 })), -1);
});

t.test('votes follow the hidden score, with flips', async (t) => {
  t.equal(voteProbability(0), 0.5);
  t.ok(Math.abs(voteProbability(100) - 0.9) < 1e-9);
  t.ok(Math.abs(voteProbability(3) + voteProbability(-3) - 1) < 1e-12);
  t.equal(majority({ a: 3, b: 2 }), 'a');
  t.equal(majority({ a: 1, b: 4 }), 'b');
  t.equal(majority({ a: 1, b: 1 }), null);
});

t.test('rows depend on the seed and their number alone', async (t) => {
  t.strictSame(pairRows(3, 5), pairRows(3, 8).slice(0, 5));
  t.strictSame(demonstrationRows(3, 5), demonstrationRows(3, 8).slice(0, 5));
  t.strictSame(promptRows(3, 5, 'evaluation'), promptRows(3, 8, 'evaluation').slice(0, 5));
  t.not(pairRows(3, 1)[0]!.prompt, pairRows(4, 1)[0]!.prompt);
  t.not(promptRows(3, 1, 'evaluation')[0]!.prompt, promptRows(3, 1, 'training')[0]!.prompt);
  t.matchOnly(pairRows(0, 1)[0]!.external_id, 'pair-00001');
});

t.test('an edit is of the less-preferred side and improves it in most cases', async (t) => {
  const pairs = pairRows(11, 300);
  let better = 0;
  let edits = 0;
  for (const pair of pairs) {
    const row = editRow(11, pair);
    if (row === undefined) continue;
    assert.notEqual(row.side, pair.preference);
    const original = row.side === 'a' ? pair.response_a : pair.response_b;
    better += score(pair.prompt, row.edited_response) > score(pair.prompt, original) ? 1 : 0;
    edits += 1;
  }
  t.ok(edits > 270 && better / edits > 0.9, `${better} of ${edits}`);
  t.equal(editRow(11, { ...pairs[0]!, preference: null }), undefined);
});

t.test('majority labels agree with the hidden score as the module says', async (t) => {
  const pairs = pairRows(12, 600);
  const agreement = pairs.map(({ prompt, response_a, response_b, preference, metadata }) => {
    assert.equal(metadata.votes.a + metadata.votes.b, 5);
    const difference = score(prompt, response_a) - score(prompt, response_b);
    return difference === 0 ? 0.5 : Number(difference > 0 === (preference === 'a'));
  });
  const mean = agreement.reduce((sum, one) => sum + one, 0) / agreement.length;
  t.ok(mean > 0.87 && mean < 0.95, `${mean}`);
});

t.test('command line', async (t) => {
  const main = fileURLToPath(new URL('../../examples/world/main.js', import.meta.url));
  const world = (args: string[], input = '') =>
    spawnSync(process.execPath, [main, ...args], { input, encoding: 'utf8' });
  const lines = (text: string) =>
    text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));

  const pairs = world(['pairs', '--count', '3', '--seed', '5']);
  t.strictSame(lines(pairs.stdout), pairRows(5, 3));
  const edits = world(['edits', '--seed', '5'], pairs.stdout);
  t.strictSame(
    lines(edits.stdout),
    pairRows(5, 3).flatMap((pair) => editRow(5, pair) ?? []),
  );
  const [{ prompt, response_a, response_b }] = pairRows(5, 1) as [ReturnType<typeof pairRows>[number]];
  const judged = world(
    ['judge'],
    JSON.stringify({ id: 'x', prompt, candidate: response_a, baseline: response_a }),
  );
  t.strictSame(lines(judged.stdout), [{ item_id: 'x', outcome: 0.5 }]);
  const scored = world(['score'], JSON.stringify({ prompt, response: response_b }));
  t.strictSame(lines(scored.stdout)[0].score, score(prompt, response_b));
  t.match(world(['--help']).stdout, /hidden scorer/);
  const unknown = world(['nothing']);
  t.equal(unknown.status, 1);
  t.match(unknown.stderr, /No command "nothing"/);
});
