// What may happen to an installation. Each fault begins, lasts and is over when `inflict` resolves; whatever was hurt then
// comes back by itself. Random draws decide whom it hits and for how long.
import { readlinkSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Random } from '../../examples/world/random.ts';
import { endProcess, type KeptRunner, type World } from './world.ts';

export interface Fault {
  name: string;
  /** why it cannot be had in this world */
  unavailable?: (world: World) => string | null;
  inflict(world: World, random: Random): Promise<void>;
}

const between = (random: Random, low: number, high: number): number => low + random.next() * (high - low);

/** One that has a trainer at work, where there is one, after a while at most. */
async function busyRunner({ runners }: World, random: Random): Promise<KeptRunner> {
  const order = random.shuffle(runners);
  for (const end = Date.now() + 10_000; Date.now() < end; await sleep(50)) {
    const busy = order.find((runner) => runner.trainers().length > 0);
    if (busy) return busy;
  }
  return order[0]!;
}

const kill = (
  name: string,
  whom: (world: World, random: Random) => Promise<{ kill(signal: 'SIGKILL'): void }>,
) => ({
  name,
  inflict: async (world: World, random: Random) => (await whom(world, random)).kill('SIGKILL'),
});

async function freeze(pids: number[], ms: number): Promise<void> {
  for (const pid of pids) endProcess(pid, 'SIGSTOP');
  await sleep(ms);
  for (const pid of pids) endProcess(pid, 'SIGCONT');
}

const restart = (name: string, signal: 'SIGINT' | 'SIGQUIT' | 'SIGKILL') => ({
  name,
  inflict: ({ installation }: World, random: Random) =>
    installation.restartPostgres(signal, between(random, 0, 2500)),
});

/** The next commit of a runner, or the answer to it, is lost with its connection. */
const loseCommit = (name: string, what: 'commit' | 'answer'): Fault => ({
  name,
  async inflict(world, random) {
    const { way } = await busyRunner(world, random);
    const cut = await way.hold(what);
    await sleep(between(random, 0, 300));
    cut();
  },
});

/** What a jump of the database's clock by `by` does to all that is stored, from the clock's own point of view. */
const shiftDatabaseClock = (name: string, by: string): Fault => ({
  name,
  async inflict({ query }) {
    await query(
      `update finegrain.run_attempts set heartbeat_at = heartbeat_at - $1::interval, lease_expires_at = lease_expires_at - $1::interval
       where ended_at is null`,
      [by],
    );
    await query('update finegrain.runners set seen_at = seen_at - $1::interval', [by]);
  },
});

export const faults: Fault[] = [
  kill('a runner is killed', busyRunner),
  {
    name: 'all runners are killed, come back and claim at once',
    async inflict({ runners }) {
      for (const runner of runners) runner.kill('SIGKILL');
    },
  },
  {
    name: 'a runner is asked to stop',
    inflict: async (world, random) => (await busyRunner(world, random)).kill('SIGTERM'),
  },
  {
    name: 'a trainer is killed',
    async inflict(world, random) {
      for (const pid of (await busyRunner(world, random)).trainers()) endProcess(pid);
    },
  },
  kill('the worker is killed', async ({ worker }) => worker),
  kill('the API is killed', async ({ api }) => api),
  restart('Postgres is stopped and started', 'SIGINT'),
  restart('Postgres is shut down at once', 'SIGQUIT'),
  restart('Postgres is killed', 'SIGKILL'),
  {
    name: 'a runner is frozen past its lease',
    async inflict(world, random) {
      const runner = await busyRunner(world, random);
      await freeze([runner.pid()], world.leaseSeconds * 1000 + between(random, 500, 3000));
    },
  },
  {
    name: 'a runner is frozen for a moment',
    async inflict(world, random) {
      const runner = await busyRunner(world, random);
      await freeze([runner.pid()], between(random, 100, world.leaseSeconds * 500));
    },
  },
  {
    name: 'a trainer is frozen',
    async inflict(world, random) {
      const runner = await busyRunner(world, random);
      await freeze(runner.trainers(), world.silenceSeconds * 1000 + between(random, -1000, 2500));
    },
  },
  {
    name: 'a runner is killed while its trainer is frozen',
    async inflict(world, random) {
      const runner = await busyRunner(world, random);
      const trainers = runner.trainers();
      for (const pid of trainers) endProcess(pid, 'SIGSTOP');
      runner.kill('SIGKILL');
      await sleep(between(random, 500, 4000));
      for (const pid of trainers) endProcess(pid, 'SIGCONT');
    },
  },
  {
    name: 'all connections to Postgres are cut',
    async inflict({ query }) {
      await query(`select pg_terminate_backend(pid) from pg_stat_activity
        where backend_type = 'client backend' and pid <> pg_backend_pid()`);
    },
  },
  loseCommit('a commit of a runner is lost', 'commit'),
  loseCommit('the answer to a commit of a runner is lost', 'answer'),
  {
    name: 'the clock of a process jumps',
    async inflict({ runners, api, worker }, random) {
      random.pick([...runners, api, worker]).kill('SIGUSR2');
    },
  },
  shiftDatabaseClock("the database's clock jumps ahead", '1 hour'),
  shiftDatabaseClock("the database's clock jumps back", '-1 hour'),
  {
    name: 'the disk of a runner is full',
    unavailable: ({ runners }) =>
      runners.every(({ smallDisk }) => smallDisk)
        ? null
        : 'the runners have no small disks: only the soak mounts some, as root',
    async inflict(world, random) {
      const { workFolders } = await busyRunner(world, random);
      const path = join(workFolders, 'full');
      const file = await open(path, 'w');
      const block = Buffer.alloc(1 << 16);
      try {
        for (const end = Date.now() + between(random, 500, 4000); Date.now() < end; ) {
          // to the last byte, and again when somebody makes room
          for (let size = block.length; size >= 1; size >>= 1) {
            const written = await file.write(block, 0, size).then(
              () => true,
              () => false,
            );
            if (written) size <<= 1;
          }
          await sleep(20);
        }
      } finally {
        await file.close();
        rmSync(path);
      }
    },
  },
  {
    name: 'the artifact store is away',
    async inflict({ artifacts }, random) {
      // in one step each: what is made in between would be lost
      const lead = (target: string): void => {
        symlinkSync(target, `${artifacts}.next`);
        renameSync(`${artifacts}.next`, artifacts);
      };
      const store = readlinkSync(artifacts);
      lead('/dev/null'); // in which no folder can be
      await sleep(between(random, 500, 4000));
      lead(store);
    },
  },
  {
    name: 'a run is paused and resumed',
    async inflict({ call, query }, random) {
      const active = await query<{ id: string }>(
        "select 'run_' || replace(id::text, '-', '') as id from finegrain.runs where state in ('queued', 'starting', 'running') order by id",
      );
      if (active.length === 0) return;
      const { id } = random.pick(active);
      await call('POST', `/v1/runs/${id}/pause`);
      await sleep(between(random, 0, 2500));
      await call('POST', `/v1/runs/${id}/resume`);
    },
  },
];
