// /v1/runs/{id}/…: what comes of a run, while it works and after.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import { promoteCheckpoint } from '../../services/run-promotion.ts';
import { openRunStreams, type StreamSettings } from '../../services/run-stream.ts';
import * as watching from '../../services/run-watching.ts';
import { listRunEvents } from '../../services/runs.ts';
import { eventStreamType, lastEventId, sendEventStream } from '../event-stream.ts';
import { prefersType } from '../media-types.ts';
import { answerOnce } from '../plugins/idempotency.ts';
import { Digest, Id, Nullable, Page, PageQuery, problemResponses, Timestamp } from '../schemas.ts';
import { sendStream, streamed } from '../streams.ts';

const exampleId = 'run_019356f0a1b27c3d8e4f5a6b7c8d9e0f';
const AnyObject = Type.Record(Type.String(), Type.Unknown());

const RunEvents = Type.Object(
  {
    items: Type.Array(
      Type.Object({
        sequence: Type.Integer(),
        attempt: Type.Integer(),
        type: Type.String({
          description:
            '`attempt_started`, `progress`, `metrics`, `log`, `alarm`, `checkpoint`, `rollouts`, `attempt_ended`, `attempt_lost`; `cancel_requested`, `pause_requested`, `resume_requested`, `retry_requested`, `dependency_failed`',
        }),
        created_at: Timestamp,
        data: AnyObject,
      }),
    ),
    next_after: Type.Integer({ description: 'Give it as `after` for the next page' }),
  },
  {
    $id: 'RunEvents',
    examples: [
      {
        items: [
          {
            sequence: 14,
            attempt: 1,
            type: 'metrics',
            created_at: '2026-11-23T09:00:31.410Z',
            data: { step: 120, loss: 0.412 },
          },
        ],
        next_after: 14,
      },
    ],
  },
);

const MetricPoint = Type.Object({
  step: Type.Integer({ description: 'First step of the bucket', examples: [120] }),
  last_step: Type.Integer({ examples: [130] }),
  min: Nullable(Type.Number(), { description: 'null: no value in it is a number', examples: [0.38] }),
  max: Nullable(Type.Number(), { examples: [0.44] }),
  mean: Nullable(Type.Number(), { examples: [0.41] }),
  last: Nullable(Type.Number(), { description: 'At `last_step`', examples: [0.38] }),
  count: Type.Integer({ minimum: 1, description: 'Points in it', examples: [2] }),
});

const RunMetrics = Type.Object(
  {
    names: Type.Array(Type.String(), {
      description: 'Every metric that the run has reported',
      examples: [['grad_norm', 'loss']],
    }),
    series: Type.Array(
      Type.Object({ name: Type.String({ examples: ['loss'] }), points: Type.Array(MetricPoint) }),
      { description: 'Those that were asked for' },
    ),
  },
  { $id: 'RunMetrics' },
);

const RunLog = Type.Object(
  {
    attempt: Nullable(Type.Integer(), {
      description: 'null: no attempt has written anything',
      examples: [1],
    }),
    lines: Type.Array(Type.String(), {
      description: 'The last ones, oldest first',
      examples: [['info: resuming after step 100']],
    }),
    line_count: Type.Integer({ description: 'Written so far', examples: [1] }),
    whole: Nullable(
      Type.Object({
        digest: Digest,
        bytes: Type.Integer({ description: 'Compressed', examples: [57] }),
        complete: Type.Boolean({
          description: 'false: only the first 10 MB of it were kept',
          examples: [true],
        }),
      }),
      { description: 'How all of it is kept, once the attempt has ended: `Accept: text/plain` reads it' },
    ),
    updated_at: Nullable(Timestamp),
  },
  { $id: 'RunLog' },
);

const RolloutStep = Type.Object(
  {
    step: Type.Integer({ examples: [5] }),
    attempt: Type.Integer({ examples: [1] }),
    count: Type.Integer({ description: 'Responses', examples: [8] }),
    bytes: Type.Integer({ description: 'Compressed', examples: [21_530] }),
    created_at: Timestamp,
  },
  { $id: 'RolloutStep' },
);

const tokenNumbers = (description: string, example: number[]) =>
  Type.Array(Nullable(Type.Number()), { description, examples: [example] });

