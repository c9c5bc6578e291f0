// Ten faults in a seeded order over runs of the fake trainer. The same with the real one, all kinds and hundreds of them:
// npm run test:soak -- faults.
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { createRandom } from '../../examples/world/random.ts';
import { queueSft } from '../support/runner.ts';
import { runCampaign } from './campaign.ts';
import { faults } from './faults.ts';
import { canFindProcesses, openWorld } from './world.ts';

const chosen = [
  'a runner is killed',
  'all runners are killed, come back and claim at once',
  'a trainer is killed',
  'the worker is killed',
  'the API is killed',
  'Postgres is killed',
  'a runner is frozen past its lease',
  'the clock of a process jumps',
  'the artifact store is away',
  'the answer to a commit of a runner is lost',
];
const seed = 'faults 1';

t.setTimeout(300_000);
t.test('runs survive faults', { skip: !canFindProcesses && 'finds trainers by /proc' }, async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-test-'));
  const world = await openWorld(folder, {
    runners: 2,
    python: null,
    leaseSeconds: 3,
    silenceSeconds: 8,
    smallDisks: false,
  });
  t.teardown(() => world.stop());
  const log: string[] = [];
  const work = (what: string) => ({
    what,
    queue: async () => {
      const behaviour = { prompt: 'work = {"steps":60,"ms":40,"every":4}', response: '' };
      const rows = Array.from({ length: 5 }, (_, n) => ({ prompt: `${what} ${n}`, response: '' }));
      return (await queueSft(world, [behaviour, ...rows], { max_attempts: 100 })).id;
    },
  });
  const random = createRandom(seed);
  const { broken, inflicted, runs, attempts } = await runCampaign(world, {
    works: [work('one'), work('two')],
    faults: random.shuffle(chosen).map((name) => faults.find((fault) => fault.name === name)!),
    random,
    concurrently: 3,
    pauseMs: [300, 1500],
    patienceSeconds: 120,
    log: (line) => log.push(line),
  });
  t.same(broken, [], `after ${inflicted} faults, ${attempts} attempts of ${runs} runs`);
  t.equal(inflicted, chosen.length);
  t.ok(attempts > runs, 'the faults have cost attempts');
  if (!t.passing()) {
    console.error(log.join('\n'));
    for (const { name, log } of [...world.runners, world.worker, world.api])
      console.error(`The log of ${name}:\n${log().slice(-20_000)}`);
  }
});
