// Runs over the API: queue them, follow them to their end, several side by side.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '../client.ts';
import type { StageProgress } from './terminal.ts';

export interface RunRequest {
  kind: 'sft' | 'reward' | 'dpo' | 'ppo' | 'generate';
  spec: object;
}

export interface FinishedRun {
  id: string;
  kind: string;
  // biome-ignore lint/suspicious/noExplicitAny: as queued, with the defaults written out
  spec: any;
  model_id: string;
  // biome-ignore lint/suspicious/noExplicitAny: each kind of run has its own result, described in the OpenAPI document
  result: any;
  artifacts: { name: string; digest: string }[];
}

const finalStates = ['succeeded', 'failed', 'cancelled'];

/**
 * Queues runs by name and follows them until all have succeeded.
 * @throws Error when one fails or the signal aborts; the others are cancelled then, else the next start would go on with them
 */
export async function runAll<Name extends string>(
  client: Client,
  requests: Record<Name, RunRequest>,
  report: (progress: StageProgress) => void,
  signal: AbortSignal,
): Promise<Record<Name, FinishedRun>> {
  const names = Object.keys(requests) as Name[];
  const queued = await Promise.all(names.map((name) => client.request('POST', '/v1/runs', requests[name])));
  const started = performance.now();
  let runs = queued;
  try {
    while (!runs.every(({ state }) => state === 'succeeded')) {
      signal.throwIfAborted();
      const ended = runs.find(({ state }) => state === 'failed' || state === 'cancelled');
      if (ended) throw new Error(failureOf(ended));
      await sleep(250);
      runs = await Promise.all(
        runs.map((run) =>
          finalStates.includes(run.state) ? run : client.request('GET', `/v1/runs/${run.id}`),
        ),
      );
      report(progressOf(names, runs, (performance.now() - started) / 1000));
    }
  } catch (error) {
    const open = runs.filter(({ state }) => !finalStates.includes(state));
    await Promise.all(open.map(({ id }) => client.request('POST', `/v1/runs/${id}/cancel`)));
    throw error;
  }
  return Object.fromEntries(names.map((name, index) => [name, runs[index]])) as Record<Name, FinishedRun>;
}

interface OpenRun {
  state: string;
  progress: { stage: string; fraction: number } | null;
}

function progressOf(names: string[], runs: OpenRun[], seconds: number): StageProgress {
  const shares = runs.map(({ state, progress }) => (state === 'succeeded' ? 1 : (progress?.fraction ?? 0)));
  const fraction = shares.reduce((sum, share) => sum + share, 0) / runs.length;
  const words = runs.map(({ state, progress }, index) => {
    const share = `${Math.round(shares[index]! * 100)} %`;
    const now =
      state === 'succeeded' ? 'done' : state === 'running' && progress ? `${progress.stage} ${share}` : state;
    return runs.length === 1 ? now : `${names[index]}: ${now}`;
  });
  return {
    fraction,
    etaSeconds: fraction > 0.02 ? seconds * (1 / fraction - 1) : null,
    note: words.join(', '),
  };
}

function failureOf(run: {
  id: string;
  kind: string;
  state: string;
  failure: { reason: string; detail: string; log_tail?: string[] } | null;
}): string {
  const { reason, detail, log_tail = [] } = run.failure ?? { reason: run.state, detail: '' };
  return `The ${run.kind} run ${run.id} ${run.state}: ${reason}. ${detail}\n${log_tail.slice(-20).join('\n')}`;
}

/** The rows of a run's NDJSON artifact. */
// biome-ignore lint/suspicious/noExplicitAny: each artifact has its own columns
export function artifactRows(client: Client, run: FinishedRun, name: string): Promise<any[]> {
  const { digest } = run.artifacts.find((artifact) => artifact.name === name)!;
  return client.download(`/v1/artifacts/${digest}`);
}
