// /v1/models: register, list, get, download, delete. Runs register them too; one ships with finegrain.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import {
  examineModel,
  exportCommand,
  maxModelFiles,
  maxModelGiB,
  type NewModel as Registration,
} from '../../services/model-examination.ts';
import { getServing, type ServingState, servingStates, warmModel } from '../../services/model-serving.ts';
import * as models from '../../services/models.ts';
import { clientGone } from '../disconnect.ts';
import { IfMatch, ifNoneMatchHeaders, notModified, preconditionOf, sendTagged, Tagged } from '../etags.ts';
import { answerOnce } from '../plugins/idempotency.ts';
import {
  Digest,
  describeCodes,
  Id,
  Nullable,
  Page,
  PageQuery,
  problemResponses,
  Timestamp,
} from '../schemas.ts';
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
      description: 'What its run measured, or whoever registered it',
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

const Serving = Type.Object(
  {
    model_id: Id(exampleId),
    digest: Digest,
    state: Type.Enum(Object.keys(servingStates) as ServingState[], {
      description: describeCodes(servingStates),
      examples: ['loaded'],
    }),
    reason: Nullable(Type.String(), {
      description: 'Why it is refused, or why it could not be loaded just now',
      examples: [null],
    }),
  },
  {
    $id: 'Serving',
    description: 'Of the process that answers: each process of the service has scorers of its own',
  },
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

const modelName = Type.String({ minLength: 1, maxLength: 200, examples: ['harbor-reward-1'] });

const NewModel = Type.Object(
  {
    name: modelName,
    role: Role,
    files: Type.Array(
      Type.Object(
        {
          path: Type.String({
            minLength: 1,
            maxLength: 200,
            description: 'Within the folder of the model, with `/` between its parts',
            examples: ['config.json'],
          }),
          digest: Digest,
        },
        { additionalProperties: false },
      ),
      {
        minItems: 1,
        maxItems: maxModelFiles,
        description: `Artifacts of the project; up to ${maxModelGiB} GiB`,
      },
    ),
    metrics: Type.Optional(
      Type.Record(Type.String({ maxLength: 100 }), Nullable(Type.Number()), {
        maxProperties: 100,
        description: 'What was measured, in your own words',
        examples: [{ pair_accuracy: 0.78 }],
      }),
    ),
  },
  {
    $id: 'NewModel',
    additionalProperties: false,
    examples: [
      {
        name: 'harbor-reward-1',
        role: 'token_reward',
        files: ['config.json', 'finegrain.json', 'golden.json', 'reward.onnx', 'tokenizer.json'].map(
          (path, index) => ({ path, digest: `sha256:${`3${index}`.repeat(32)}` }),
        ),
        metrics: { pair_accuracy: 0.78 },
      },
    ],
  },
);

export const modelRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  app.addSchema(Model);
  app.addSchema(NewModel);
  app.addSchema(Serving);

  app.post(
    '/v1/models',
    {
      config: { scope: 'models:write', idempotency: 'accepted' },
      schema: {
        operationId: 'registerModel',
        tags: ['models'],
        summary: 'Register a model from uploaded files',
        description: `Names artifacts that the project has uploaded (\`POST /v1/artifacts\`, or \`/v1/artifact-uploads\` for large ones) as the files of a model. They are looked at first: \`config.json\` and \`tokenizer.json\` in every model, \`finegrain.json\` in a reward model, weights as safetensors or ONNX and never as pickles; a \`token_reward\` model needs its ONNX graph and \`golden.json\`, which \`${exportCommand}\` makes. 422 says what is wrong. Equal files may be registered several times, under other names: each is a model with an id of its own and the same digest. What the graph computes is compared with \`golden.json\` when it is first loaded: \`POST /v1/models/{model_id}/warm\` does that now.`,
        body: Type.Ref('NewModel'),
        response: { 201: Type.Ref('Model'), ...problemResponses(404, 413, 415) },
      },
    },
    async (request, reply) => {
      // before the transaction of an Idempotency-Key, which must not idle while files are read
      const model = await examineModel(services, request.caller, request.body as Registration);
      return answerOnce(services, request, reply, async (services) => ({
        status: 201,
        body: await models.registerModel(services, request.caller, model),
      }));
    },
  );

  app.get(
    '/v1/models',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listModels',
        tags: ['models'],
        summary: 'List models, the shipped sample and then the oldest first',
        description:
          'Those that the project and its runs have registered, and the sample that every project may read.',
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

  // apart from the model, whose representation has an ETag and never changes
  app.get(
    '/v1/models/:model_id/serving',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getServing',
        tags: ['models'],
        summary: 'Whether a model is loaded',
        description: 'By id or alias: in the process that answers, now.',
        params: Type.Object({ model_id: IdOrAlias }),
        response: { 200: Type.Ref('Serving'), ...problemResponses(404) },
      },
    },
    (request) => getServing(services, request.caller, request.params.model_id),
  );

  app.post(
    '/v1/models/:model_id/warm',
    {
      config: { scope: 'score', idempotency: 'nothing_stored' },
      schema: {
        operationId: 'warmModel',
        tags: ['models'],
        summary: 'Load a model, so that the next score does not wait',
        description:
          'By id or alias, of a token reward model; one that is served elsewhere is asked whether it serves. Waits for up to `wait_seconds`, and answers how far it is; what still loads then goes on. A model that cannot be loaded is not an error of this route but a state, with its reason.',
        params: Type.Object({ model_id: IdOrAlias }),
        querystring: Type.Object(
          {
            wait_seconds: Type.Optional(
              Type.Integer({ minimum: 0, maximum: 60, default: 30, description: 'How long to wait' }),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 200: Type.Ref('Serving'), ...problemResponses(404, 429) },
      },
    },
    (request, reply) =>
      warmModel(services, request.caller, request.params.model_id, {
        waitSeconds: request.query.wait_seconds!,
        gone: clientGone(reply),
      }),
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
