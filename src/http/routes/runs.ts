// /v1/runs: create, list, get, steer. What comes of a run is in run-watching.ts.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import { runStates } from '../../domain/run-states.ts';
import type { Services } from '../../services/context.ts';
import { DpoSpec, GenerateSpec, PpoSpec, RewardSpec, runKinds, SftSpec } from '../../services/run-specs.ts';
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
    'sft: supervised fine-tuning; reward: token reward model; ppo: fine-grained PPO; dpo: direct preference optimisation; generate: responses',
});
const State = Type.Enum([...runStates], {
  description:
    'queued: waits for a runner; starting: a runner has taken it and fetches its inputs; running: the trainer has reported; ' +
    'pausing: its trainer is asked to keep a checkpoint and stop; paused: it waits for `resume`; succeeded: the end; failed, cancelled: ' +
    'the end, unless it is retried. A runner that stops, or is lost, puts the run back to queued, and another goes on from the last checkpoint.',
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
    'How many attempts may be lost before the run fails: with their runner, or as the trainer was killed or hung, the disk was full or the artifact store away. A trainer that fails by itself is not tried again',
});
const priority = {
  minimum: -1000,
  maximum: 1000,
  description: 'Runs of a higher priority are taken first; equal ones in the order of their creation',
  examples: [10],
};
const Priority = Type.Integer({ ...priority, default: 0 });
const TimeLimit = Type.Integer({
  minimum: 1,
  maximum: 31_536_000,
  description:
    'Seconds for which runners may work on it, all attempts since the last retry together; it then keeps a checkpoint and fails with `time_limit`',
  examples: [86_400],
});
const After = Type.Array(Type.String({ maxLength: 100, examples: [exampleId] }), {
  maxItems: 50,
  uniqueItems: true,
  default: [],
  description:
    'Runs that must succeed before this one is taken; when one of them fails or is cancelled, this one fails with `dependency_failed`. A `run_id` in the spec counts as one of them.',
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
  priority: 0,
  time_limit_seconds: null,
  max_attempts: 3,
  after: [],
  waiting: null,
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
  promoted_from: null,
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
      '`bad_spec`, `out_of_memory` (of the machine or of the GPU), `driver_missing` (no GPU that could be used, for a run on cuda), `wrong_gpu` (one that the installed torch has no code for), `unstable` (a loss or a gradient was no finite number), `alarm` (one whose action is `stop`), `export_mismatch`, `error` (as the trainer says), `crashed`, `hung`, `disk_full`, `artifact_store` (it could not be used for too long), `protocol`, `lost`, `inputs`, `outputs`, `time_limit`, `dependency_failed`',
  }),
  detail: Type.String(),
  exit_code: Nullable(Type.Integer()),
  log_tail: Type.Array(Type.String(), { description: 'The trainer’s last lines of log' }),
});
const Waiting = Type.Object(
  {
    reason: Type.Enum(['dependencies', 'no_runner', 'turn']),
    detail: Type.String(),
  },
  {
    description:
      'Why a queued run is not taken yet. dependencies: runs of `after` have not succeeded; no_runner: no live runner has its hardware and labels; turn: one has.',
  },
);
const Alarm = Type.Object({
  code: Type.String(),
  detail: Type.String(),
  step: Nullable(Type.Number()),
  value: Nullable(Type.Number()),
  threshold: Nullable(Type.Number()),
  action: Type.Enum(['warn', 'pause', 'stop'], {
    description:
      'What the run did about it, once its progress was kept: it went on, was paused (`/resume`), or failed (`/retry`)',
  }),
});
const Attempt = Type.Object({
  attempt: Type.Integer(),
  runner: Type.String(),
  started_at: Timestamp,
  heartbeat_at: Timestamp,
  lease_expires_at: Timestamp,
  ended_at: Nullable(Timestamp),
  outcome: Nullable(Type.Enum(['succeeded', 'failed', 'cancelled', 'interrupted', 'paused', 'lost']), {
    description:
      'null while it lasts; interrupted: its runner was asked to stop; lost: its lease ran out, or its runner gave it up and says why in the event `attempt_ended`',
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
    priority: Priority,
    time_limit_seconds: Nullable(TimeLimit),
    max_attempts: MaxAttempts,
    after: After,
    waiting: Nullable(Waiting),
    progress: Nullable(Progress),
    attempts: Type.Array(Attempt),
    result: Nullable(AnyObject, { description: 'What the trainer found, and `gate` of a reward run' }),
    failure: Nullable(Failure),
    alarms: Type.Array(Alarm, { description: 'The first of each code' }),
    artifacts: Type.Array(Artifact, { description: 'Files by name, for `GET /v1/artifacts/{digest}`' }),
    model_id: Nullable(Type.String(), { description: 'The model that the run has registered' }),
    promoted_from: Nullable(Type.Object({ run_id: Id(exampleId), step: Type.Integer() }), {
      description: 'The checkpoint that this run makes a model of, without training further',
    }),
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
    priority: Priority,
    time_limit_seconds: Nullable(TimeLimit),
    max_attempts: MaxAttempts,
    after: After,
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
        priority: 0,
        time_limit_seconds: null,
        max_attempts: 3,
        after: [],
      },
    ],
  },
);

