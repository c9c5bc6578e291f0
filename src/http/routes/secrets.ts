// /v1/secrets: values that the service uses and never shows.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import * as secrets from '../../services/secrets.ts';
import { problemResponses, secured, Timestamp } from '../schemas.ts';

const SecretName = Type.String({
  pattern: '^[a-z0-9][a-z0-9_-]{0,62}$',
  description: 'Small letters, digits, `_` and `-`',
  examples: ['llm-api-key'],
});

const Secret = Type.Object(
  { name: SecretName, created_at: Timestamp, updated_at: Timestamp },
  { $id: 'Secret' },
);

const params = Type.Object({ name: SecretName });

export const secretRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  app.addSchema(Secret);

  app.put(
    '/v1/secrets/:name',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'putSecret',
        tags: ['secrets'],
        summary: 'Set or replace a secret',
        security: [{ key: [] }],
        description:
          'Needs the scope `admin`. The value is encrypted with a key of the operator and shown by no route. 422 when the service has no such key.',
        params,
        body: Type.Object(
          {
            value: Type.String({
              minLength: 1,
              maxLength: 10_000,
              description: 'As it is to be used',
              examples: ['sk-0123456789abcdef'],
            }),
          },
          { additionalProperties: false },
        ),
        response: { 200: Type.Ref('Secret'), ...problemResponses(413, 415, 422) },
      },
    },
    (request) => secrets.putSecret(services, request.caller, request.params.name, request.body.value),
  );

  app.get(
    '/v1/secrets',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'listSecrets',
        tags: ['secrets'],
        summary: 'List the names of all secrets',
        ...secured('admin'),
        response: {
          200: Type.Object({ items: Type.Array(Type.Ref('Secret'), { description: 'By name' }) }),
          ...problemResponses(),
        },
      },
    },
    (request) => secrets.listSecrets(services, request.caller),
  );

  app.delete(
    '/v1/secrets/:name',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'deleteSecret',
        tags: ['secrets'],
        summary: 'Delete a secret, at once and for good',
        ...secured('admin'),
        params,
        response: { 204: Type.Null({ description: 'It is gone' }), ...problemResponses(404) },
      },
    },
    async (request, reply) => {
      await secrets.deleteSecret(services, request.caller, request.params.name);
      return reply.code(204).send(null);
    },
  );
};