const Rollout = Type.Object(
  {
    id: Type.String({ description: 'Of the prompt', examples: ['prompt-1'] }),
    prompt: Type.Unknown({
      description: 'As it stood in the rows',
      examples: ['When was the harbor bridge opened?'],
    }),
    response: Type.String({ examples: ['1932.'] }),
    token_ids: Type.Array(Type.Integer(), { examples: [[371, 14, 1]] }),
    tokens: Type.Array(Type.String(), {
      description: 'The text of each token; a control token has none',
      examples: [['1932', '.', '']],
    }),
    finish_reason: Type.Enum(['eos', 'length']),
    rewards: tokenNumbers('By the reward model, for each token', [-0.1, 0, -0.02]),
    kl: tokenNumbers('Against the starting policy, k1', [0.03, 0, -0.01]),
    values: tokenNumbers('What the critic expected before the token', [-0.2, -0.1, 0]),
    advantages: tokenNumbers('Before they are whitened', [0.3, 0.1, -0.05]),
    logprobs: tokenNumbers('By the policy that sampled it', [-0.9, -0.1, -0.02]),
  },
  { $id: 'Rollout' },
);

const RolloutStepPage = { ...Page(Type.Ref('RolloutStep')), $id: 'RolloutStepPage' };
const RolloutPage = { ...Page(Type.Ref('Rollout')), $id: 'RolloutPage' };
const RunRollouts = Type.Unsafe({
  $id: 'RunRollouts',
  description: 'Without `step`: the steps that have rollouts; with it: the rollouts of that step',
  anyOf: [{ $ref: 'RolloutStepPage' }, { $ref: 'RolloutPage' }],
});

const Checkpoint = Type.Object(
  {
    step: Type.Integer({ examples: [100] }),
    attempt: Type.Integer({ examples: [1] }),
    bytes: Type.Integer({ description: 'Of all files', examples: [6_830_412] }),
    files: Type.Array(
      Type.Object({
        path: Type.String({ examples: ['tensors.safetensors'] }),
        digest: Digest,
        bytes: Type.Integer({ examples: [6_829_004] }),
      }),
    ),
    created_at: Timestamp,
  },
  { $id: 'Checkpoint' },
);

const Step = Type.Integer({
  minimum: 0,
  maximum: Number.MAX_SAFE_INTEGER,
  description: 'Step of the checkpoint',
  examples: [100],
});
const FilePath = Type.String({
  description: 'Path of the file, as the checkpoint lists it',
  examples: ['manifest.json'],
});
const octets = 'application/octet-stream';

const streamExample = `retry: 1000

id: 14
event: metrics
data: {"sequence":14,"attempt":1,"type":"metrics","created_at":"2026-11-23T09:00:31.410Z","data":{"step":120,"values":{"loss":0.412}}}

: still here

event: end
data: {"state":"succeeded","last_event":14}

`;

const params = Type.Object({ run_id: Id(exampleId) });

interface Options {
  services: Services;
  streams: StreamSettings;
}

