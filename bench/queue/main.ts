// `npm run bench:queue`: how long a run waits for nothing but the queue. From POST /v1/runs to the start of the trainer's
// process, against graphile-worker's own way from add_job to its task, in turn on the same Postgres; and what a claim costs
// behind ten thousand queued runs. Writes its part of bench/RESULTS.md.
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { installFinegrain } from '../../test/support/installation.ts';
import { writePart } from '../report.ts';
import { measureClaims } from './claims.ts';
import { measureLatency } from './latency.ts';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '200' } } });
const rounds = Number(values.rounds);
if (!(rounds >= 10)) {
  console.log('Usage: npm run bench:queue [-- --rounds N], N at least 10');
  process.exit(2);
}

const folder = await mkdtemp(join(os.tmpdir(), 'finegrain-bench-'));
// as durable as an operator's, for both sides
const settings = { fsync: 'on', synchronous_commit: 'on' };
const installation = await installFinegrain(folder, { poolSize: 5, settings });
try {
  const load = os.loadavg()[0]!.toFixed(1);
  const latency = await measureLatency(installation, rounds);
  const claims = await measureClaims(installation);
  const where = `${os.cpus()[0]!.model.trim()}, ${os.cpus().length} cores, load ${load} at the start, Node ${process.versions.node}`;
  const part = ['# The queue', `Made by \`npm run bench:queue\`; ${where}.`, latency, claims].join('\n\n');
  console.log(`\n${part}`);
  await writePart('queue', part);
} finally {
  await installation.stop();
  await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
}
