// The runner, on the machine that trains: takes runs from Postgres and executes them with the Python trainer, one at a
// time. `--once`: takes one run, if there is one, and ends.
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { v7 as uuidv7 } from 'uuid';
import { readConfig } from './config.ts';
import { openDatabase } from './db/pool.ts';
import { createLogger, runMain, untilStopped } from './process.ts';
import { openDoorbell, runRunner } from './runner/loop.ts';
import { trainerEnvironment } from './runner/trainer-process.ts';
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
  await checkTrainer(runner.python, runner.trainerEnvironment);

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
        devices: [],
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

/** A runner that cannot train would fail every run that it takes. */
async function checkTrainer(python: string, environment: Record<string, string>): Promise<void> {
  const options = { env: trainerEnvironment(environment), timeout: 60_000 };
  await promisify(execFile)(python, ['-c', 'import finegrain_trainer.spec'], options).catch(
    (error: Error) => {
      throw new Error(
        `The trainer cannot be started with ${python}: ${error.message}\nSet FINEGRAIN_PYTHON to a Python with runners/requirements.lock installed.`,
      );
    },
  );
}

runMain(main);
