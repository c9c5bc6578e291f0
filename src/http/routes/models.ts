// /v1/models: list, get, download, delete. Runs register them; one ships with finegrain.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import * as models from '../../services/models.ts';
import { IfMatch, ifNoneMatchHeaders, notModified, preconditionOf, sendTagged, Tagged } from '../etags.ts';
import { answerOnce } from '../plugins/idempotency.ts';
import { Digest, Id, Nullable, Page, PageQuery, problemResponses, Timestamp } from '../schemas.ts';
import { sendStream, streamed } from '../streams.ts';

const exampleId = 'model_019356f0d6e78f9a8b1c2d3e4f5a6b7c';
const runExample = 'run_019356f0e7f89a0b8c2d3e4f5a6b7c8d';
const octets = 'application/octet-stream';

export const Role = Type.Enum(['policy', 'token_reward', 'sequence_reward'], {
  description:
    '`policy`: writes responses. `token_reward`: scores every token of a response. `sequence_reward`: scores a response as a whole.',
});

const Model = Type.Object(
  {
    id: Id(exampleId),
    name: Type.String({ examples: ['harbor-reward-1'] }),
    role: Role,
    digest: Type.String({
      description: 'SHA-256 of the list of files: equal files give an equal digest on every machine',
      examples: [`sha256:${'3f'.repeat(32)}`],
    }),
    tokenizer_digest: Type.String({
      description: 'SHA-256 of tokenizer.json: models that share it share their token ids',
      examples: [`sha256:${'a7'.repeat(32)}`],
    }),
    files: Type.Array(
      Type.Object({
        path: Type.String({ examples: ['model.safetensors'] }),
        digest: Digest,
        bytes: Type.Integer({ examples: [569_004] }),
      }),
    ),
    metrics: Type.Record(Type.String(), Type.Unknown(), {
      description: 'What its run measured',
      examples: [{ edit_accuracy: 0.93, pair_accuracy: 0.78, bad_token_auc: 0.95 }],
    }),
    run_id: Nullable(Type.String(), {
      description: 'The run that made it; null for one that no run of this project made',
      examples: [runExample],
    }),
    shared: Type.Boolean({
      description:
        'True for the sample that ships with finegrain: a token reward model of the demo world, which every project reads and none can change. Outside of that world its rewards mean nothing.',
      examples: [false],
    }),
    created_at: Timestamp,
  },
  { $id: 'Model' },
);

const IdOrAlias = Type.String({
  description: 'Id or alias',
  minLength: 1,
  maxLength: 200,
  examples: [exampleId],
});

const FilePath = Type.String({
  description: 'Path of the file, as the model lists it',
  examples: ['reward.onnx'],
});

export const modelRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  app.addSchema(Model);

  app.get(
    '/v1/models',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listModels',
        tags: ['models'],
        summary: 'List models, the shipped sample and then the oldest first',
        description: 'Those that runs have registered, and the sample that every project may read.',
        querystring: Type.Object(
          { ...PageQuery, role: Type.Optional(Role) },
          { additionalProperties: false },
        ),
        response: { 200: Page(Type.Ref('Model')), ...problemResponses() },
      },
    },
    (request) => models.listModels(services, request.caller, request.query),
  );

  app.get(
    '/v1/models/:model_id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getModel',
        tags: ['models'],
        summary: 'Get a model',
        description: 'By id or alias: its role, its files with their digests, and what its run measured.',
        params: Type.Object({ model_id: IdOrAlias }),
        headers: ifNoneMatchHeaders,
        response: { 200: Tagged(Type.Ref('Model')), ...notModified, ...problemResponses(404) },
      },
    },
    async (request, reply) =>
      sendTagged(request, reply, await models.getModel(services, request.caller, request.params.model_id)),
  );

  app.get(
    '/v1/models/:model_id/files/*',
    {
      config: {
        scope: 'read',
        // the router's wildcard has no name, and OpenAPI has no wildcards
        swaggerTransform: ({ schema, url }) => ({
          schema: { ...schema, params: Type.Object({ model_id: IdOrAlias, path: FilePath }) },
          url: url.replace('*', ':path'),
        }),
      },
      schema: {
        operationId: 'getModelFile',
        tags: ['models'],
        summary: 'Download a file of a model',
        description:
          'By id or alias and the path that the model lists, so that a model can be used elsewhere.',
        params: Type.Object({ model_id: IdOrAlias, '*': FilePath }),
        response: {
          200: streamed(octets, 'The content', '{"model_type": "llama"}\n'),
          ...problemResponses(404),
        },
      },
    },
    async (request, reply) => {
      const { model_id, '*': path } = request.params;
      const { file, content } = await models.openModelFile(services, request.caller, model_id, path);
      reply.headers({
        'content-length': file.bytes,
        etag: `"${file.digest}"`,
        'x-content-type-options': 'nosniff',
        'content-disposition': `attachment; filename="${path.split('/').at(-1)}"`,
      });
      return sendStream(reply, octets, content);
    },
  );

  app.delete(
    '/v1/models/:model_id',
    {
      config: { scope: 'models:write', idempotency: 'accepted' },
      schema: {
        operationId: 'deleteModel',
        tags: ['models'],
        summary: 'Delete a model that carries no alias; the shipped sample stays',
        description: '409 while an alias names it: move or delete the alias first.',
        params: Type.Object({ model_id: Id(exampleId) }),
        headers: Type.Object(IfMatch),
        response: { 204: Type.Null({ description: 'It is gone' }), ...problemResponses(404, 409, 412) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => {
        await models.deleteModel(services, request.caller, request.params.model_id, preconditionOf(request));
        return { status: 204 };
      }),
  );
};
