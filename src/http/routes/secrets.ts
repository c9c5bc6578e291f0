// /v1/secrets: values that the service uses and never shows.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import * as secrets from '../../services/secrets.ts';
import { SecretName } from '../llm-schemas.ts';
import { answerOnce } from '../plugins/idempotency.ts';
import { problemResponses, Timestamp } from '../schemas.ts';

const Secret = Type.Object(
  { name: SecretName, created_at: Timestamp, updated_at: Timestamp },
  { $id: 'Secret' },
);

const params = Type.Object({ secret_name: SecretName });

export const secretRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  app.addSchema(Secret);

  app.put(
    '/v1/secrets/:secret_name',
    {
      config: { scope: 'admin', idempotency: 'secret' },
      schema: {
        operationId: 'putSecret',
        tags: ['secrets'],
        summary: 'Set or replace a secret',
        description:
          'The value is encrypted with a key of the operator and shown by no route. 422 when the service has no such key.',
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
        response: { 200: Type.Ref('Secret'), ...problemResponses(404, 413, 415) },
      },
    },
    (request) => secrets.putSecret(services, request.caller, request.params.secret_name, request.body.value),
  );

  app.get(
    '/v1/secrets',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'listSecrets',
        tags: ['secrets'],
        summary: 'List the names of all secrets',
        description: 'When each was set; no route shows a value.',
        response: {
          200: Type.Object({ items: Type.Array(Type.Ref('Secret'), { description: 'By name' }) }),
          ...problemResponses(),
        },
      },
    },
    (request) => secrets.listSecrets(services, request.caller),
  );

  app.delete(
    '/v1/secrets/:secret_name',
    {
      config: { scope: 'admin', idempotency: 'accepted' },
      schema: {
        operationId: 'deleteSecret',
        tags: ['secrets'],
        summary: 'Delete a secret, at once and for good',
        description: 'What uses it finds none from then on.',
        params,
        response: { 204: Type.Null({ description: 'It is gone' }), ...problemResponses(404) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => {
        await secrets.deleteSecret(services, request.caller, request.params.secret_name);
        return { status: 204 };
      }),
  );
};
