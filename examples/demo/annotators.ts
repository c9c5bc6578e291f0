// The annotators of the demo: other programs, each in a process of its own, that claim their work over HTTP. They get
// the URL, an edit request and a key that may read pairs and write edits, nothing else.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { createClient } from '../client.ts';
import type { Service } from './service.ts';
import type { StageProgress } from './terminal.ts';

const names = ['annotator-1', 'annotator-2', 'annotator-3'];

interface Progress {
  claimed: number;
  edited: number;
  skipped: number;
}

/** Has every pair of a dataset edited. Pairs that every annotator skips stay without an edit. */
export async function annotateAll(
  service: Pick<Service, 'url' | 'key'>,
  datasetId: string,
  seed: number,
  report: (progress: StageProgress) => void,
  signal: AbortSignal,
): Promise<{ edited: number; pairs: number }> {
  const { request } = createClient(service.url, service.key);
  const scopes = ['read', 'edits:write'];
  const { key } = await request('POST', '/v1/keys', { name: 'demo annotators', scopes });
  const { id, pairs } = await request('POST', '/v1/edit-requests', {
    dataset_id: datasetId,
    editor: 'program',
    instructions: 'Change as little as makes the response right.',
  });
  const started = performance.now();
  const progress: Progress[] = names.map(() => ({ claimed: 0, edited: 0, skipped: 0 }));
  const edited = (): number => progress.reduce((sum, one) => sum + one.edited, 0);
  const told = (index: number, line: string): void => {
    progress[index] = JSON.parse(line);
    // a pair that is skipped comes to every annotator
    const skips = progress.reduce((sum, one) => sum + one.skipped, 0);
    const fraction = (edited() + skips / names.length) / pairs;
    report({
      fraction,
      etaSeconds: fraction > 0 ? ((performance.now() - started) / 1000) * (1 / fraction - 1) : null,
      note: `${edited()} edits by ${names.length} annotators`,
    });
  };
  const env = { PATH: process.env.PATH, FINEGRAIN_URL: service.url, FINEGRAIN_API_KEY: key };
  const stop = new AbortController(); // one that fails ends the others
  const either = AbortSignal.any([signal, stop.signal]);
  try {
    await Promise.all(
      names.map((name, index) =>
        annotator([id, String(seed), name], env, (line) => told(index, line), either).catch((error) => {
          stop.abort();
          throw error;
        }),
      ),
    );
  } finally {
    await request('POST', `/v1/edit-requests/${id}/cancel`); // what everybody skipped, or an interrupt left
  }
  return { edited: edited(), pairs };
}

/** Runs `examples/annotate.ts` to its end. */
async function annotator(
  args: string[],
  env: NodeJS.ProcessEnv,
  onLine: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const program = spawn(process.execPath, ['dist/examples/annotate.js', ...args], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
    signal,
  });
  const ended = new Promise<number | null>((done, failed) => {
    program.once('error', failed);
    program.once('close', done);
  });
  createInterface({ input: program.stdout }).on('line', onLine);
  const code = await ended;
  if (code !== 0) throw new Error(`examples/annotate.ts ended with ${code}`);
}
