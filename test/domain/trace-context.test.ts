import t from 'tap';
import { continueTrace, formatTrace } from '../../src/domain/trace-context.ts';

const traceId = '4bf92f3577b34da6a3ce929d0e0e4736';
const parentId = '00f067aa0ba902b7';

t.test('a valid traceparent is continued under a span of our own', async (t) => {
  const context = continueTrace(`00-${traceId}-${parentId}-01`);
  t.match(context, { traceId, parentId, flags: '01', spanId: /^[0-9a-f]{16}$/ });
  t.not(context.spanId, parentId);
  t.equal(formatTrace(context), `00-${traceId}-${context.spanId}-01`);
  t.match(continueTrace(`00-${traceId}-${parentId}-00`), { traceId, flags: '00' }, 'not sampled stays so');
  t.match(continueTrace(`00-${traceId}-${parentId}-ff`), { flags: '03' }, 'unknown flags are not passed on');
  t.match(
    continueTrace(`cc-${traceId}-${parentId}-01-of-the-future`),
    { traceId, parentId },
    'a later version',
  );
  t.match(continueTrace(`cc-${traceId}-${parentId}-01`), { traceId, parentId });
});

t.test('anything else begins a new trace', async (t) => {
  const zero = '0'.repeat(32);
  for (const header of [
    undefined,
    '',
    'nonsense',
    `ff-${traceId}-${parentId}-01`,
    `00-${zero}-${parentId}-01`,
    `00-${traceId}-${zero.slice(16)}-01`,
    `00-${traceId.toUpperCase()}-${parentId}-01`,
    `00-${traceId}-${parentId}-01-more`,
    `00-${traceId}-${parentId}-01 `,
    `00-${traceId}-${parentId}-1`,
    `00-${traceId.slice(1)}-${parentId}-01`,
    `cc-${traceId}-${parentId}-01more`,
    `00-${traceId}-${parentId}-01, 00-${traceId}-${parentId}-01`,
  ]) {
    const context = continueTrace(header);
    t.match(context, { parentId: null, flags: '01', traceId: /^[0-9a-f]{32}$/ }, String(header));
    t.not(context.traceId, traceId);
  }
});