export const runWatchingRoutes: FastifyPluginAsyncTypebox<Options> = async (
  app,
  { services, streams: settings },
) => {
  for (const schema of [
    RunEvents,
    RunMetrics,
    RunLog,
    RolloutStep,
    Rollout,
    RolloutStepPage,
    RolloutPage,
    RunRollouts,
    Checkpoint,
  ])
    app.addSchema(schema);
  const streams = openRunStreams(services.db, settings);
  app.addHook('preClose', async () => streams.close());

  app.get(
    '/v1/runs/:run_id/events',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listRunEvents',
        tags: ['runs'],
        summary: 'Events of a run after a sequence number, oldest first, or as a stream',
        description:
          'With `Accept: text/event-stream` events are sent as they come: `id` is the sequence number, `event` the type, `data` the event as in JSON. A comment is sent when nothing has happened for 15 s. ' +
          'After the last event of a run that has ended comes `event: end` with its state, and the stream ends. A client that was cut off connects again with `Last-Event-ID` and goes on without loss or repeat, with any process of the service; when nothing is left to come it gets 204, at which an EventSource stops. ' +
          'Sequence numbers rise; that some are missing means that old `progress`, `metrics` and `log` events of an ended run were removed in time.',
        params,
        headers: Type.Object({
          'Last-Event-ID': Type.Optional(
            Type.String({
              description: 'Of a stream: the `id` that came last; it goes before `after`',
              examples: ['14'],
            }),
          ),
        }),
        querystring: Type.Object(
          {
            after: Type.Optional(
              Type.Integer({
                minimum: 0,
                maximum: Number.MAX_SAFE_INTEGER,
                default: 0,
                description: 'Sequence number of the last event that is known',
              }),
            ),
            limit: Type.Optional(
              Type.Integer({
                minimum: 1,
                maximum: 1000,
                default: 100,
                description: 'Events of a page; a stream has none',
              }),
            ),
          },
          { additionalProperties: false },
        ),
        response: {
          200: {
            description: 'A page of events, or a stream of them',
            content: {
              'application/json': { schema: Type.Ref('RunEvents') },
              [eventStreamType]: { schema: { type: 'string' as const, examples: [streamExample] } },
            },
          },
          204: Type.Null({
            description:
              'A stream that has nothing left to say: Last-Event-ID is the last event of a run that has ended',
          }),
          ...problemResponses(404),
        },
      },
    },
    async (request, reply) => {
      reply.header('vary', 'Accept');
      const { run_id } = request.params;
      if (!prefersType(request.headers.accept, eventStreamType, 'application/json'))
        return reply.send(await listRunEvents(services, request.caller, run_id, request.query));
      const known = lastEventId(request);
      const run = await streams.find(request.caller, run_id);
      if (known !== null && run.isOver(known)) return reply.code(204).send(null);
      return sendEventStream(request, reply, (gone) => run.follow(known ?? request.query.after ?? 0, gone));
    },
  );

  app.get(
    '/v1/runs/:run_id/metrics',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'readRunMetrics',
        tags: ['runs'],
        summary: 'Metrics of a run over its steps, in as many points as a chart can show',
        description:
          'Each point stands for a bucket of steps, with the extremes, the mean and the last of its values; where a metric has no more values than `points`, each is a point of its own. Of a step that a resumed attempt repeats the newer value counts; what came before a retry with `restart` is left out.',
        params,
        querystring: Type.Object(
          {
            names: Type.Optional(
              Type.String({
                pattern: '^[ -~]*$',
                maxLength: 2500, // fits into a request target, every character encoded
                description: 'Comma list of up to 50 metrics; without it only the names are answered',
                examples: ['loss,grad_norm'],
              }),
            ),
            points: Type.Optional(
              Type.Integer({
                minimum: 1,
                maximum: 5000,
                default: 500,
                description: 'Most points of a metric',
              }),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 200: Type.Ref('RunMetrics'), ...problemResponses(404) },
      },
    },
    (request) => {
      const { names = '', points = 500 } = request.query;
      const asked = [...new Set(names.split(',').map((name) => name.trim()))].filter((name) => name !== '');
      return watching.readMetrics(services, request.caller, request.params.run_id, { names: asked, points });
    },
  );

  app.get(
    '/v1/runs/:run_id/logs',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'readRunLog',
        tags: ['runs'],
        summary: 'What the trainer wrote: the last lines, or all of it as text',
        description:
          'The standard error of the trainer, with what it says in `log` events, of one attempt. JSON has the last lines, a few seconds old while the attempt works. `Accept: text/plain` answers the whole once the attempt has ended, of up to 10 MB, and its newest lines before.',
        params,
        querystring: Type.Object(
          {
            attempt: Type.Optional(
              Type.Integer({
                minimum: 1,
                maximum: Number.MAX_SAFE_INTEGER,
                description: 'The newest that has written something, unless it is named',
              }),
            ),
            tail: Type.Optional(
              Type.Integer({ minimum: 1, maximum: 500, default: 200, description: 'Lines of the JSON' }),
            ),
          },
          { additionalProperties: false },
        ),
        response: {
          200: {
            description: 'The log',
            content: {
              'application/json': { schema: Type.Ref('RunLog') },
              'text/plain': {
                schema: { type: 'string' as const, examples: ['info: resuming after step 100\n'] },
              },
            },
          },
          ...problemResponses(404),
        },
      },
    },
    async (request, reply) => {
      reply.header('vary', 'Accept');
      const { attempt, tail = 200 } = request.query;
      const { run_id } = request.params;
      if (prefersType(request.headers.accept, 'text/plain', 'application/json'))
        return sendStream(
          reply.header('x-content-type-options', 'nosniff'),
          'text/plain; charset=utf-8',
          await watching.openLog(services, request.caller, run_id, attempt),
        );
      return reply.send(await watching.readLog(services, request.caller, run_id, { attempt, tail }));
    },
  );

  app.get(
    '/v1/runs/:run_id/rollouts',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listRunRollouts',
        tags: ['runs'],
        summary: 'Sampled responses of a ppo run, with reward, KL, value and advantage of each token',
        description:
          'Without `step`: the steps of which some responses were kept, every `rollouts_every` steps. With `step`: those responses, page by page.',
        params,
        querystring: Type.Object(
          {
            ...PageQuery,
            step: Type.Optional(
              Type.Integer({
                minimum: 0,
                maximum: Number.MAX_SAFE_INTEGER,
                description: 'A step of the list',
              }),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 200: Type.Ref('RunRollouts'), ...problemResponses(404) },
      },
    },
    (request) => {
      const { step, ...page } = request.query;
      const { run_id } = request.params;
      return step === undefined
        ? watching.listRolloutSteps(services, request.caller, run_id, page)
        : watching.listRollouts(services, request.caller, run_id, step, page);
    },
  );

  app.get(
    '/v1/runs/:run_id/checkpoints',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listRunCheckpoints',
        tags: ['runs'],
        summary: 'List the checkpoints of a run, newest first',
        description: 'Old ones are removed in time: of a run that works all but the newest few.',
        params,
        querystring: Type.Object(PageQuery, { additionalProperties: false }),
        response: { 200: Page(Type.Ref('Checkpoint')), ...problemResponses(404) },
      },
    },
    (request) => watching.listCheckpoints(services, request.caller, request.params.run_id, request.query),
  );

  const checkpointParams = { run_id: Id(exampleId), step: Step };
  app.get(
    '/v1/runs/:run_id/checkpoints/:step/files/*',
    {
      config: {
        scope: 'read',
        // the router's wildcard has no name, and OpenAPI has no wildcards
        swaggerTransform: ({ schema, url }) => ({
          schema: { ...schema, params: Type.Object({ ...checkpointParams, checkpoint_file: FilePath }) },
          url: url.replace('*', ':checkpoint_file'),
        }),
      },
      schema: {
        operationId: 'getRunCheckpointFile',
        tags: ['runs'],
        summary: 'Download a file of a checkpoint',
        description: 'Weights and the state of the optimizer are safetensors; everything else is JSON.',
        params: Type.Object({ ...checkpointParams, '*': FilePath }),
        response: {
          200: streamed(octets, 'The content', '{"format": 1, "step": 100}\n'),
          ...problemResponses(404),
        },
      },
    },
    async (request, reply) => {
      const { run_id, step, '*': path } = request.params;
      const { file, content } = await watching.openCheckpointFile(
        services,
        request.caller,
        run_id,
        step,
        path,
      );
      reply.headers({
        'content-length': file.bytes,
        'cache-control': 'no-transform', // the bytes are those of the digest
        etag: `"${file.digest}"`,
        'x-content-type-options': 'nosniff',
        'content-disposition': `attachment; filename="${path.split('/').at(-1)}"`,
      });
      return sendStream(reply, octets, content);
    },
  );

  app.post(
    '/v1/runs/:run_id/checkpoints/:step/promote',
    {
      config: { scope: 'runs:write', idempotency: 'accepted' },
      schema: {
        operationId: 'promoteRunCheckpoint',
        tags: ['runs'],
        summary: 'Make a model of a checkpoint',
        description:
          'Queues a run of the same kind with the same spec and inputs, `promoted_from` the checkpoint: it trains no further, and ends as every run does, with an evaluation on held-out data, a gate and a model. No alias moves unless it is given here.',
        params: Type.Object(checkpointParams),
        body: Type.Object(
          {
            name: Type.Optional(
              Type.String({
                minLength: 1,
                maxLength: 200,
                description: 'Name of the model',
                examples: ['policy-at-100'],
              }),
            ),
            alias: Type.Optional(
              Type.String({
                pattern: '^[a-z0-9][a-z0-9._-]{0,99}$',
                description: 'Moved to the model when its gate, if the kind has one, is passed',
              }),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 202: Type.Ref('Run'), ...problemResponses(404, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => ({
        status: 202,
        body: await promoteCheckpoint(
          services,
          request.caller,
          request.params.run_id,
          request.params.step,
          request.body,
        ),
      })),
  );
};
