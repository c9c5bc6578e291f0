import t from 'tap';
import {
  canMove,
  endedRunStates,
  hasEnded,
  type RunRequest,
  type RunStanding,
  runStates,
  standingAfter,
} from '../../src/domain/run-states.ts';

const standings = runStates.flatMap((state) =>
  (['running', 'paused', 'cancelled'] as const).map((desired_state) => ({ state, desired_state })),
);
const requests: RunRequest[] = ['cancel', 'pause', 'resume', 'retry'];

t.test('a run goes its way, and what has succeeded stays so', async (t) => {
  const way = ['queued', 'starting', 'running', 'pausing', 'paused', 'queued'] as const;
  way.slice(1).forEach((to, k) => {
    t.ok(canMove(way[k]!, to), `${way[k]} → ${to}`);
  });
  t.notOk(canMove('queued', 'running') || canMove('paused', 'running') || canMove('running', 'paused'));
  for (const to of runStates) t.notOk(canMove('succeeded', to));
  for (const from of endedRunStates)
    for (const to of runStates) t.equal(canMove(from, to), from !== 'succeeded' && to === 'queued');
});

t.test('every run that has not ended can be cancelled, and a lost one waits again', async (t) => {
  for (const state of runStates.filter((state) => !hasEnded(state))) t.ok(canMove(state, 'cancelled'), state);
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

t.test('no request makes a move that the table does not have, and asking twice is asking once', async (t) => {
  for (const run of standings) {
    for (const request of requests) {
      const after = standingAfter(run, request);
      if (after === null) continue;
      t.ok(after.state === run.state || canMove(run.state, after.state), `${request} ${run.state}`);
      if (request !== 'retry' && !hasEnded(after.state)) t.same(standingAfter(after, request), after);
    }
  }
});

t.test('what each request does', async (t) => {
  const run = (state: RunStanding['state'], desired_state: RunStanding['desired_state'] = 'running') => ({
    state,
    desired_state,
  });
  const cases: [RunRequest, RunStanding, RunStanding | null][] = [
    ['pause', run('queued'), run('paused', 'paused')],
    ['pause', run('starting'), run('pausing', 'paused')],
    ['pause', run('running'), run('pausing', 'paused')],
    ['pause', run('running', 'cancelled'), null],
    ['pause', run('failed'), null],
    ['resume', run('paused', 'paused'), run('queued')],
    ['resume', run('pausing', 'paused'), run('running')],
    ['resume', run('running'), run('running')],
    ['resume', run('pausing', 'cancelled'), null],
    ['resume', run('cancelled', 'cancelled'), null],
    ['cancel', run('paused', 'paused'), run('cancelled', 'cancelled')],
    ['cancel', run('pausing', 'paused'), run('pausing', 'cancelled')],
    ['cancel', run('running'), run('running', 'cancelled')],
    ['cancel', run('succeeded'), null],
    ['retry', run('failed'), run('queued')],
    ['retry', run('cancelled', 'cancelled'), run('queued')],
    ['retry', run('succeeded'), null],
    ['retry', run('running'), null],
  ];
  for (const [request, before, after] of cases)
    t.same(standingAfter(before, request), after, `${request} ${before.state}`);
});
