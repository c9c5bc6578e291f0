// /v1/score-jobs: rewards for a whole file or snapshot, in the background.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import * as jobs from '../../services/score-jobs.ts';
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
import { ModelName, modelNamed, Precision, ScoringModel, Unit } from './score.ts';

const jobExample = 'sjob_019356f0f1a27b3c8d4e5f6a7b8c9d0e';
const snapshotExample = 'snap_019356f0d1a27b3c8d4e5f6a7b8c9d0e';
const keysOf = <T extends object>(table: T) => Object.keys(table) as (keyof T & string)[];

const State = Type.Enum(keysOf(jobs.scoreJobStates), { description: describeCodes(jobs.scoreJobStates) });

const Input = Type.Object(
  {
    snapshot_id: Type.Optional(Id(snapshotExample, 'Texts of a snapshot')),
    what: Type.Optional(
      Type.Enum(keysOf(jobs.snapshotParts), {
        description: `What of a snapshot, \`responses\` unless it is given, and the ids of its items. ${describeCodes(jobs.snapshotParts)}`,
      }),
    ),
    artifact: Type.Optional({
      ...Digest,
      description: 'An artifact of the project: NDJSON rows `{id?, prompt, response}`, a row up to 8 MiB',
    }),
  },
  {
    $id: 'ScoreJobInput',
    additionalProperties: false,
    description: 'Either `snapshot_id` or `artifact`',
    examples: [{ artifact: `sha256:${'3f'.repeat(32)}` }],
  },
);

const options = {
  unit: { ...Unit, default: 'utf16' },
  truncate: Type.Boolean({ default: false, description: 'As in `POST /v1/score`' }),
  include_eos: Type.Boolean({ default: false, description: 'As in `POST /v1/score`' }),
};

const NewScoreJob = Type.Object(
  {
    model: ModelName,
    input: Type.Ref('ScoreJobInput'),
    unit: Type.Optional(options.unit),
    truncate: Type.Optional(options.truncate),
    include_eos: Type.Optional(options.include_eos),
    precision: Precision,
  },
  {
    $id: 'NewScoreJob',
    additionalProperties: false,
    examples: [
      { input: { artifact: `sha256:${'3f'.repeat(32)}` } },
      { model: 'token-reward', input: { snapshot_id: snapshotExample, what: 'all' }, truncate: true },
    ],
  },
);

const ScoreJob = Type.Object(
  {
    id: Id(jobExample),
    state: State,
    model: ScoringModel,
    input: Type.Ref('ScoreJobInput'),
    ...options,
    progress: Type.Object({
      done: Type.Integer({ description: 'Items that have their line' }),
      failed: Type.Integer({ description: 'Those among them whose line is an error' }),
      total: Nullable(Type.Integer(), { description: 'Items in all; null until they are counted' }),
      tokens: Type.Integer({ description: 'Scored, of prompts and responses' }),
      fraction: Type.Number({ description: 'Of the input, by its bytes' }),
    }),
    result: Nullable(
      Type.Object({
        digest: Digest,
        bytes: Type.Integer(),
        media_type: Type.String({ description: 'NDJSON in gzip: `GET /v1/artifacts/{digest}`' }),
      }),
    ),
    failure: Nullable(
      Type.Object({
        reason: Type.Enum(keysOf(jobs.failureReasons), { description: describeCodes(jobs.failureReasons) }),
        detail: Type.String({ description: 'What happened and what to do' }),
      }),
    ),
    created_at: Timestamp,
    started_at: Nullable(Timestamp),
    finished_at: Nullable(Timestamp),
  },
  {
    $id: 'ScoreJob',
    examples: [
      {
        id: jobExample,
        state: 'succeeded',
        model: { ...modelNamed, precision: 'fp32' },
        input: { artifact: `sha256:${'3f'.repeat(32)}` },
        unit: 'utf16',
        truncate: false,
        include_eos: false,
        progress: { done: 1000, failed: 2, total: 1000, tokens: 61_204, fraction: 1 },
        result: { digest: `sha256:${'c4'.repeat(32)}`, bytes: 184_211, media_type: 'application/gzip' },
        failure: null,
        created_at: '2026-11-23T09:00:00.000Z',
        started_at: '2026-11-23T09:00:00.041Z',
        finished_at: '2026-11-23T09:00:21.507Z',
      },
    ],
  },
);

const params = Type.Object({ score_job_id: Id(jobExample) });

export const scoreJobRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (
  app,
  { services },
) => {
  for (const schema of [Input, NewScoreJob, ScoreJob]) app.addSchema(schema);

  app.post(
    '/v1/score-jobs',
    {
      config: { scope: 'score', idempotency: 'accepted' },
      schema: {
        operationId: 'createScoreJob',
        tags: ['scoring'],
        summary: 'Score a whole file or snapshot in the background',
        description: `Takes an uploaded file of rows, or the texts of a snapshot. The result is NDJSON in gzip, an artifact: a line for each item in its order, \`{line, id}\` with the columns of \`POST /v1/score\`, or with \`status\` \`error\`, \`code\` and \`detail\`; blank lines of a file have none. A line that is broken is an error line and fails nothing else. The model is the one that the name stands for now, whatever becomes of the alias. A job survives the death of its worker, and ends with the same bytes. 429: ${jobs.maxUnfinishedJobs} jobs of the project have not ended yet.`,
        body: Type.Ref('NewScoreJob'),
        response: { 202: Tagged(Type.Ref('ScoreJob')), ...problemResponses(404, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(202, await jobs.createScoreJob(services, request.caller, request.body as jobs.NewScoreJob)),
      ),
  );

  app.get(
    '/v1/score-jobs',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listScoreJobs',
        tags: ['scoring'],
        summary: 'List score jobs, the oldest first',
        description: 'All of the project, or those in one state.',
        querystring: Type.Object(
          { ...PageQuery, state: Type.Optional(State) },
          { additionalProperties: false },
        ),
        response: { 200: Page(Type.Ref('ScoreJob')), ...problemResponses() },
      },
    },
    (request) => jobs.listScoreJobs(services, request.caller, request.query),
  );

  app.get(
    '/v1/score-jobs/:score_job_id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getScoreJob',
        tags: ['scoring'],
        summary: 'How far a score job is',
        description: 'Its state, its progress, and at the end the digest of its result.',
        params,
        headers: ifNoneMatchHeaders,
        response: { 200: Tagged(Type.Ref('ScoreJob')), ...notModified, ...problemResponses(404) },
      },
    },
    async (request, reply) =>
      sendTagged(
        request,
        reply,
        await jobs.getScoreJob(services, request.caller, request.params.score_job_id),
      ),
  );

  app.post(
    '/v1/score-jobs/:score_job_id/cancel',
    {
      config: { scope: 'score', idempotency: 'accepted' },
      schema: {
        operationId: 'cancelScoreJob',
        tags: ['scoring'],
        summary: 'Cancel a score job',
        description:
          'Ends it at once; what was scored so far is gone. Repeated, or on a job that has ended, it changes nothing.',
        params,
        headers: Type.Object(IfMatch),
        response: { 200: Tagged(Type.Ref('ScoreJob')), ...problemResponses(404, 412) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(
          200,
          await jobs.cancelScoreJob(
            services,
            request.caller,
            request.params.score_job_id,
            preconditionOf(request),
          ),
        ),
      ),
  );
};
