// An installation of a benchmark's own, as durable as an operator's, so that nobody is measured without fsync.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Installation, installFinegrain } from '../test/support/installation.ts';

/** It is gone afterwards, with its folder, also when the measurement fails. */
export async function onInstallation(measure: (installation: Installation) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-bench-'));
  const settings = { fsync: 'on', synchronous_commit: 'on' };
  const installation = await installFinegrain(folder, { poolSize: 5, settings });
  try {
    await measure(installation);
  } finally {
    await installation.stop();
    await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }
}
