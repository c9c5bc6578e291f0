// From the start of the process to the first score, by the model that ships.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Installation } from '../../test/support/installation.ts';
import { median } from './measures.ts';
import { post } from './servers.ts';

const times = 5;
const item = { prompt: 'Write to Anna about the garden.', responses: ['Dear Anna, the garden is in bloom.'] };

export async function measureStarts(installation: Installation): Promise<string> {
  const key = 'a-key-of-the-benchmark';
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-bench-starts-'));
  try {
    const withDatabase = await repeat(times, () =>
      start({
        ...installation.environment,
        DATABASE_URL: installation.directUrl('finegrain_api'),
        FINEGRAIN_API_KEY: key,
        HOST: '127.0.0.1',
        FINEGRAIN_DRAIN_SECONDS: '0',
      }),
    );
    const embedded = {
      FINEGRAIN_DATA_DIR: join(folder, 'data'),
      FINEGRAIN_API_KEY: key,
      FINEGRAIN_RUNNERS: '0',
    };
    const first = await start(embedded);
    const again = await repeat(times, () => start(embedded));
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
async function start(env: NodeJS.ProcessEnv): Promise<number> {
  const { PATH, HOME, TMPDIR } = process.env;
  const started = performance.now();
  const child = spawn(process.execPath, ['dist/src/main-api.js'], {
    env: { PATH, HOME, TMPDIR, PORT: '0', LOG_LEVEL: 'error', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let said = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  try {
    while (!/ready at (\S+)/.test(said)) {
      if (child.exitCode !== null) throw new Error('The service did not start.');
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    const url = /ready at (\S+)/.exec(said)![1];
    const { status, text } = await post(`${url}/v1/score`, item, {
      authorization: `Bearer ${env.FINEGRAIN_API_KEY}`,
    });
    if (status !== 200) throw new Error(text);
    return performance.now() - started;
  } finally {
    child.kill('SIGTERM');
    await once(child, 'exit');
  }
}
