// Long runs against a real installation, to find what hours of work would bring about: memory that grows, connections and
// descriptors that are never given back, answers that fail now and then (load); runs that a fault loses, or that end with
// other weights (faults, and kills of the trainer alone). Closed by the line `N passed, N failed`.
//
//   npm run test:soak [-- load] [--minutes N]                        ten minutes unless said otherwise
//   npm run test:soak [-- faults] [--faults N] [--seed N] [--fake]   200 faults; --fake: with a program in the trainer's place
//   npm run test:soak [-- kills] [--kills N] [--seed N]              45 kills, two minutes on a quiet machine
//
// Without a name: all, or with --faults or --kills alone, those.
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { soakUnderFaults } from './faults.ts';
import { soakUnderKills } from './kills.ts';
import { soakUnderLoad } from './load.ts';

/** Something that must hold at the end of a soak. */
export interface Claim {
  holds: boolean;
  /** what was promised, and what was measured */
  text: string;
}

export interface SoakOptions {
  /** new and empty: everything of the soak */
  folder: string;
  minutes: number;
  /** how many faults */
  faults: number;
  /** how many times the trainer is killed, at least */
  kills: number;
  /** of the order, place and length of faults and kills */
  seed: number;
  /** a program in the place of the trainer, for what takes it too long to show */
  fake: boolean;
  /** ends the soak early; it then claims what it can */
  signal: AbortSignal;
}

const soaks: Record<string, (options: SoakOptions) => Promise<Claim[]>> = {
  kills: soakUnderKills,
  load: soakUnderLoad,
  faults: soakUnderFaults,
};

const interrupted = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'disconnect'])
  process.on(signal, () => interrupted.abort());

const { values, positionals } = parseArgs({
  options: {
    minutes: { type: 'string' },
    faults: { type: 'string' },
    kills: { type: 'string' },
    seed: { type: 'string', default: '1' },
    fake: { type: 'boolean', default: false },
  },
  allowPositionals: true,
});
const amounts = { kills: values.kills, load: values.minutes, faults: values.faults };
const given = Object.keys(soaks).filter((name) => amounts[name as keyof typeof amounts] !== undefined);
const asked = given.length === 1 && given[0] !== 'load' ? given : Object.keys(soaks);
const names = positionals.length > 0 ? positionals : asked;
const minutes = Number(values.minutes ?? 10);
const faults = Number(values.faults ?? 200);
const kills = Number(values.kills ?? 45);
if (names.some((name) => !Object.hasOwn(soaks, name)) || !(minutes > 0) || !(faults > 0) || !(kills > 0)) {
  console.log(
    `Usage: npm run test:soak [-- ${Object.keys(soaks).join('|')}…] [--minutes N] [--faults N] [--kills N] [--seed N] [--fake]`,
  );
  process.exit(2);
}

if (!existsSync('/proc/self/statm')) {
  console.log('The soak reads memory, descriptors and processes from /proc: it needs Linux.');
  process.exit(2);
}

const folder = await mkdtemp(path.join(tmpdir(), 'finegrain-soak-'));
process.env.TMPDIR = folder; // of everything that is started
const totals = { passed: 0, failed: 0 };
try {
  for (const name of names) {
    const amount = { kills: `${kills} of them`, load: `${minutes} minutes`, faults: `${faults} of them` };
    console.log(`\n${name}, ${amount[name as keyof typeof amount]}`);
    const options = {
      folder: await mkdtemp(path.join(folder, `${name}-`)),
      minutes,
      faults,
      kills,
      seed: Number(values.seed),
      fake: values.fake,
      signal: interrupted.signal,
    };
    for (const { holds, text } of await soaks[name]!(options)) {
      totals[holds ? 'passed' : 'failed'] += 1;
      console.log(`${holds ? 'ok    ' : 'FAILED'} ${text}`);
    }
  }
} catch (error) {
  totals.failed += 1;
  console.log(error instanceof Error ? error.stack : error);
} finally {
  await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
}
if (interrupted.signal.aborted) console.log('Interrupted: it did not run for its time.');
console.log(`${totals.passed} passed, ${totals.failed} failed`);
process.exit(totals.failed > 0 || interrupted.signal.aborted ? 1 : 0);
