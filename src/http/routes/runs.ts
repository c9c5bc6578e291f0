// /v1/runs: create, list, get, cancel, read events.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import { runStates } from '../../domain/run-states.ts';
import type { Services } from '../../services/context.ts';
import { GenerateSpec, PpoSpec, RewardSpec, runKinds, SftSpec } from '../../services/run-specs.ts';
import * as runs from '../../services/runs.ts';
import {
  IfMatch,
  ifNoneMatchHeaders,
  notModified,
  preconditionOf,
  sendTagged,
  Tagged,
  tagged,
} from '../etags.ts';
import { answerOnce } from '../plugins/idempotency.ts';
import { Digest, Id, Nullable, Page, PageQuery, problemResponses, Timestamp } from '../schemas.ts';

const exampleId = 'run_019356f0a1b27c3d8e4f5a6b7c8d9e0f';

const Kind = Type.Enum([...runKinds], {
  description:
    'sft: supervised fine-tuning; reward: token reward model; ppo: fine-grained PPO; generate: responses',
});
const State = Type.Enum([...runStates], {
  description:
    'queued: waits for a runner; starting: a runner has taken it and fetches its inputs; running: the trainer has reported; ' +
    'pausing, paused: not used yet; succeeded, failed, cancelled: the end. A runner that stops, or is lost, puts the run back to queued.',
});
const Hardware = Type.Enum([...runs.hardwareClasses], {
  default: 'cpu',
  description: 'What the runner must have',
});
const Labels = Type.Array(Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._=-]{0,99}$' }), {
  maxItems: 20,
  uniqueItems: true,
  default: [],
  description: 'Only a runner with all of these takes the run',
});
const MaxAttempts = Type.Integer({
  minimum: 1,
  maximum: 100,
  default: 3,
  description:
    'How many attempts may be lost with their runner before the run fails; a trainer that fails is not tried again',
});
/** A token reward model on its way. */
const runExample = {
  id: exampleId,
  kind: 'reward',
  spec: {
    base_model: { alias: 'policy' },
    snapshot_id: 'snap_019356f0a1b27c3d8e4f5a6b7c8d9e0f',
    loss: 'survival',
    epochs: 6,
    alias: 'token-reward',
  },
  state: 'running',
  desired_state: 'running',
  hardware: 'cpu',
  labels: [],
  max_attempts: 3,
  progress: { step: 120, total_steps: 480, fraction: 0.25, eta_seconds: 96, stage: 'training' },
  attempts: [
    {
      attempt: 1,
      runner: 'gpu-7',
      started_at: '2026-11-23T09:00:01.120Z',
      heartbeat_at: '2026-11-23T09:00:31.410Z',
      lease_expires_at: '2026-11-23T09:01:31.410Z',
      ended_at: null,
      outcome: null,
    },
  ],
  result: null,
  failure: null,
  alarms: [],
  artifacts: [],
  model_id: null,
  last_event: 14,
  created_at: '2026-11-23T09:00:00.000Z',
  started_at: '2026-11-23T09:00:01.120Z',
  finished_at: null,
};

const AnyObject = Type.Record(Type.String(), Type.Unknown());

