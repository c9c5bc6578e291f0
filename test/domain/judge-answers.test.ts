// What a judge said: its last verdict, whatever is around it, or the probabilities of its letters; anything else is a fault.
import t from 'tap';
import type { ChatChoice } from '../../src/domain/chat-answers.ts';
import { lacksLogprobs } from '../../src/domain/chat-answers.ts';
import { readLetters, readVerdict } from '../../src/domain/judge-answers.ts';

const choiceOf = (content: unknown, more: Partial<ChatChoice> = {}): ChatChoice => ({
  content,
  refusal: null,
  finishReason: 'stop',
  logprobs: null,
  ...more,
});
const mark = '0a1b2c3d';
const verdict = (text: string) => `<verdict-${mark}>${text}</verdict-${mark}>`;
const read = (content: unknown, { ties = true, ...more }: Partial<ChatChoice> & { ties?: boolean } = {}) =>
  readVerdict(choiceOf(content, more), { mark, ties });

t.test('a verdict is read whatever is around it', async (t) => {
  const shares: [string, number][] = [
    [verdict('A'), 1],
    [verdict('B'), 0],
    [verdict('tie'), 0.5],
    [verdict(' a\n'), 1],
    [verdict('[[B]]'), 0],
    [verdict('**Response A**'), 1],
    [verdict('"Tie."'), 0.5],
    [`${verdict('A')} Or is it? On reflection: ${verdict('B')}. That is all.`, 0],
    [`<think>I must end in ${verdict('A')} or ${verdict('B')}.</think>${verdict('A')}`, 1],
  ];
  for (const [content, first] of shares) t.match(read(content), { first }, content);
  t.match(
    read([
      { type: 'text', text: '<verdict-' },
      { type: 'text', text: `${mark}>A</verdict-${mark}>` },
    ]),
    {
      first: 1,
    },
  );
});

t.test('what stands before it is the explanation', async (t) => {
  t.match(read(`\nA has the year right.\n\n${verdict('A')} Done.`), { explanation: 'A has the year right.' });
  t.match(read(verdict('A')), { explanation: '' });
});

t.test('anything else is a fault, and says which', async (t) => {
  const faults: [unknown, string][] = [
    ['A', 'unmarked'],
    ['[[A]]', 'unmarked'],
    ['<verdict>A</verdict>', 'unmarked'],
    ['<verdict-00000000>A</verdict-00000000>', 'unmarked'],
    [`<verdict-${mark}>A`, 'unmarked'],
    [`</verdict-${mark}>A<verdict-${mark}>`, 'unmarked'],
    [verdict(''), 'unclear'],
    [verdict('C'), 'unclear'],
    [verdict('A and B'), 'unclear'],
    [`${verdict('A')} ${verdict('neither')}`, 'unclear'],
    ['', 'empty'],
    [null, 'empty'],
    [undefined, 'empty'],
    [17, 'not_text'],
    [[], 'not_text'],
  ];
  for (const [content, reason] of faults)
    t.match(read(content), { fault: { reason, detail: String } }, JSON.stringify(content) ?? 'undefined');
  t.match(read(verdict('A'), { finishReason: 'length' }), { fault: { reason: 'truncated' } });
  t.match(read(verdict('A'), { finishReason: 'content_filter' }), { fault: { reason: 'refusal' } });
  t.match(read(verdict('A'), { refusal: 'No.' }), { fault: { reason: 'refusal' } });
  t.match(read(verdict('tie'), { ties: false }), {
    fault: { reason: 'unclear', detail: 'The verdict was neither A nor B.' },
  });
});

const letters = (tokens: unknown) =>
  readLetters(choiceOf('A', { finishReason: 'length', logprobs: { content: [{ top_logprobs: tokens }] } }));

t.test('letters: the share is P(A) / (P(A) + P(B)), over all spellings of a letter', async (t) => {
  const close = (tokens: Record<string, number>, share: number) => {
    const answer = letters(Object.entries(tokens).map(([token, p]) => ({ token, logprob: Math.log(p) })));
    t.ok('first' in answer && Math.abs(answer.first - share) < 1e-12, `${JSON.stringify(tokens)}: ${share}`);
  };
  close({ A: 0.6, B: 0.2 }, 0.75);
  close({ B: 0.6, A: 0.2, The: 0.1 }, 0.25);
  close({ A: 0.3, ' A': 0.3, '\u2581B': 0.1, '\u0120B': 0.1 }, 0.75);
  close({ A: 0.9, The: 0.1 }, 1);
  close({ B: 0.9, a: 0.1 }, 0);
  t.match(letters([{ token: 'A', logprob: Math.log(0.5) }]), {
    logprobs: { first: Math.log(0.5), second: null },
  });
});

t.test('letters: nonsense is a fault, never NaN', async (t) => {
  const nonsense = [
    undefined,
    null,
    'A',
    {},
    [],
    [null],
    [{ token: 'The', logprob: -0.1 }],
    [{ token: 'A' }],
    [{ token: 'A', logprob: null }],
    [{ token: 'A', logprob: '-1' }],
    [{ token: 'A', logprob: -9999 }],
  ];
  for (const tokens of nonsense)
    t.match(letters(tokens), { fault: { reason: 'no_letter' } }, JSON.stringify(tokens) ?? 'undefined');
  for (const logprobs of [undefined, null, [], { content: null }, { content: [] }, { content: [null] }, 3])
    t.match(readLetters(choiceOf('A', { logprobs })), { fault: { reason: 'no_letter' } });
  t.match(letters([{ token: 'A', logprob: 3 }]), { first: 1 }, 'a probability above one counts as one');
});

t.test('an endpoint that answers without log probabilities is told apart from a silent one', async (t) => {
  t.equal(lacksLogprobs(choiceOf('A')), true);
  t.equal(lacksLogprobs(choiceOf('A', { finishReason: 'length' })), true);
  t.equal(lacksLogprobs(choiceOf('A', { logprobs: { content: [{ top_logprobs: [] }] } })), false);
  t.equal(lacksLogprobs(choiceOf(null)), false);
  t.equal(lacksLogprobs(choiceOf('')), false);
});
