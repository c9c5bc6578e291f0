// What the API is made of.
import Fastify from 'fastify';
import type { Logger } from 'pino';
import type { PooledDatabase } from './db/pool.ts';
import { answerConnect, brokenRequestHandler } from './http/broken-requests.ts';
import { type ConnectionLimits, connectionLimits } from './http/limits.ts';
import { authentication } from './http/plugins/authentication.ts';
import { compression } from './http/plugins/compression.ts';
import { crossOrigin } from './http/plugins/cross-origin.ts';
import { documentation } from './http/plugins/documentation.ts';
import { drain } from './http/plugins/drain.ts';
import { exchanges } from './http/plugins/exchanges.ts';
import { idempotency } from './http/plugins/idempotency.ts';
import { jsonBodies } from './http/plugins/json-bodies.ts';
import { messageChecks, routableUrl } from './http/plugins/message-checks.ts';
import { metrics } from './http/plugins/metrics.ts';
import { negotiation } from './http/plugins/negotiation.ts';
import { problemRendering } from './http/plugins/problems.ts';
import { openRateLimits, type RateLimitOptions } from './http/plugins/rate-limits.ts';
import { requestBodies } from './http/plugins/request-bodies.ts';
import { requestId, requestIdentity } from './http/plugins/request-identity.ts';
import { quietLogController, requestLog } from './http/plugins/request-log.ts';
import { requestText } from './http/plugins/request-text.ts';
import { routeMethods } from './http/plugins/route-methods.ts';
import { unknownRoutes } from './http/plugins/unknown-routes.ts';
import { validation } from './http/plugins/validation.ts';
import { agreementRoutes } from './http/routes/agreement.ts';
import { aliasRoutes } from './http/routes/aliases.ts';
import { artifactUploadRoutes } from './http/routes/artifact-uploads.ts';
import { artifactRoutes } from './http/routes/artifacts.ts';
import { auditEventRoutes } from './http/routes/audit-events.ts';
import { compatibleRoutes } from './http/routes/compatible.ts';
import { datasetRoutes } from './http/routes/datasets.ts';
import { editRequestRoutes } from './http/routes/edit-requests.ts';
import { editTaskRoutes } from './http/routes/edit-tasks.ts';
import { editRoutes } from './http/routes/edits.ts';
import { evaluationRoutes } from './http/routes/evaluations.ts';
import { judgementTaskRoutes } from './http/routes/judgement-tasks.ts';
import { keyRoutes } from './http/routes/keys.ts';
import { modelRoutes } from './http/routes/models.ts';
import { pairRoutes } from './http/routes/pairs.ts';
import { projectRoutes } from './http/routes/projects.ts';
import { runWatchingRoutes } from './http/routes/run-watching.ts';
import { runnerRoutes } from './http/routes/runners.ts';
import { runRoutes } from './http/routes/runs.ts';
import { scoreRoutes } from './http/routes/score.ts';
import { scoreJobRoutes } from './http/routes/score-jobs.ts';
import { secretRoutes } from './http/routes/secrets.ts';
import { serviceRoutes } from './http/routes/service.ts';
import { snapshotRoutes } from './http/routes/snapshots.ts';
import { tokenizeRoutes } from './http/routes/tokenize.ts';
import { webhookRoutes } from './http/routes/webhooks.ts';
import { winRateRoutes } from './http/routes/win-rates.ts';
import type { Services } from './services/context.ts';
import { operatingFigures } from './services/operating-figures.ts';
import { type StreamSettings, streamSettings } from './services/run-stream.ts';

export interface AppOptions {
  services: Services & { db: PooledDatabase };
  /** the bootstrap key; null when there is none */
  bootstrapKey: string | null;
  logger?: Logger;
  /** whose scripts may read answers; none by default */
  corsOrigins?: string[];
  /** that /metrics asks for; null: none */
  metricsKey?: string | null;
  limits?: Partial<ConnectionLimits>;
  rateLimits?: RateLimitOptions;
  /** addresses and networks of the proxies whose X-Forwarded-For is believed */
  trustProxy?: string[];
  /** of the streams of run events */
  streams?: Partial<StreamSettings>;
}

const unlimited: RateLimitOptions = { requestsPerMinute: 0, authFailuresPerMinute: 0 };

export async function buildApp({
  services,
  bootstrapKey,
  logger,
  corsOrigins = [],
  metricsKey = null,
  limits: changedLimits,
  rateLimits = unlimited,
  trustProxy = [],
  streams: changedStreams,
}: AppOptions) {
  const limits = { ...connectionLimits, ...changedLimits };
  const app = Fastify({
    ...(logger ? { loggerInstance: logger } : {}),
    logController: quietLogController,
    genReqId: requestId,
    bodyLimit: 8 * 1024 * 1024,
    http: {
      maxHeaderSize: limits.headBytes,
      headersTimeout: limits.headMs,
      connectionsCheckingInterval: limits.headMs / 4,
      keepAlive: true, // of TCP: a client that vanished in silence is found out
      requireHostHeader: false, // messageChecks answers it with a problem
    },
    requestTimeout: 0, // an import may stream for as long as it likes; requestBodies bounds its silence
    connectionTimeout: limits.silenceMs,
    forceCloseConnections: 'idle',
    return503OnClosing: false, // what still comes over a connection that is about to be closed is answered
    clientErrorHandler: brokenRequestHandler(limits),
    rewriteUrl: routableUrl,
    schemaController: validation,
    routerOptions: { maxParamLength: limits.targetLength },
    trustProxy,
  });

  // in the order in which they see a request
  await app.register(exchanges, { limits });
  await app.register(requestIdentity);
  await app.register(drain);
  await app.register(problemRendering);
  await app.register(requestLog);
  await app.register(metrics, {
    scoring: services.scoring,
    readFigures: operatingFigures(services.db),
    connections: () => services.db.connections(),
  });
  await app.register(crossOrigin, { origins: corsOrigins });
  await app.register(requestBodies, { limits });
  await app.register(answerConnect, { limits });
  await app.register(messageChecks, { limits });
  await app.register(routeMethods);
  await app.register(unknownRoutes);
  await app.register(documentation);
  await app.register(jsonBodies);
  await app.register(requestText);
  const rates = openRateLimits(rateLimits);
  await app.register(authentication, { services, bootstrapKey, limits: rates });
  await app.register(negotiation);
  await app.register(idempotency);
  await app.register(compression);

  for (const routes of [
    projectRoutes,
    keyRoutes,
    auditEventRoutes,
    datasetRoutes,
    pairRoutes,
    editRoutes,
    agreementRoutes,
    editRequestRoutes,
    editTaskRoutes,
    snapshotRoutes,
    artifactRoutes,
    artifactUploadRoutes,
    modelRoutes,
    aliasRoutes,
    scoreRoutes,
    tokenizeRoutes,
    compatibleRoutes,
    scoreJobRoutes,
    runRoutes,
    runnerRoutes,
    winRateRoutes,
    evaluationRoutes,
    judgementTaskRoutes,
    webhookRoutes,
    secretRoutes,
    serviceRoutes,
  ]) {
    await app.register(routes, { services, metricsKey });
  }
  await app.register(runWatchingRoutes, { services, streams: { ...streamSettings, ...changedStreams } });
  return app;
}
