// Health: /healthz says that the process answers, /readyz that it can do its work.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import { checkReadiness } from '../../services/readiness.ts';

const Check = Type.Object({
  ok: Type.Boolean(),
  detail: Type.Optional(Type.String({ description: 'What is wrong and what to do' })),
});
const Readiness = Type.Object(
  { ready: Type.Boolean(), checks: Type.Object({ database: Check, migrations: Check, artifacts: Check }) },
  {
    $id: 'Readiness',
    examples: [
      { ready: true, checks: { database: { ok: true }, migrations: { ok: true }, artifacts: { ok: true } } },
    ],
  },
);

export const serviceRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  app.addSchema(Readiness);

  app.get(
    '/healthz',
    {
      config: { scope: 'public' },
      logLevel: 'warn',
      schema: {
        operationId: 'healthz',
        tags: ['service'],
        summary: 'The process answers',
        response: { 200: Type.Object({ status: Type.Enum(['ok']) }) },
      },
    },
    async () => ({ status: 'ok' as const }),
  );

  app.get(
    '/readyz',
    {
      config: { scope: 'public' },
      logLevel: 'warn',
      schema: {
        operationId: 'readyz',
        tags: ['service'],
        summary: 'The service can do its work',
        response: { 200: Type.Ref('Readiness'), 503: Type.Ref('Readiness') },
      },
    },
    async (_request, reply) => {
      const readiness = await checkReadiness(services);
      return reply.code(readiness.ready ? 200 : 503).send(readiness);
    },
  );
};
