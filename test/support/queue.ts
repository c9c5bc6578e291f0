// Runs in the queue and runners that claim them, through the statements alone: no HTTP, no runner process.
import { randomUUID } from 'node:crypto';
import type { Transaction } from '../../src/db/pool.ts';
import { type ClaimRow, claimRun, registerRunner } from '../../src/db/run-execution.ts';
import { insertRun } from '../../src/db/runs.ts';

type NewRow = Parameters<typeof insertRun>[1];

/** An sft run that asks for nothing in particular. */
export async function queueRow(
  tx: Transaction,
  projectId: string,
  id: string,
  settings: Partial<NewRow> = {},
): Promise<void> {
  await insertRun(tx, {
    projectId,
    id,
    kind: 'sft',
    spec: {},
    inputs: {},
    hardware: 'cpu',
    labels: [],
    priority: 0,
    timeLimitSeconds: null,
    maxAttempts: 3,
    after: [],
    ...settings,
  });
}

export interface ClaimSettings {
  leaseSeconds?: number;
  hardware?: string[];
  labels?: string[];
}

/** The claim of a runner that nobody has seen before. */
export async function claimAs(
  tx: Transaction,
  name = 'one',
  { leaseSeconds = 60, hardware = ['cpu'], labels = [] }: ClaimSettings = {},
): Promise<ClaimRow | undefined> {
  const id = randomUUID();
  const runner = { id, name, hardware, labels, devices: [], version: '0', leaseSeconds, pollSeconds: 10 };
  await registerRunner(tx, runner);
  return claimRun(tx, id);
}
