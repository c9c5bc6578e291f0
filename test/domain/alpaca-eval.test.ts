import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { fromAlpacaEval, toAlpacaEval } from '../../src/domain/alpaca-eval.ts';
import { computeWinRate } from '../../src/domain/win-rate.ts';
import { holds } from './holds.ts';

const annotation = {
  instruction: 'Name a bridge.',
  output_1: 'The Golden Gate.',
  generator_1: 'gpt4_1106_preview',
  output_2: 'The 🌉 bridge.',
  generator_2: 'mine',
  annotator: 'weighted_alpaca_eval_gpt4_turbo',
  preference: 1.25,
};

t.test('an annotation is a judgement of the second response against the first', async (t) => {
  t.match(fromAlpacaEval(annotation), {
    item_id: /^sha256:[0-9a-f]{64}$/,
    outcome: 0.25,
    candidate: 'mine',
    baseline: 'gpt4_1106_preview',
    judge: 'weighted_alpaca_eval_gpt4_turbo',
    length_candidate: 13, // in code points
    length_baseline: 16,
  });
  t.same(toAlpacaEval(fromAlpacaEval(annotation)), annotation);
});

t.test('1 is a loss, 2 a win, 1.5 and 0 a tie, null a failure', async (t) => {
  const outcome = (preference: number | null) => fromAlpacaEval({ ...annotation, preference }).outcome;
  t.same([1, 2, 1.5, 0, null].map(outcome), [0, 1, 0.5, 0.5, null]);
  const { preference: _, ...without } = annotation;
  t.equal(fromAlpacaEval(without).outcome, null);
  t.match(computeWinRate([fromAlpacaEval({ ...annotation, preference: 2.5 })]), {
    dropped: { out_of_range: 1 },
  });
  t.equal(toAlpacaEval(fromAlpacaEval({ ...annotation, preference: 2.5 })).preference, null);
});

t.test('out and in again is the same judgement', async (t) => {
  holds(
    t,
    fc.property(
      fc.record(
        {
          prompt: fc.string({ unit: 'binary' }),
          response_candidate: fc.string({ unit: 'binary' }),
          response_baseline: fc.string(),
          outcome: fc.option(fc.integer({ min: 0, max: 1024 }).map((k) => k / 1024)),
          candidate: fc.string(),
          baseline: fc.string(),
          judge: fc.string(),
        },
        { noNullPrototype: true },
      ),
      (judged) => {
        const back = fromAlpacaEval(toAlpacaEval({ item_id: 'of another name', ...judged }));
        const { item_id, length_candidate, length_baseline, ...same } = back;
        assert.deepEqual(same, judged);
        assert.equal(length_candidate, [...judged.response_candidate].length);
        assert.equal(length_baseline, [...judged.response_baseline].length);
        assert.equal(item_id, fromAlpacaEval(toAlpacaEval(back)).item_id);
      },
    ),
  );
});
