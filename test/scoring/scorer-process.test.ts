import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import type { ScorerReply } from '../../src/scoring/scorer-protocol.ts';
import { tinyModelFolder } from '../support/models.ts';

const program = fileURLToPath(new URL('../../src/scoring/scorer-process.js', import.meta.url));
const file = fileURLToPath(new URL('reward.onnx', tinyModelFolder));
const graph = { file, input: 'input_ids', output: 'rewards' };
const score = {
  type: 'score',
  tokenIds: Int32Array.of(1, 4, 40, 41, 42),
  promptLength: 2,
  sharesPrompt: false,
};

async function start(t: Test) {
  const child = fork(program, [], { serialization: 'advanced', env: {} });
  t.teardown(() => child.kill('SIGKILL'));
  child.send({ type: 'load', graph, provider: 'cpu' });
  const [first] = (await once(child, 'message')) as [ScorerReply];
  t.equal(first.type, 'ready');
  const ended = once(child, 'exit');
  return { child, ended };
}

t.test('it ends by itself when its parent goes away, even with work at hand', async (t) => {
  const { child, ended } = await start(t);
  child.send(score);
  child.disconnect();
  t.same(await ended, [0, null]);
});

t.test('it finishes what it has before it closes', async (t) => {
  const { child, ended } = await start(t);
  const replies: ScorerReply[] = [];
  child.on('message', (reply: ScorerReply) => replies.push(reply));
  child.send(score);
  child.send({ ...score, promptLength: 4 });
  child.send({ type: 'close' });
  t.same(await ended, [0, null]);
  t.match(replies, [
    { type: 'scored', rewards: { length: 3 } },
    { type: 'scored', rewards: { length: 1 } },
  ]);
});

t.test('a signal to the whole process group leaves it to its parent', async (t) => {
  const { child, ended } = await start(t);
  child.kill('SIGINT');
  child.kill('SIGTERM');
  child.send(score);
  t.match(await once(child, 'message'), [{ type: 'scored' }]);
  child.disconnect();
  t.same(await ended, [0, null]);
});
