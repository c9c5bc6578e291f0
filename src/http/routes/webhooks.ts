// /v1/webhooks: be told what happens, and see what was told.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import { pingEvent, type WebhookEvent, webhookEvents } from '../../domain/webhooks.ts';
import type { Services } from '../../services/context.ts';
import * as webhooks from '../../services/webhooks.ts';
import { answerOnce } from '../plugins/idempotency.ts';
import { describeCodes, Id, Nullable, Page, PageQuery, problemResponses, Timestamp } from '../schemas.ts';

const webhookExample = 'wh_019356f0a1b27c3d8e4f5a6b7c8d9e0f';
const deliveryExample = 'whd_019356f0b2c37d4e8f5a6b7c8d9e0f1a';
const runExample = 'run_019356f0e7f89a0b9c2d3e4f5a6b7c8d';
const eventNames = Object.keys(webhookEvents) as WebhookEvent[];

const Url = Type.String({
  maxLength: 2000,
  description:
    'https:// or http://, without user name and password, on port 80, 443 or one from 1024 on; a host with a public address, unless the operator of the service allows it',
  examples: ['https://hooks.example/finegrain?for=me'],
});
const Events = Type.Array(Type.Enum(eventNames), {
  minItems: 1,
  uniqueItems: true,
  description: describeCodes(webhookEvents),
  examples: [['run.succeeded', 'run.failed']],
});
const Description = Nullable(Type.String({ maxLength: 1000 }), {
  examples: ['Tells the channel of the team'],
});

const fields = {
  id: Id(webhookExample),
  url: Url,
  events: Events,
  description: Description,
  state: Type.Enum(['active', 'disabled'], {
    description:
      '`disabled`: deliveries failed for days. It gets no events until a test or a redelivery arrives.',
    examples: ['active'],
  }),
  failing_since: Nullable(Timestamp, {
    description: 'The first failed attempt after the last delivery that arrived',
    examples: [null],
  }),
  disabled_at: Nullable(Timestamp, { examples: [null] }),
  disabled_reason: Nullable(Type.String(), { description: 'What failed, and what to do', examples: [null] }),
  created_at: Timestamp,
};
const Webhook = Type.Object(fields, { $id: 'Webhook' });
const NewWebhook = Type.Object(
  {
    ...fields,
    secret: Type.String({
      description: 'Signs every delivery; shown once, here',
      examples: ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo='],
    }),
  },
  { $id: 'NewWebhook' },
);

const WebhookDelivery = Type.Object(
  {
    id: Id(deliveryExample, 'The same in all attempts, which carry it as `webhook-id`'),
    webhook_id: Id(webhookExample),
    type: Type.Enum([...eventNames, pingEvent], { examples: ['run.succeeded'] }),
    data: Type.Record(Type.String(), Type.Unknown(), {
      description: 'What the event is about: ids and states',
      examples: [{ run_id: runExample, kind: 'sft', state: 'succeeded', model_id: null }],
    }),
    state: Type.Enum(['pending', 'delivered', 'failed'], {
      description:
        '`pending`: to be attempted, for the first time or again. `delivered`: the receiver answered 2xx. `failed`: given up after about a day, at once for a ping; a redelivery makes it pending again.',
      examples: ['delivered'],
    }),
    attempts: Type.Array(
      Type.Object({
        at: Timestamp,
        status: Nullable(Type.Integer(), {
          description: 'Of the answer; null when none came',
          examples: [200],
        }),
        error: Nullable(Type.String(), {
          description: describeCodes(webhooks.deliveryErrors),
          examples: [null],
        }),
        duration_ms: Type.Integer({ examples: [84] }),
      }),
      { description: 'Oldest first' },
    ),
    next_attempt_at: Nullable(Timestamp, {
      description: 'While `pending`: not before this',
      examples: [null],
    }),
    created_at: Timestamp,
    finished_at: Nullable(Timestamp, {
      description: 'When it was delivered, or given up',
      examples: ['2026-11-23T09:00:01.000Z'],
    }),
  },
  { $id: 'WebhookDelivery' },
);

const params = Type.Object({ webhook_id: Id(webhookExample) });

const telling =
  'A delivery is a POST of `{"type", "timestamp", "data"}`, signed as the Standard Webhooks specification says: the header `webhook-signature` is `v1,` and the base64 of the HMAC-SHA256 of `{webhook-id}.{webhook-timestamp}.{body}`, under the secret after `whsec_`, decoded from base64. Check it, and that the timestamp is recent. Answer 2xx within 15 s; redirects are not followed. Anything else is attempted again for about a day, with growing pauses, later if `Retry-After` asks for it. Events arrive at least once and in no certain order: `webhook-id` tells repetitions apart.';

