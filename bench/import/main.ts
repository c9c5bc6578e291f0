// `npm run bench:import`: how fast pairs come in, against psql's \copy, and what an import of a gigabyte needs of memory and
// leaves of the event loop. Writes its part of bench/RESULTS.md.
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { installFinegrain, readyAddress } from '../../test/support/installation.ts';
import { writePart } from '../report.ts';
import { measureMemory } from './memory.ts';
import { measureReading } from './reading.ts';
import { measureSpeed } from './speed.ts';

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '200000' },
    rounds: { type: 'string', default: '5' },
    gigabytes: { type: 'string', default: '1' },
  },
});
const [count, rounds, gigabytes] = [values.rows, values.rounds, values.gigabytes].map(Number) as [
  number,
  number,
  number,
];
if (!(count >= 1000 && rounds >= 1 && gigabytes > 0)) {
  console.log(
    'Usage: npm run bench:import [-- --rows N] [--rounds N] [--gigabytes N], N at least 1000, 1, 0',
  );
  process.exit(2);
}

const folder = await mkdtemp(join(os.tmpdir(), 'finegrain-bench-'));
// as durable as an operator's, for both sides
const settings = { fsync: 'on', synchronous_commit: 'on' };
const installation = await installFinegrain(folder, { poolSize: 5, settings });
try {
  const load = os.loadavg()[0]!.toFixed(1);
  const key = randomBytes(24).toString('hex');
  const api = installation.run('main-api.js', [], {
    DATABASE_URL: installation.directUrl('finegrain_api'),
    FINEGRAIN_API_KEY: key,
    HOST: '127.0.0.1',
    PORT: '0',
    LOG_LEVEL: 'error',
  });
  const service = { url: await readyAddress(api), key };
  const memory = await measureMemory(service, api.process.pid!, gigabytes); // of a process that has done nothing yet
  const speed = await measureSpeed(installation, service, { count, rounds });
  const reading = await measureReading(installation, service, count);
  api.process.kill('SIGTERM');
  await api.ended;
  const where = `${os.cpus()[0]!.model.trim()}, ${os.cpus().length} cores, load ${load} at the start, Node ${process.versions.node}`;
  const part = ['# Import', `Made by \`npm run bench:import\`; ${where}.`, speed, memory, reading].join(
    '\n\n',
  );
  console.log(`\n${part}`);
  await writePart('import', part);
} finally {
  await installation.stop();
  await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
}
