import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { cpu, openScorerProcesses } from '../../src/scoring/scorer-processes.ts';
import { eventually, scorerProcesses } from '../support/scorer-processes.ts';

t.test('closing waits for a process that was told to end and has not ended yet', async (t) => {
  const processes = openScorerProcesses(null, 60_000);
  const { child, channel } = processes.take(cpu);
  t.teardown(() => child.kill('SIGKILL'));
  await eventually(() => scorerProcesses().includes(child.pid!));
  child.kill('SIGSTOP');
  channel.tell({ type: 'close' });
  let closed = false;
  const closing = processes.close().then(() => {
    closed = true;
  });
  await sleep(100);
  t.notOk(closed);
  child.kill('SIGCONT');
  await closing;
  t.same(scorerProcesses(), []);
});

t.test('closing ends the process that was started ahead and nobody took', async (t) => {
  const processes = openScorerProcesses(cpu, 60_000);
  await eventually(() => scorerProcesses().length === 1);
  await processes.close();
  t.same(scorerProcesses(), []);
});