export const webhookRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  for (const schema of [Webhook, NewWebhook, WebhookDelivery]) app.addSchema(schema);

  app.post(
    '/v1/webhooks',
    {
      config: { scope: 'admin', idempotency: 'secret' },
      schema: {
        operationId: 'createWebhook',
        tags: ['webhooks'],
        summary: 'Be told about events at a URL',
        description: telling,
        body: Type.Object(
          { url: Url, events: Events, description: Type.Optional(Description) },
          { additionalProperties: false },
        ),
        response: { 201: Type.Ref('NewWebhook'), ...problemResponses(413, 415) },
      },
    },
    async (request, reply) =>
      reply.code(201).send(await webhooks.createWebhook(services, request.caller, request.body)),
  );

  app.get(
    '/v1/webhooks',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'listWebhooks',
        tags: ['webhooks'],
        summary: 'List webhooks, oldest first',
        description: 'With their state, and since when deliveries fail; never the signing secret.',
        querystring: Type.Object(PageQuery, { additionalProperties: false }),
        response: { 200: Page(Type.Ref('Webhook')), ...problemResponses() },
      },
    },
    (request) => webhooks.listWebhooks(services, request.caller, request.query),
  );

  app.get(
    '/v1/webhooks/:webhook_id',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'getWebhook',
        tags: ['webhooks'],
        summary: 'Get a webhook',
        description: 'Its state, and since when deliveries fail; never the signing secret.',
        params,
        response: { 200: Type.Ref('Webhook'), ...problemResponses(404) },
      },
    },
    (request) => webhooks.getWebhook(services, request.caller, request.params.webhook_id),
  );

  app.delete(
    '/v1/webhooks/:webhook_id',
    {
      config: { scope: 'admin', idempotency: 'accepted' },
      schema: {
        operationId: 'deleteWebhook',
        tags: ['webhooks'],
        summary: 'Delete a webhook, with all of its deliveries',
        description: 'What was not delivered yet is not delivered any more.',
        params,
        response: { 204: Type.Null({ description: 'It is gone' }), ...problemResponses(404) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => {
        await webhooks.deleteWebhook(services, request.caller, request.params.webhook_id);
        return { status: 204 };
      }),
  );

  app.post(
    '/v1/webhooks/:webhook_id/test',
    {
      config: { scope: 'admin', idempotency: 'accepted' },
      schema: {
        operationId: 'testWebhook',
        tags: ['webhooks'],
        summary: 'Send a ping',
        description:
          'The event is of the type `ping`, and is attempted once. When it arrives, a disabled webhook is active again.',
        params,
        response: { 202: Type.Ref('WebhookDelivery'), ...problemResponses(404) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => ({
        status: 202,
        body: await webhooks.testWebhook(services, request.caller, request.params.webhook_id),
      })),
  );

  app.get(
    '/v1/webhooks/:webhook_id/deliveries',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'listWebhookDeliveries',
        tags: ['webhooks'],
        summary: 'List the deliveries of a webhook, newest first',
        description: 'Deliveries that ended are kept for 30 days.',
        params,
        querystring: Type.Object(PageQuery, { additionalProperties: false }),
        response: { 200: Page(Type.Ref('WebhookDelivery')), ...problemResponses(404) },
      },
    },
    (request) => webhooks.listDeliveries(services, request.caller, request.params.webhook_id, request.query),
  );

  app.post(
    '/v1/webhooks/:webhook_id/deliveries/:delivery_id/redeliver',
    {
      config: { scope: 'admin', idempotency: 'accepted' },
      schema: {
        operationId: 'redeliverWebhook',
        tags: ['webhooks'],
        summary: 'Deliver once more',
        description:
          'For a delivery that ended, well or not: it goes out under its old `webhook-id` and is attempted like a new one. 409 while it is pending.',
        params: Type.Object({ webhook_id: Id(webhookExample), delivery_id: Id(deliveryExample) }),
        response: { 202: Type.Ref('WebhookDelivery'), ...problemResponses(404, 409) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => {
        const { webhook_id, delivery_id } = request.params;
        return {
          status: 202,
          body: await webhooks.redeliver(services, request.caller, webhook_id, delivery_id),
        };
      }),
  );
};
