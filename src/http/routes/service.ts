// Operation: /healthz says that the process answers, /readyz that it can do its work, /metrics how it does.
import { createHash, timingSafeEqual } from 'node:crypto';
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyReply } from 'fastify';
import { Type } from 'typebox';
import { Problem } from '../../errors.ts';
import type { Services } from '../../services/context.ts';
import { checkReadiness } from '../../services/readiness.ts';
import { problemResponses } from '../schemas.ts';

const Check = Type.Object({
  ok: Type.Boolean({ examples: [true] }),
  detail: Type.Optional(
    Type.String({
      description: 'What is wrong and what to do, or what else there is to say',
      examples: ['loads when it is first needed'],
    }),
  ),
});
const Readiness = Type.Object(
  {
    ready: Type.Boolean({
      description: 'All checks hold, and the service is not about to stop',
      examples: [true],
    }),
    draining: Type.Boolean({
      description: 'The service was asked to stop: requests still are answered, but send new ones elsewhere',
      examples: [false],
    }),
    checks: Type.Object({
      database: { ...Check, description: 'The database answers' },
      migrations: { ...Check, description: 'Its schema is that of this version' },
      artifacts: { ...Check, description: 'Artifacts can be stored' },
      model: { ...Check, description: 'The model that scores by default can be served' },
    }),
  },
  {
    $id: 'Readiness',
    examples: [
      {
        ready: true,
        draining: false,
        checks: {
          database: { ok: true },
          migrations: { ok: true },
          artifacts: { ok: true },
          model: { ok: true, detail: 'loads when it is first needed' },
        },
      },
    ],
  },
);

const sha256 = (text: string): Buffer => createHash('sha256').update(text).digest();

/** @throws Problem unauthenticated */
function checkMetricsKey(key: string, authorization: string | undefined, reply: FastifyReply): void {
  const given = /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1] ?? '';
  if (timingSafeEqual(sha256(given), sha256(key))) return;
  reply.header('www-authenticate', 'Bearer realm="finegrain metrics"');
  throw new Problem(
    'unauthenticated',
    'Send the key of FINEGRAIN_METRICS_KEY as "Authorization: Bearer KEY".',
  );
}

export const serviceRoutes: FastifyPluginAsyncTypebox<{
  services: Services;
  /** that /metrics asks for; null: none */
  metricsKey: string | null;
}> = async (app, { services, metricsKey }) => {
  app.addSchema(Readiness);

  app.get(
    '/healthz',
    {
      config: { scope: 'public', quiet: true },
      schema: {
        operationId: 'healthz',
        tags: ['service'],
        summary: 'The process answers',
        description:
          'Says nothing of the database: restart a process that does not answer here, and send requests to one that `/readyz` calls ready.',
        response: { 200: Type.Object({ status: Type.Enum(['ok']) }) },
      },
    },
    async () => ({ status: 'ok' as const }),
  );

  app.get(
    '/readyz',
    {
      config: { scope: 'public', quiet: true },
      schema: {
        operationId: 'readyz',
        tags: ['service'],
        summary: 'The service can do its work',
        description:
          'For balancers: 503 while a check fails, and from the moment that the service is asked to stop. Each check takes 3 s at most.',
        response: { 200: Type.Ref('Readiness'), 503: Type.Ref('Readiness') },
      },
    },
    async (_request, reply) => {
      const { ready, checks } = await checkReadiness(services);
      const draining = app.isDraining;
      const works = ready && !draining;
      return reply.code(works ? 200 : 503).send({ ready: works, draining, checks });
    },
  );

  app.get(
    '/metrics',
    {
      config: { scope: 'public', quiet: true },
      schema: {
        operationId: 'metrics',
        tags: ['service'],
        summary: 'How the service does, for Prometheus',
        description:
          'The text format 0.0.4. Requests by route, queues of runs and jobs, scoring, the database pool, the process. Needs a key only where the operator has set `FINEGRAIN_METRICS_KEY`. Answers with `finegrain_database_up 0` while the database cannot be reached.',
        response: {
          200: {
            description: 'Families of samples',
            content: {
              'text/plain': {
                schema: Type.String({ examples: ['finegrain_http_requests_in_flight 1\n'] }),
              },
            },
          },
          401: problemResponses()[401],
        },
      },
    },
    async (request, reply) => {
      if (metricsKey !== null)
        checkMetricsKey(metricsKey, request.headers.authorization, reply as FastifyReply);
      reply.type(app.metrics.contentType);
      return app.metrics.text();
    },
  );
};
