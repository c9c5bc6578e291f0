// /v1/aliases: movable names of models.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import * as models from '../../services/models.ts';
import {
  IfMatch,
  IfNoneMatch,
  ifNoneMatchHeaders,
  notModified,
  preconditionOf,
  sendTagged,
  Tagged,
  tagged,
} from '../etags.ts';
import { answerOnce } from '../plugins/idempotency.ts';
import { Id, problemResponses, Timestamp } from '../schemas.ts';

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
        description: 'Which model each name stands for now; `default` marks the sample under `token-reward`.',
        response: { 200: Type.Object({ items: Type.Array(Type.Ref('Alias')) }), ...problemResponses() },
      },
    },
    (request) => models.listAliases(services, request.caller),
  );

  app.get(
    '/v1/aliases/:name',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getAlias',
        tags: ['models'],
        summary: 'Get an alias',
        description: 'Which model it stands for now.',
        params,
        headers: ifNoneMatchHeaders,
        response: { 200: Tagged(Type.Ref('Alias')), ...notModified, ...problemResponses(404) },
      },
    },
    async (request, reply) =>
      sendTagged(request, reply, await models.getAlias(services, request.caller, request.params.name)),
  );

  app.put(
    '/v1/aliases/:name',
    {
      config: { scope: 'models:write', idempotency: 'accepted' },
      schema: {
        operationId: 'setAlias',
        tags: ['models'],
        summary: 'Set or move an alias',
        description:
          'From now on the name stands for this model; runs that are queued keep the model that it stood for. An alias moves between models of one role; `token-reward`, the default of scoring, takes token reward models only, and goes back to the shipped sample when it is set to that or deleted.',
        params,
        headers: Type.Object({ ...IfMatch, ...IfNoneMatch }),
        body: Type.Object({ model_id: Id(modelExample) }, { additionalProperties: false }),
        response: { 200: Tagged(Type.Ref('Alias')), ...problemResponses(404, 412, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(
          200,
          await models.setAlias(
            services,
            request.caller,
            request.params.name,
            request.body.model_id,
            preconditionOf(request),
          ),
        ),
      ),
  );

  app.delete(
    '/v1/aliases/:name',
    {
      config: { scope: 'models:write', idempotency: 'accepted' },
      schema: {
        operationId: 'deleteAlias',
        tags: ['models'],
        summary: 'Delete an alias; its model stays',
        description: '`token-reward` then names the shipped sample again; 409 when it does already.',
        params,
        headers: Type.Object(IfMatch),
        response: { 204: Type.Null({ description: 'It is gone' }), ...problemResponses(404, 409, 412) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => {
        await models.deleteAlias(services, request.caller, request.params.name, preconditionOf(request));
        return { status: 204 };
      }),
  );
};
