// The worker: light jobs of graphile-worker, and what has to happen by the clock.
import { Logger as JobLogger, type LogFunctionFactory, run } from 'graphile-worker';
import pg from 'pg';
import { readConfig } from './config.ts';
import { openDatabase } from './db/pool.ts';
import * as collecting from './jobs/collect-artifacts.ts';
import * as deleting from './jobs/delete-old-deliveries.ts';
import { deliverWebhookTask } from './jobs/deliver-webhook.ts';
import { editWithLlmTask } from './jobs/edit-with-llm.ts';
import * as forgetting from './jobs/forget-answers.ts';
import * as reaping from './jobs/reap-lost-attempts.ts';
import * as trimming from './jobs/trim-runs.ts';
import { workOnEvaluationTask } from './jobs/work-on-evaluation.ts';
import { workOnScoreJobTask } from './jobs/work-on-score-job.ts';
import { openOutgoingClient } from './outgoing/client.ts';
import { createLogger, runMain, untilStopped } from './process.ts';
import { openScoringEngine } from './scoring/engine.ts';
import { collectArtifacts } from './services/artifact-collection.ts';
import { evaluationSlice } from './services/evaluation-work.ts';
import { forgetAnswers } from './services/idempotency.ts';
import { editSlice } from './services/llm-editing.ts';
import { judgeSlice } from './services/llm-judging.ts';
import { modelServerAccess } from './services/model-servers.ts';
import { reapLostAttempts } from './services/run-execution.ts';
import { trimRuns } from './services/run-retention.ts';
import { openSampleModel, shippedSampleFolder } from './services/sample-model.ts';
import { scoreSlice } from './services/score-job-work.ts';
import { secretKeys } from './services/sealing.ts';
import { attemptDelivery, deleteOldDeliveries } from './services/webhook-delivery.ts';
import { openArtifacts } from './storage/artifact-place.ts';

async function main(): Promise<void> {
  const config = readConfig();
  const { databaseDirectUrl, logLevel, secretKey, previousSecretKeys, outgoingAllow, runRetention } = config;
  if (databaseDirectUrl === null)
    throw new Error('Set DATABASE_DIRECT_URL or DATABASE_URL: a worker works beside an API.');
  const log = createLogger('worker', logLevel);
  const stopped = untilStopped();
  const onError = (err: Error) => log.warn({ err }, 'a database connection broke');
  const db = openDatabase(databaseDirectUrl, 'finegrain_system', { max: 8, onError });
  const outgoing = openOutgoingClient({ allow: outgoingAllow });
  const calling = { db, outgoing, secretKeys: secretKey && secretKeys(secretKey, previousSecretKeys) };
  const artifacts = await openArtifacts(config.artifacts, config.artifactCache);
  const { crontab: collectionTimes, graceHours } = config.artifactCollection;
  const sample = await openSampleModel(shippedSampleFolder, artifacts);
  const collection = {
    graceSeconds: graceHours * 3600,
    spared: new Set(sample?.row.files.map(({ digest }) => digest)),
  };
  // starts no process before a job needs one, and one at a time, beside which an API on this machine still scores
  const scoring = openScoringEngine({
    modelCacheFolder: `${config.dataDir}/models`,
    artifacts,
    servers: modelServerAccess(calling),
    log,
    maxScorers: 1,
    memoryBytes: config.scoring.memoryBytes,
    provider: config.scoring.provider,
    idleMs: 60_000,
  });
  const scorers = { db, artifacts, scoring };
  // graphile-worker's tables are for their owner only
  const pool = new pg.Pool({
    connectionString: databaseDirectUrl,
    max: 12,
    options: '-c role=finegrain_system',
    application_name: 'finegrain_worker',
  });
  pool.on('error', onError);
  pool.on('connect', (client) => client.on('error', onError));
  try {
    const logger = new JobLogger(logWith(log));
    const worker = await run({
      pgPool: pool,
      concurrency: 8, // most of a webhook's job is waiting for its receiver
      noHandleSignals: true,
      taskList: {
        'reap-lost-attempts': reaping.reapLostAttemptsTask(() => reapLostAttempts(db)),
        'forget-answers': forgetting.forgetAnswersTask(() => forgetAnswers(db)),
        'deliver-webhook': deliverWebhookTask((key) => attemptDelivery(calling, key)),
        'trim-runs': trimming.trimRunsTask(() => trimRuns(db, runRetention)),
        'delete-old-deliveries': deleting.deleteOldDeliveriesTask(() => deleteOldDeliveries(calling)),
        'collect-artifacts': collecting.collectArtifactsTask(() =>
          collectArtifacts({ db, artifacts }, collection),
        ),
      },
      crontab: [
        ...[reaping, forgetting, trimming, deleting].map(({ crontab }) => crontab),
        ...(collectionTimes === null ? [] : [collecting.crontab(collectionTimes)]),
      ].join('\n'),
      logger,
    });
    // beside the others, which would wait for a slice of half a minute to end
    const models = await run({
      pgPool: pool,
      concurrency: 4,
      noHandleSignals: true,
      taskList: {
        'edit-with-llm': editWithLlmTask((key, signal) => editSlice(calling, key, signal)),
        'judge-with-llm': workOnEvaluationTask((key, signal) => judgeSlice(calling, key, signal)),
      },
      parsedCronItems: [],
      logger,
    });
    // one slice at a time, in turns: there is one scorer
    const scorer = await run({
      pgPool: pool,
      concurrency: 1,
      noHandleSignals: true,
      taskList: {
        'work-on-score-job': workOnScoreJobTask((key, signal) => scoreSlice(scorers, key, signal)),
        'work-on-evaluation': workOnEvaluationTask((key, signal) => evaluationSlice(scorers, key, signal)),
      },
      parsedCronItems: [],
      logger,
    });
    const all = [worker, models, scorer];
    log.info('the worker takes jobs');
    const ended = Promise.race(all.map(({ promise }) => promise)).then(() => {
      throw new Error('The worker ended by itself.'); // and not with 0: whoever watches must start it again
    });
    log.info({ reason: await Promise.race([stopped, ended]) }, 'stopping');
    ended.catch(() => {}); // from here on it is asked to
    await Promise.all(all.map((runner) => runner.stop()));
    await Promise.all(all.map(({ promise }) => promise));
  } finally {
    await scoring.close();
    await pool.end();
    await outgoing.close();
    await db.close();
  }
}

const levels = { error: 'error', warning: 'warn', info: 'debug', debug: 'trace' } as const;

/** graphile-worker tells every job at its level `info`. */
function logWith(log: ReturnType<typeof createLogger>): LogFunctionFactory {
  return () => (level, message) => log[levels[level]](message);
}

runMain(main);
