// From the start of the process to the first score, by the model that ships.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { median } from '../../test/soak/trend.ts';
import { type Installation, readyAddress } from '../../test/support/installation.ts';
import { benchmarkKey, post } from './servers.ts';

const times = 5;
const item = { prompt: 'Write to Anna about the garden.', responses: ['Dear Anna, the garden is in bloom.'] };

export async function measureStarts(installation: Installation): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-bench-starts-'));
  try {
    const withDatabase = await repeat(times, () =>
      start(installation, {
        DATABASE_URL: installation.directUrl('finegrain_api'),
        HOST: '127.0.0.1',
        FINEGRAIN_DRAIN_SECONDS: '0',
      }),
    );
    const embedded = {
      FINEGRAIN_DATA_DIR: join(folder, 'data'),
      FINEGRAIN_RUNNERS: '0',
    };
    const first = await start(installation, embedded);
    const again = await repeat(times, () => start(installation, embedded));
    const verdict = (milliseconds: number, bar: number): string =>
      `${milliseconds.toFixed(0)} ms (bar ${bar}${milliseconds < bar ? '' : ': missed'})`;
    return `Start to the first score, median of ${times}: with \`DATABASE_URL\` ${verdict(median(withDatabase), 600)}, embedded ${verdict(median(again), 2000)}; the very first start, which makes the database, ${first.toFixed(0)} ms.`;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function repeat(count: number, run: () => Promise<number>): Promise<number[]> {
  const results: number[] = [];
  for (let n = 0; n < count; n++) results.push(await run());
  return results;
}

/** Milliseconds. */
async function start(installation: Installation, env: NodeJS.ProcessEnv): Promise<number> {
  const started = performance.now();
  const api = installation.run('main-api.js', [], {
    FINEGRAIN_API_KEY: benchmarkKey,
    PORT: '0',
    LOG_LEVEL: 'error',
    ...env,
  });
  try {
    const { status, text } = await post(`${await readyAddress(api)}/v1/score`, item);
    if (status !== 200) throw new Error(text);
    return performance.now() - started;
  } finally {
    api.process.kill('SIGTERM');
    await api.ended;
  }
}
