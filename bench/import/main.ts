// `npm run bench:import`: how fast pairs come in, against psql's \copy, and what an import of a gigabyte needs of memory and
// leaves of the event loop. Writes its part of bench/RESULTS.md.
import { randomBytes } from 'node:crypto';
import { parseArgs } from 'node:util';
import { readyAddress } from '../../test/support/installation.ts';
import { onInstallation } from '../installation.ts';
import { describeMachine, writePart } from '../report.ts';
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

await onInstallation(async (installation) => {
  const where = describeMachine();
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
  const part = ['# Import', `Made by \`npm run bench:import\`; ${where}.`, speed, memory, reading].join(
    '\n\n',
  );
  console.log(`\n${part}`);
  await writePart('import', part);
});
