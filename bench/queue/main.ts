// `npm run bench:queue`: how long a run waits for nothing but the queue. From POST /v1/runs to the start of the trainer's
// process, against graphile-worker's own way from add_job to its task, in turn on the same Postgres; and what a claim costs
// behind ten thousand queued runs. Writes its part of bench/RESULTS.md.
import { parseArgs } from 'node:util';
import { onInstallation } from '../installation.ts';
import { describeMachine, writePart } from '../report.ts';
import { measureClaims } from './claims.ts';
import { measureLatency } from './latency.ts';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '200' } } });
const rounds = Number(values.rounds);
if (!(rounds >= 10)) {
  console.log('Usage: npm run bench:queue [-- --rounds N], N at least 10');
  process.exit(2);
}

await onInstallation(async (installation) => {
  const where = describeMachine();
  const latency = await measureLatency(installation, rounds);
  const claims = await measureClaims(installation);
  const part = ['# The queue', `Made by \`npm run bench:queue\`; ${where}.`, latency, claims].join('\n\n');
  console.log(`\n${part}`);
  await writePart('queue', part);
});