const Progress = Type.Object({
  step: Type.Number(),
  total_steps: Type.Number(),
  fraction: Type.Number({ minimum: 0, maximum: 1 }),
  eta_seconds: Nullable(Type.Number(), {
    description: 'Estimated from the rate of this attempt; null until there is one',
  }),
  stage: Type.String(),
});
const Failure = Type.Object({
  reason: Type.String({
    description:
      '`bad_spec`, `out_of_memory`, `unstable`, `export_mismatch`, `error` (as the trainer says), `crashed`, `protocol`, `lost`, `inputs`, `outputs`',
  }),
  detail: Type.String(),
  exit_code: Nullable(Type.Integer()),
  log_tail: Type.Array(Type.String(), { description: 'The trainer’s last lines of log' }),
});
const Alarm = Type.Object({
  code: Type.String(),
  detail: Type.String(),
  step: Nullable(Type.Number()),
  value: Nullable(Type.Number()),
  threshold: Nullable(Type.Number()),
});
const Attempt = Type.Object({
  attempt: Type.Integer(),
  runner: Type.String(),
  started_at: Timestamp,
  heartbeat_at: Timestamp,
  lease_expires_at: Timestamp,
  ended_at: Nullable(Timestamp),
  outcome: Nullable(Type.Enum(['succeeded', 'failed', 'cancelled', 'interrupted', 'lost']), {
    description: 'null while it lasts; interrupted: its runner was asked to stop; lost: its lease ran out',
  }),
});
const Artifact = Type.Object({
  name: Type.String(),
  digest: Digest,
  bytes: Type.Integer(),
  media_type: Type.String(),
});

export const Run = Type.Object(
  {
    id: Id(exampleId),
    kind: Kind,
    spec: Type.Record(Type.String(), Type.Unknown(), {
      description: 'As given, with every default filled in',
    }),
    state: State,
    desired_state: Type.Enum(['running', 'paused', 'cancelled']),
    hardware: Hardware,
    labels: Labels,
    max_attempts: MaxAttempts,
    progress: Nullable(Progress),
    attempts: Type.Array(Attempt),
    result: Nullable(AnyObject, { description: 'What the trainer found, and `gate` of a reward run' }),
    failure: Nullable(Failure),
    alarms: Type.Array(Alarm, { description: 'The first of each code' }),
    artifacts: Type.Array(Artifact, { description: 'Files by name, for `GET /v1/artifacts/{digest}`' }),
    model_id: Nullable(Type.String(), { description: 'The model that the run has registered' }),
    last_event: Type.Integer({ description: 'Sequence number of the newest event' }),
    created_at: Timestamp,
    started_at: Nullable(Timestamp),
    finished_at: Nullable(Timestamp),
  },
  { $id: 'Run', examples: [runExample] },
);

const ValidatedRun = Type.Object(
  {
    valid: Type.Literal(true),
    kind: Kind,
    spec: AnyObject,
    hardware: Hardware,
    labels: Labels,
    max_attempts: MaxAttempts,
  },
  {
    $id: 'ValidatedRun',
    description: 'What the run would be; nothing was stored',
    examples: [
      {
        valid: true,
        kind: runExample.kind,
        spec: runExample.spec,
        hardware: 'cpu',
        labels: [],
        max_attempts: 3,
      },
    ],
  },
);

