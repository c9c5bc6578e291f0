// The runner, on the machine that trains: takes runs from Postgres and executes them with the Python trainer, one at a
// time. `--once`: takes one run, if there is one, and ends.
//
// Exit code 0: it was asked to stop (what it had taken is queued again, with a checkpoint), or, with --once, the run that
// it took has ended, however, or there was none. 1: it could not work at all, or not to the end of its one run.
import { readFileSync } from 'node:fs';
import { v7 as uuidv7 } from 'uuid';
import { readConfig } from './config.ts';
import { openDatabase } from './db/pool.ts';
import { createLogger, runMain, untilStopped } from './process.ts';
import { openDoorbell, runRunner } from './runner/loop.ts';
import { checkTrainer } from './runner/trainer-check.ts';
import { listenForRuns } from './services/run-execution.ts';
import { openArtifacts } from './storage/artifact-place.ts';

/** of the package, for the list of runners */
const { version }: { version: string } = JSON.parse(
  readFileSync(new URL('../package.json', import.meta.url), 'utf8'),
);

async function main(): Promise<void> {
  const { databaseDirectUrl, dataDir, artifacts, artifactCache, runner, logLevel } = readConfig();
  if (databaseDirectUrl === null)
    throw new Error('Set DATABASE_DIRECT_URL or DATABASE_URL: a runner works beside an API.');
  const log = createLogger('runner', logLevel);
  const stop = new AbortController();
  void untilStopped().then((reason) => {
    log.info({ reason }, 'stopping');
    stop.abort();
  });
  const devices = await checkTrainer(runner);
  if (devices.length > 0) log.info({ devices }, 'the GPUs of this runner');

  const onError = (err: Error) => log.warn({ err }, 'a database connection broke');
  const db = openDatabase(databaseDirectUrl, 'finegrain_runner', { max: 4, onError });
  const doorbell = openDoorbell();
  const stopListening = listenForRuns(databaseDirectUrl, doorbell.wake, onError);
  try {
    await runRunner(
      { db, artifacts: await openArtifacts(artifacts, artifactCache), modelCache: `${dataDir}/models` },
      {
        ...runner,
        id: uuidv7(),
        devices,
        version,
        workFolders: `${dataDir}/runs`,
        once: process.argv.includes('--once'),
      },
      doorbell,
      stop.signal,
      log,
    );
  } finally {
    await stopListening();
    await db.close();
  }
}

runMain(main);
