// What the API is made of.
import Fastify from 'fastify';
import type { Logger } from 'pino';
import { authentication } from './http/plugins/authentication.ts';
import { documentation } from './http/plugins/documentation.ts';
import { drain } from './http/plugins/drain.ts';
import { idempotency } from './http/plugins/idempotency.ts';
import { problemRendering, renderClientError } from './http/plugins/problems.ts';
import { openRateLimits, type RateLimitOptions } from './http/plugins/rate-limits.ts';
import { requestText } from './http/plugins/request-text.ts';
import { validation } from './http/plugins/validation.ts';
import { aliasRoutes } from './http/routes/aliases.ts';
import { artifactRoutes } from './http/routes/artifacts.ts';
import { auditEventRoutes } from './http/routes/audit-events.ts';
import { datasetRoutes } from './http/routes/datasets.ts';
import { editRequestRoutes } from './http/routes/edit-requests.ts';
import { editTaskRoutes } from './http/routes/edit-tasks.ts';
import { editRoutes } from './http/routes/edits.ts';
import { keyRoutes } from './http/routes/keys.ts';
import { modelRoutes } from './http/routes/models.ts';
import { pairRoutes } from './http/routes/pairs.ts';
import { projectRoutes } from './http/routes/projects.ts';
import { runRoutes } from './http/routes/runs.ts';
import { scoreRoutes } from './http/routes/score.ts';
import { secretRoutes } from './http/routes/secrets.ts';
import { serviceRoutes } from './http/routes/service.ts';
import { snapshotRoutes } from './http/routes/snapshots.ts';
import { webhookRoutes } from './http/routes/webhooks.ts';
import { winRateRoutes } from './http/routes/win-rates.ts';
import type { Services } from './services/context.ts';

export interface AppOptions {
  services: Services;
  /** the bootstrap key; null when there is none */
  bootstrapKey: string | null;
  logger?: Logger;
  rateLimits?: RateLimitOptions;
  /** addresses and networks of the proxies whose X-Forwarded-For is believed */
  trustProxy?: string[];
}

const unlimited: RateLimitOptions = { requestsPerMinute: 0, authFailuresPerMinute: 0 };

export async function buildApp({ services, bootstrapKey, logger, rateLimits, trustProxy }: AppOptions) {
  const app = Fastify({
    ...(logger ? { loggerInstance: logger } : {}),
    bodyLimit: 8 * 1024 * 1024,
    requestTimeout: 0, // an import may stream for as long as it likes; idle sockets end below
    connectionTimeout: 120_000,
    forceCloseConnections: 'idle',
    clientErrorHandler: renderClientError,
    schemaController: validation,
    routerOptions: { maxParamLength: 200 },
    trustProxy: trustProxy ?? [],
  });

  await app.register(drain);
  await app.register(problemRendering);
  await app.register(documentation);
  await app.register(requestText);
  const limits = openRateLimits(rateLimits ?? unlimited);
  await app.register(authentication, { services, bootstrapKey, limits });
  await app.register(idempotency);

  for (const routes of [
    projectRoutes,
    keyRoutes,
    auditEventRoutes,
    datasetRoutes,
    pairRoutes,
    editRoutes,
    editRequestRoutes,
    editTaskRoutes,
    snapshotRoutes,
    artifactRoutes,
    modelRoutes,
    aliasRoutes,
    scoreRoutes,
    runRoutes,
    winRateRoutes,
    webhookRoutes,
    secretRoutes,
    serviceRoutes,
  ]) {
    await app.register(routes, { services });
  }
  return app;
}
