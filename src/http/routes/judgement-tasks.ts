// /v1/judgement-tasks: people claim pairs of responses under a lease, say which is better, give back, skip.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import * as tasks from '../../services/judgement-tasks.ts';
import { Message } from '../../services/pair-rows.ts';
import { answerOnce } from '../plugins/idempotency.ts';
import { describeCodes, Id, Nullable, problemResponses, Timestamp } from '../schemas.ts';
import { Prompt } from './pairs.ts';

const evaluationExample = 'eval_019356f0f1a27b3c8d4e5f6a7b8c9d0e';
const taskExample = 'judg_019356f0f1a27b3c8d4e5f6a7b8c9d0e';
const tokenExample = '4Jm0vSxXkqkqV7yq8y0n3w1ZrG5m2bX9e8cT6uHs0aE';
const closed = { additionalProperties: false };

const LeaseToken = Type.String({
  minLength: 1,
  maxLength: 200,
  description: 'Of the claim; it alone says who holds the pair',
  examples: [tokenExample],
});
const LeaseSeconds = (options: Record<string, unknown>) =>
  Type.Integer({ minimum: 5, maximum: 86_400, ...options });
const lease = { lease_token: LeaseToken };

const JudgementTask = Type.Object(
  {
    id: Id(taskExample),
    evaluation_id: Id(evaluationExample),
    state: Type.Enum(['open', 'leased', 'judged', 'cancelled'], {
      description:
        '`open`: free to be claimed, at first, after a release, a skip, or when the lease ran out. `leased`: somebody holds it. `judged`: done. `cancelled`: its evaluation was.',
    }),
    lease_expires_at: Nullable(Timestamp),
  },
  { $id: 'JudgementTask' },
);

const ClaimedJudgement = Type.Object(
  {
    id: Id(taskExample),
    evaluation_id: Id(evaluationExample),
    lease_token: LeaseToken,
    lease_expires_at: Timestamp,
    prompt: Type.Ref('Prompt'),
    responses: Type.Object(
      { first: Type.String(), second: Type.String() },
      {
        description: 'In an order drawn for this pair; whose they are is not said',
        examples: [
          {
            first: 'Dear Anna, this letter is about the harbor.',
            second: 'Dear Anna, this damn letter is about the garden.',
          },
        ],
      },
    ),
    instructions: Nullable(Type.String(), { examples: [null] }),
  },
  { $id: 'ClaimedJudgement' },
);

const params = Type.Object({ judgement_id: Id(taskExample) });
const refusals =
  '409 when the lease ran out, the token does not hold this pair, it is judged already, or its evaluation was cancelled.';

