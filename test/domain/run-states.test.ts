import t from 'tap';
import { canMove, isTerminal, runStates, terminalRunStates } from '../../src/domain/run-states.ts';

t.test('a run goes its way, and what has ended stays as it is', async (t) => {
  const way = ['queued', 'starting', 'running', 'pausing', 'paused', 'queued'] as const;
  way.slice(1).forEach((to, k) => {
    t.ok(canMove(way[k]!, to), `${way[k]} → ${to}`);
  });
  t.notOk(canMove('queued', 'running') || canMove('paused', 'running') || canMove('running', 'paused'));
  t.same(terminalRunStates, ['succeeded', 'failed', 'cancelled']);
  for (const from of terminalRunStates) for (const to of runStates) t.notOk(canMove(from, to));
});

t.test('every run that has not ended can be cancelled, and a lost one waits again', async (t) => {
  for (const state of runStates.filter((state) => !isTerminal(state)))
    t.ok(canMove(state, 'cancelled'), state);
  for (const state of ['starting', 'running', 'pausing'] as const) t.ok(canMove(state, 'queued'), state);
});

t.test('every state can be reached from the first', async (t) => {
  const reached = new Set<string>(['queued']);
  for (const _ of runStates) {
    for (const from of runStates)
      if (reached.has(from)) for (const to of runStates) if (canMove(from, to)) reached.add(to);
  }
  t.equal(reached.size, runStates.length);
});