const RunEvents = Type.Object(
  {
    items: Type.Array(
      Type.Object({
        sequence: Type.Integer(),
        attempt: Type.Integer(),
        type: Type.String({
          description:
            '`attempt_started`, `progress`, `metrics`, `log`, `alarm`, `checkpoint`, `cancel_requested`, `attempt_ended`, `attempt_lost`',
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

const settings = {
  hardware: Type.Optional(Hardware),
  max_attempts: Type.Optional(MaxAttempts),
  labels: Type.Optional(Labels),
  validate_only: Type.Optional(
    Type.Boolean({ default: false, description: 'Answer 200 with the spec as it would run; store nothing' }),
  ),
};
const requests = [
  { $id: 'NewSftRun', kind: 'sft', spec: 'SftSpec' },
  { $id: 'NewRewardRun', kind: 'reward', spec: 'RewardSpec' },
  { $id: 'NewPpoRun', kind: 'ppo', spec: 'PpoSpec' },
  { $id: 'NewGenerateRun', kind: 'generate', spec: 'GenerateSpec' },
].map(({ $id, kind, spec }) => ({
  ...Type.Object({ kind: Type.Enum([kind]), spec: Type.Ref(spec), ...settings }),
  additionalProperties: false,
  $id,
}));

// one branch by `kind`: its errors only are told
const NewRun = Type.Unsafe<runs.NewRun>({
  type: 'object',
  required: ['kind', 'spec'],
  properties: { kind: Kind, spec: { type: 'object' } },
  discriminator: { propertyName: 'kind' },
  oneOf: requests.map(({ $id }) => ({ $ref: $id })),
  examples: [
    {
      kind: 'sft',
      spec: {
        base_model: { scratch: { hidden_size: 64, num_layers: 2, num_heads: 2 } },
        data: { snapshot_id: 'snap_019356f0a1b27c3d8e4f5a6b7c8d9e0f', responses: 'all' },
        alias: 'policy',
      },
    },
  ],
});

const params = Type.Object({ run_id: Id(exampleId) });

export const runRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  for (const schema of [
    SftSpec,
    RewardSpec,
    PpoSpec,
    GenerateSpec,
    ...requests,
    Run,
    ValidatedRun,
    RunEvents,
  ])
    app.addSchema(schema);

  app.post(
    '/v1/runs',
    {
      config: { scope: 'runs:write', idempotency: 'accepted' },
      schema: {
        operationId: 'createRun',
        tags: ['runs'],
        summary: 'Queue a run',
        description:
          'Checks the spec and fills its defaults in; a runner with the hardware and labels takes it, the oldest first. What the spec names must be there already. `validate_only` answers 200 with the spec as it would run.',
        body: NewRun,
        response: {
          200: Type.Ref('ValidatedRun'),
          202: Type.Ref('Run'),
          ...problemResponses(404, 413, 415),
        },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => {
        const run = await runs.createRun(services, request.caller, request.body);
        return { status: 'valid' in run ? 200 : 202, body: run };
      }),
  );

  app.get(
    '/v1/runs',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listRuns',
        tags: ['runs'],
        summary: 'List runs, newest first',
        description: 'Of the project; `state` and `kind` narrow it.',
        querystring: Type.Object(
          { ...PageQuery, state: Type.Optional(State), kind: Type.Optional(Kind) },
          { additionalProperties: false },
        ),
        response: { 200: Page(Type.Ref('Run')), ...problemResponses() },
      },
    },
    (request) => runs.listRuns(services, request.caller, request.query),
  );

  app.get(
    '/v1/runs/:run_id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getRun',
        tags: ['runs'],
        summary: 'Get a run with its progress, attempts and outcome',
        description:
          'Ask again until `finished_at` is set, or let a webhook tell. `failure` says why a run failed, with the last lines of its log.',
        params,
        headers: ifNoneMatchHeaders,
        response: { 200: Tagged(Type.Ref('Run')), ...notModified, ...problemResponses(404) },
      },
    },
    async (request, reply) =>
      sendTagged(request, reply, await runs.getRun(services, request.caller, request.params.run_id)),
  );

  app.post(
    '/v1/runs/:run_id/cancel',
    {
      config: { scope: 'runs:write', idempotency: 'accepted' },
      schema: {
        operationId: 'cancelRun',
        tags: ['runs'],
        summary: 'Cancel a run: at once while it is queued, else with the next heartbeat of its runner',
        description: 'Ask again with `GET` until it has ended. A run that has ended stays what it is: 409.',
        params,
        headers: Type.Object(IfMatch),
        response: { 200: Tagged(Type.Ref('Run')), ...problemResponses(404, 409, 412) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(
          200,
          await runs.cancelRun(services, request.caller, request.params.run_id, preconditionOf(request)),
        ),
      ),
  );

  app.get(
    '/v1/runs/:run_id/events',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listRunEvents',
        tags: ['runs'],
        summary: 'Events of a run after a sequence number, oldest first',
        description:
          'Numbered from 1 without gaps. Give `next_after` as `after` to go on; a page without items means that nothing new has happened.',
        params,
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
              Type.Integer({ minimum: 1, maximum: 1000, default: 100, description: 'Events of a page' }),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 200: Type.Ref('RunEvents'), ...problemResponses(404) },
      },
    },
    (request) => runs.listRunEvents(services, request.caller, request.params.run_id, request.query),
  );
};
