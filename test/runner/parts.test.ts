// The parts of a runner that processes do not show within seconds: a lease without an answer, a trainer that is deaf.
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { openEventQueue, type RunEvent } from '../../src/runner/event-queue.ts';
import { holdLease } from '../../src/runner/lease.ts';
import { openDoorbell } from '../../src/runner/loop.ts';
import { progressEstimator } from '../../src/runner/progress.ts';
import { startTrainer } from '../../src/runner/trainer-process.ts';
import { isAlive } from '../support/processes.ts';

t.test(
  'progress: the rest at the rate of this stage in this attempt; a repeated line says nothing',
  async (t) => {
    let now = 100;
    const estimate = progressEstimator(() => now);
    t.match(estimate({ step: 0, total_steps: 1, stage: 'load' }), { fraction: 0, eta_seconds: null });
    now = 110;
    t.match(estimate({ step: 50, total_steps: 100, stage: 'train' }), { fraction: 0.5, eta_seconds: null });
    now = 120;
    t.match(estimate({ step: 60, total_steps: 100, stage: 'train' }), { fraction: 0.6, eta_seconds: 40 });
    now = 130;
    t.equal(estimate({ step: 60, total_steps: 100, stage: 'train' }), null);
    t.match(estimate({ step: 100, total_steps: 100, stage: 'train' }), { fraction: 1, eta_seconds: 0 });
    t.match(estimate({ step: 0, total_steps: 0, stage: 'evaluate' }), { fraction: 0, eta_seconds: null });
  },
);

t.test('lease', async (t) => {
  const hold = (heartbeat: () => Promise<string | null>) => {
    const seen = { states: [] as string[], lost: [] as string[], errors: 0 };
    const release = holdLease({
      leaseSeconds: 0.2,
      heartbeat,
      onDesiredState: (state) => seen.states.push(state),
      onLost: (why) => seen.lost.push(why),
      onError: () => seen.errors++,
    });
    t.teardown(release);
    return { seen, release };
  };

  t.test('lasts as long as it is renewed, and no longer than it is wanted', async (t) => {
    const { seen, release } = hold(async () => 'running');
    await sleep(500);
    t.same(seen.lost, []);
    t.ok(seen.states.length >= 4);
    release();
    const { length } = seen.states;
    await sleep(200);
    t.equal(seen.states.length, length);
  });

  t.test('is lost when the answer is null, once', async (t) => {
    const { seen } = hold(async () => null);
    await sleep(400);
    t.same(seen.lost, ['another attempt holds the run']);
  });

  t.test('is lost when no answer comes for its length, even if each try hangs', async (t) => {
    const { seen } = hold(() => new Promise(() => {}));
    const failing = hold(() => Promise.reject(new Error('no database'))).seen;
    await sleep(400);
    t.match(seen.lost, [/could not be renewed/]);
    t.match(failing.lost, [/could not be renewed/]);
    t.ok(failing.errors >= 2);
  });
});

t.test('events are sent in order, also after an error, and none after the run is lost', async (t) => {
  const sent: RunEvent[] = [];
  let failures = 1;
  const queue = openEventQueue(
    async (batch) => {
      if (failures-- > 0) throw new Error('no database');
      sent.push(...batch);
      return sent.length < 4;
    },
    () => {},
  );
  for (const number of [1, 2]) await queue.add({ type: 'log', number });
  await queue.drain();
  t.same(
    sent.map(({ number }) => number),
    [1, 2],
  );
  for (const number of [3, 4]) await queue.add({ type: 'log', number });
  await queue.drain();
  await queue.add({ type: 'log', number: 5 });
  await queue.drain();
  t.same(
    sent.map(({ number }) => number),
    [1, 2, 3, 4],
  );
});

t.test('doorbell: a ring during work ends the next pause at once', async (t) => {
  const doorbell = openDoorbell();
  doorbell.wake();
  await doorbell.wait(10_000);
  const start = performance.now();
  await doorbell.wait(50);
  t.ok(performance.now() - start >= 45, 'it rings once');
  setTimeout(doorbell.wake, 20);
  await doorbell.wait(10_000);
});

t.test('a trainer', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-test-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const program = async (name: string, script: string) => {
    const path = join(folder, name);
    await writeFile(path, `#!/bin/sh\n${script}\n`);
    await chmod(path, 0o755);
    return path;
  };
  const start = (python: string, silenceSeconds = 60) =>
    startTrainer({
      python,
      args: [],
      silenceSeconds,
      environment: { PATH: process.env.PATH! },
      workFolder: folder,
      onLogLine: () => {},
    });
  const linesOf = async (trainer: ReturnType<typeof start>) => {
    const lines: (string | null)[] = [];
    for await (const line of trainer.lines) lines.push(line);
    return lines;
  };

  t.test('that does not listen is killed after its grace', async (t) => {
    const trainer = start(await program('deaf', "trap '' TERM; echo $$; while true; do sleep 1; done"));
    const lines = linesOf(trainer);
    await sleep(200);
    trainer.terminate(300);
    t.match(await trainer.ended, { code: null, signal: 'SIGKILL' });
    const [pid] = await lines;
    t.notOk(isAlive(Number(pid)));
  });

  t.test('that says nothing is killed; one that is not listened to is not', async (t) => {
    const trainer = start(await program('silent', 'echo words; exec sleep 60'), 1);
    t.same(await linesOf(trainer), ['words']);
    t.match(await trainer.ended, { hung: true, signal: 'SIGKILL' });
    const waiting = start(await program('waiting', 'echo one; echo two; exec sleep 1'), 1);
    const lines: (string | null)[] = [];
    for await (const line of waiting.lines) {
      lines.push(line);
      if (lines.length === 1) await sleep(2500);
    }
    t.same(lines, ['one', 'two']);
    t.match(await waiting.ended, { hung: false, code: 0 });
  });

  const linux = process.platform === 'linux'; // has setsid
  t.test(
    'whose pipes are held open by a process that left its group is not waited for',
    { skip: !linux },
    async (t) => {
      const trainer = start(await program('left', 'setsid sleep 20 & echo $!; echo words >&2; exit 3'));
      const lines = await linesOf(trainer);
      t.match(await trainer.ended, { code: 3 });
      t.same(trainer.logTail(), ['words']);
      process.kill(Number(lines[0]), 'SIGKILL');
    },
  );

  t.test('that cannot be started says why', async (t) => {
    const trainer = start(join(folder, 'absent'));
    t.same(await linesOf(trainer), []);
    t.match(await trainer.ended, { code: null, error: { message: /ENOENT/ } });
    trainer.terminate(10);
    trainer.kill();
  });
});