export const judgementTaskRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (
  app,
  { services },
) => {
  for (const schema of [Message, Prompt, JudgementTask, ClaimedJudgement]) app.addSchema(schema);

  app.post(
    '/v1/judgement-tasks/claim',
    {
      config: { scope: 'evaluations:judge', idempotency: 'secret' },
      schema: {
        operationId: 'claimJudgements',
        tags: ['evaluation'],
        summary: 'Claim pairs of responses to judge',
        description:
          'Gives up to `limit` pairs to this judge for the time of a lease: of the oldest evaluation first, and there every pair once before any a second time. A judge is known by name within the project, and gets a pair once only. Nothing to give is no error: `items` is empty, and `open` says what that means. 0: nothing is left for this judge. More: others hold these pairs and may give them back.',
        body: Type.Object(
          {
            judge: Type.String({
              minLength: 1,
              maxLength: 200,
              description: 'Who judges',
              examples: ['ann'],
            }),
            evaluation_id: Type.Optional(
              Id(evaluationExample, 'Of this evaluation only; one that asks no people is a 409'),
            ),
            lease_seconds: Type.Optional(
              LeaseSeconds({
                default: tasks.defaultLeaseSeconds,
                description: 'From the claim on, by the clock of the database',
              }),
            ),
            limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 1 })),
          },
          { ...closed, examples: [{ judge: 'ann', limit: 10 }] },
        ),
        response: {
          200: Type.Object({
            items: Type.Array(Type.Ref('ClaimedJudgement')),
            open: Nullable(Type.Integer(), {
              examples: [null],
              description:
                'Pairs that this judge may still be given; null when `limit` were given, as it is not counted then',
            }),
          }),
          ...problemResponses(404, 409, 413, 415),
        },
      },
    },
    (request) => tasks.claimJudgements(services, request.caller, request.body),
  );

  app.post(
    '/v1/judgement-tasks/:judgement_id/submit',
    {
      config: { scope: 'evaluations:judge', idempotency: 'accepted' },
      schema: {
        operationId: 'submitJudgement',
        tags: ['evaluation'],
        summary: 'Say which response is better',
        description: `Stores the verdict, by the judge of the claim. The same verdict sent again under the same lease changes nothing. ${refusals}`,
        params,
        body: Type.Object(
          {
            ...lease,
            verdict: Type.Enum(Object.keys(tasks.verdicts) as tasks.Verdict[], {
              description: describeCodes(tasks.verdicts),
            }),
            comment: Type.Optional(Nullable(Type.String({ maxLength: 20_000 }))),
          },
          { ...closed, examples: [{ lease_token: tokenExample, verdict: 'first' }] },
        ),
        response: { 200: Type.Ref('JudgementTask'), ...problemResponses(404, 409, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => ({
        status: 200,
        body: await tasks.submitJudgement(
          services,
          request.caller,
          request.params.judgement_id,
          request.body,
        ),
      })),
  );

  app.post(
    '/v1/judgement-tasks/:judgement_id/heartbeat',
    {
      config: { scope: 'evaluations:judge', idempotency: 'accepted' },
      schema: {
        operationId: 'heartbeatJudgement',
        tags: ['evaluation'],
        summary: 'Renew the lease of a pair',
        description: `The lease counts from now again. ${refusals}`,
        params,
        body: Type.Object(
          {
            ...lease,
            lease_seconds: Type.Optional(LeaseSeconds({ description: 'As many as before unless given' })),
          },
          { ...closed, examples: [{ lease_token: tokenExample }] },
        ),
        response: { 200: Type.Ref('JudgementTask'), ...problemResponses(404, 409, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => ({
        status: 200,
        body: await tasks.heartbeatJudgement(
          services,
          request.caller,
          request.params.judgement_id,
          request.body,
        ),
      })),
  );

  app.post(
    '/v1/judgement-tasks/:judgement_id/release',
    {
      config: { scope: 'evaluations:judge', idempotency: 'accepted' },
      schema: {
        operationId: 'releaseJudgement',
        tags: ['evaluation'],
        summary: 'Give a pair back',
        description: `Every judge may get it then, this one too. ${refusals}`,
        params,
        body: Type.Object(lease, closed),
        response: { 200: Type.Ref('JudgementTask'), ...problemResponses(404, 409, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => ({
        status: 200,
        body: await tasks.releaseJudgement(
          services,
          request.caller,
          request.params.judgement_id,
          request.body,
        ),
      })),
  );

  app.post(
    '/v1/judgement-tasks/:judgement_id/skip',
    {
      config: { scope: 'evaluations:judge', idempotency: 'accepted' },
      schema: {
        operationId: 'skipJudgement',
        tags: ['evaluation'],
        summary: 'Leave a pair to other judges',
        description: `The pair is open to others; this judge does not get it again. ${refusals}`,
        params,
        body: Type.Object(
          { ...lease, reason: Type.Optional(Nullable(Type.String({ maxLength: 10_000 }))) },
          { ...closed, examples: [{ lease_token: tokenExample, reason: 'not my language' }] },
        ),
        response: { 200: Type.Ref('JudgementTask'), ...problemResponses(404, 409, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => ({
        status: 200,
        body: await tasks.skipJudgement(services, request.caller, request.params.judgement_id, request.body),
      })),
  );
};
