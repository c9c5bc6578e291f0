// The API. With DATABASE_URL: one stateless process. Without: embedded Postgres, worker and CPU runner beside it.

import { setTimeout as sleep } from 'node:timers/promises';
import { readBootstrapKey } from './admin-key.ts';
import { buildApp } from './app.ts';
import { type Config, readConfig } from './config.ts';
import { openDatabase } from './db/pool.ts';
import { type EmbeddedStack, startEmbeddedStack } from './embedded.ts';
import { openOutgoingClient } from './outgoing/client.ts';
import { createLogger, runMain, untilStopped } from './process.ts';
import { openScoringEngine } from './scoring/engine.ts';
import { findSecretKey } from './secret-key.ts';
import { openCursors } from './services/cursors.ts';
import { modelServerAccess } from './services/model-servers.ts';
import { openSampleModel, shippedSampleFolder } from './services/sample-model.ts';
import { secretKeys } from './services/sealing.ts';
import { openArtifacts } from './storage/artifact-place.ts';

async function main(): Promise<void> {
  const given = readConfig();
  const config = { ...given, secretKey: await findSecretKey(given) };
  const logger = createLogger('api', config.logLevel);
  const stopped = untilStopped();
  const stack = config.databaseUrl === null ? await startEmbeddedStack(config, logger) : null;
  try {
    await serve(config, stack, logger, stopped);
  } finally {
    await stack?.stop();
  }
}

async function serve(
  config: Config,
  stack: EmbeddedStack | null,
  logger: ReturnType<typeof createLogger>,
  stopped: Promise<string>,
): Promise<void> {
  const url = stack?.apiDatabaseUrl ?? config.databaseUrl!;
  const { key, announced } = await readBootstrapKey(config);
  const db = openDatabase(url, 'finegrain_api', {
    onError: (err) => logger.warn({ err }, 'a database connection broke'),
  });
  const artifacts = await openArtifacts(config.artifacts, config.artifactCache);
  const outgoing = openOutgoingClient({ allow: config.outgoingAllow });
  const calling = {
    db,
    outgoing,
    secretKeys: config.secretKey && secretKeys(config.secretKey, config.previousSecretKeys),
  };
  const scoring = openScoringEngine({
    modelCacheFolder: `${config.dataDir}/models`,
    artifacts,
    servers: modelServerAccess(calling),
    log: logger,
    ahead: true,
    ...config.scoring,
  });
  const app = await buildApp({
    services: {
      ...calling,
      artifacts,
      cursors: openCursors(),
      scoring,
      sample: await openSampleModel(shippedSampleFolder, artifacts),
    },
    bootstrapKey: key,
    logger,
    rateLimits: config.rateLimits,
    trustProxy: config.trustProxy,
    corsOrigins: config.corsOrigins,
    metricsKey: config.metricsKey,
  });
  try {
    const address = await app.listen({ host: config.host, port: config.port }).catch((error) => {
      if (error.code !== 'EADDRINUSE') throw error;
      throw new Error(`Port ${config.port} of ${config.host} is in use. Set PORT to another one.`);
    });
    logger.info(`finegrain listens at ${address}, documentation at ${address}/docs`);
    process.stdout.write(
      `finegrain is ready at ${address}   documentation: ${address}/docs\nAPI key: ${announced}\n`,
    );
    const reason = await Promise.race(stack ? [stopped, stack.broken] : [stopped]);
    logger.info({ reason }, 'stopping');
    app.beginDrain();
    await sleep(config.drainSeconds * 1000);
  } finally {
    await app.close();
    await scoring.close();
    await outgoing.close();
    await db.close();
  }
}

runMain(main);
