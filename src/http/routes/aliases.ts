// /v1/aliases: movable names of models.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import * as models from '../../services/models.ts';
import { Id, problemResponses, secured, Timestamp } from '../schemas.ts';

const modelExample = 'model_019356f0d6e78f9a8b1c2d3e4f5a6b7c';

const AliasName = Type.String({
  pattern: '^(?!model_)[A-Za-z0-9][A-Za-z0-9._-]{0,99}$',
  description: 'Letters, digits, `.`, `_` and `-`; not like a model id',
  examples: ['token-reward'],
});

const Alias = Type.Object(
  {
    name: AliasName,
    model_id: Id(modelExample),
    default: Type.Boolean({
      description:
        'True for `token-reward` while it names the shipped sample, because the project has given it to no model of its own',
      examples: [false],
    }),
    updated_at: Timestamp,
  },
  { $id: 'Alias' },
);

const params = Type.Object({ name: AliasName });

export const aliasRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  app.addSchema(Alias);

  app.get(
    '/v1/aliases',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listAliases',
        tags: ['models'],
        summary: 'List all aliases by name',
        ...secured('read'),
        response: { 200: Type.Object({ items: Type.Array(Type.Ref('Alias')) }), ...problemResponses() },
      },
    },
    (request) => models.listAliases(services, request.caller),
  );

  app.put(
    '/v1/aliases/:name',
    {
      config: { scope: 'models:write' },
      schema: {
        operationId: 'setAlias',
        tags: ['models'],
        summary: 'Set or move an alias',
        security: [{ key: [] }],
        description:
          'Needs the scope `models:write`. From now on the name stands for this model; runs that are queued keep the model that it stood for. An alias moves between models of one role; `token-reward`, the default of scoring, takes token reward models only, and goes back to the shipped sample when it is set to that or deleted.',
        params,
        body: Type.Object({ model_id: Id(modelExample) }, { additionalProperties: false }),
        response: { 200: Type.Ref('Alias'), ...problemResponses(404, 413, 415) },
      },
    },
    (request) => models.setAlias(services, request.caller, request.params.name, request.body.model_id),
  );

  app.delete(
    '/v1/aliases/:name',
    {
      config: { scope: 'models:write' },
      schema: {
        operationId: 'deleteAlias',
        tags: ['models'],
        summary: 'Delete an alias; its model stays',
        security: [{ key: [] }],
        description:
          'Needs the scope `models:write`. `token-reward` then names the shipped sample again; 409 when it does already.',
        params,
        response: { 204: Type.Null({ description: 'It is gone' }), ...problemResponses(404, 409) },
      },
    },
    async (request, reply) => {
      await models.deleteAlias(services, request.caller, request.params.name);
      return reply.code(204).send(null);
    },
  );
};
