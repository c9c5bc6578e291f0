// Inflicts one fault after the other while runs are at work, then lets everything end and says what did not hold.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Random } from '../../examples/world/random.ts';
import { hasEnded } from '../../src/domain/run-states.ts';
import type { Run } from '../../src/services/runs.ts';
import type { Fault } from './faults.ts';
import { type Expected, violations } from './invariants.ts';
import type { World } from './world.ts';

/** A kind of run that comes out the same every time. */
export interface Work {
  what: string;
  queue(): Promise<string>;
}

export interface CampaignOptions {
  works: Work[];
  faults: Fault[];
  random: Random;
  /** runs that are under way at any time */
  concurrently: number;
  /** between the end of a fault and the next one */
  pauseMs: [number, number];
  /** runs may take that long after the last fault */
  patienceSeconds: number;
  log(line: string): void;
}

export interface Outcome {
  runs: number;
  attempts: number;
  inflicted: number;
  broken: string[];
}

export async function runCampaign(world: World, options: CampaignOptions): Promise<Outcome> {
  const { works, faults, random, concurrently, pauseMs, log } = options;
  const undisturbed = new Map<string, string>();
  const expected: Expected[] = [];
  await Promise.all(
    works.map(async ({ what, queue }) => {
      const id = await queue();
      const modelDigest = await modelDigestOf(world, id);
      undisturbed.set(what, modelDigest);
      expected.push({ id, what, modelDigest });
    }),
  );
  log(
    `undisturbed: ${[...undisturbed].map(([what, digest]) => `${what} ${digest.slice(7, 19)}`).join(', ')}`,
  );

  const stateOf = async (id: string): Promise<Run> => (await world.call('GET', `/v1/runs/${id}`)).body;
  // beside the faults, which do not wait for an API that they have ended
  let inflicting = true;
  const keepBusy = async (): Promise<void> => {
    let active: string[] = [];
    while (inflicting) {
      const runs = await Promise.all(active.map(stateOf));
      active = runs.filter(({ state }) => !hasEnded(state)).map(({ id }) => id);
      while (active.length < concurrently) {
        const { what, queue } = works[expected.length % works.length]!;
        const id = await queue();
        expected.push({ id, what, modelDigest: undisturbed.get(what)! });
        active.push(id);
      }
      await sleep(200);
    }
  };
  const busy = keepBusy();
  let inflicted = 0;
  try {
    for (const fault of faults) {
      await sleep(pauseMs[0] + random.next() * (pauseMs[1] - pauseMs[0]));
      const started = performance.now();
      await fault.inflict(world, random);
      inflicted += 1;
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      log(`${inflicted}/${faults.length} ${fault.name} (${seconds} s)`);
    }
  } finally {
    inflicting = false;
  }
  await busy;

  const end = Date.now() + options.patienceSeconds * 1000;
  let runs = await Promise.all(expected.map(({ id }) => stateOf(id)));
  while (runs.some(({ state }) => !hasEnded(state)) && Date.now() < end) {
    await sleep(200);
    runs = await Promise.all(expected.map(({ id }) => stateOf(id)));
  }
  return {
    runs: expected.length,
    attempts: runs.reduce((sum, { attempts }) => sum + attempts.length, 0),
    inflicted,
    broken: await violations(world, expected),
  };
}

/** @throws Error when the run fails without any fault */
async function modelDigestOf({ call }: World, id: string): Promise<string> {
  for (;;) {
    const run: Run = (await call('GET', `/v1/runs/${id}`)).body;
    if (run.state === 'succeeded') return (await call('GET', `/v1/models/${run.model_id}`)).body.digest;
    if (hasEnded(run.state)) throw new Error(`Undisturbed, the run ended as ${JSON.stringify(run)}`);
    await sleep(100);
  }
}
