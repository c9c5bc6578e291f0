// The work folders of attempts, below one folder that the runners of a machine may share. One that was killed leaves its
// folder behind; the others, or its successor, remove it once the database says that the attempt has ended.
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type AttemptName, endedAttempts, type RunnerServices } from '../services/run-execution.ts';

export function workFolderOf(parent: string, { runId, fence }: AttemptName): string {
  return join(parent, `${runId}-${fence}`);
}

/** Removes the folders of attempts that have ended. */
export async function sweepWorkFolders(services: RunnerServices, parent: string): Promise<void> {
  const left = (await readdir(parent).catch(noneIfAbsent)).flatMap((name) => {
    const [, runId, fence] = /^(run_[0-9a-f]{32})-(\d+)$/.exec(name) ?? [];
    return runId ? [{ runId, fence: Number(fence) }] : [];
  });
  if (left.length === 0) return;
  for (const attempt of await endedAttempts(services, left))
    await rm(workFolderOf(parent, attempt), { recursive: true, force: true, maxRetries: 3 });
}

function noneIfAbsent(error: NodeJS.ErrnoException): string[] {
  if (error.code === 'ENOENT') return [];
  throw error;
}