const settings = {
  hardware: Type.Optional(Hardware),
  priority: Type.Optional(Priority),
  time_limit_seconds: Type.Optional(TimeLimit),
  after: Type.Optional(After),
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
  { $id: 'NewDpoRun', kind: 'dpo', spec: 'DpoSpec' },
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
  for (const schema of [SftSpec, RewardSpec, PpoSpec, DpoSpec, GenerateSpec, ...requests, Run, ValidatedRun])
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
          'Checks the spec and fills its defaults in; a runner with the hardware and labels takes it, the highest priority first, then the oldest. What the spec names must be there already. `validate_only` answers 200 with the spec as it would run.',
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

  const steer = (request: 'cancel' | 'pause' | 'resume', summary: string, description: string) =>
    app.post(
      `/v1/runs/:run_id/${request}`,
      {
        config: { scope: 'runs:write', idempotency: 'accepted' },
        schema: {
          operationId: `${request}Run`,
          tags: ['runs'],
          summary,
          description,
          params,
          headers: Type.Object(IfMatch),
          response: { 200: Tagged(Type.Ref('Run')), ...problemResponses(404, 409, 412) },
        },
      },
      (message, reply) =>
        answerOnce(services, message, reply, async (services) =>
          tagged(
            200,
            await runs.steerRun(
              services,
              message.caller,
              message.params.run_id,
              request,
              preconditionOf(message),
            ),
          ),
        ),
    );
  steer(
    'cancel',
    'Cancel a run',
    'At once while no runner holds it, else with the next heartbeat of its runner, which ends the trainer. Nothing that the run makes after this becomes visible. Runs that wait for it fail.',
  );
  steer(
    'pause',
    'Pause a run',
    'At once while no runner holds it; else its trainer is asked, with the next heartbeat, to keep a checkpoint and stop, and the runner is free for another run.',
  );
  steer(
    'resume',
    'Resume a paused run',
    'It is queued again and goes on from its checkpoint; a run that is still `pausing` may not have to stop at all.',
  );

  app.post(
    '/v1/runs/:run_id/retry',
    {
      config: { scope: 'runs:write', idempotency: 'accepted' },
      schema: {
        operationId: 'retryRun',
        tags: ['runs'],
        summary: 'Retry a failed or cancelled run',
        description:
          'It is queued again with the same inputs, with all of its attempts and of its time limit, and goes on from its last checkpoint.',
        params,
        headers: Type.Object(IfMatch),
        querystring: Type.Object(
          {
            restart: Type.Optional(
              Type.Boolean({ default: false, description: 'Begin anew: take up no checkpoint made so far' }),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 200: Tagged(Type.Ref('Run')), ...problemResponses(404, 409, 412) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(
          200,
          await runs.retryRun(
            services,
            request.caller,
            request.params.run_id,
            request.query,
            preconditionOf(request),
          ),
        ),
      ),
  );

  app.patch(
    '/v1/runs/:run_id',
    {
      config: { scope: 'runs:write', idempotency: 'accepted' },
      schema: {
        operationId: 'updateRun',
        tags: ['runs'],
        summary: 'Change the priority of a run',
        description: 'It counts when the run is next taken from the queue.',
        params,
        headers: Type.Object(IfMatch),
        body: Type.Object({ priority: Type.Integer(priority) }, { additionalProperties: false }),
        response: { 200: Tagged(Type.Ref('Run')), ...problemResponses(404, 409, 412, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(
          200,
          await runs.setPriority(
            services,
            request.caller,
            request.params.run_id,
            request.body.priority,
            preconditionOf(request),
          ),
        ),
      ),
  );
};
