// /v1/datasets: create, list, get, rename, archive, count.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import * as datasets from '../../services/datasets.ts';
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
import { Id, Nullable, Page, PageQuery, problemResponses, Timestamp } from '../schemas.ts';

const exampleId = 'ds_019356f0a1b27c3d8e4f5a6b7c8d9e0f';
const Name = Type.String({ minLength: 1, maxLength: 200, examples: ['support-chat'] });
const Description = Nullable(Type.String({ maxLength: 10_000 }), {
  examples: ['Answers of the support assistant, judged by its users'],
});

const policyFields = {
  max_changed_fraction: Type.Number({
    minimum: 0,
    maximum: 1,
    description: 'Share of both texts together that an edit may change; 0.6 at first',
  }),
  max_hunks: Nullable(Type.Integer({ minimum: 1 }), {
    description: 'Changed places that an edit may have; null, at first: any number',
  }),
  max_length_change: Nullable(Type.Number({ minimum: 0 }), {
    description: 'By which share of the original the length may change, 0.2 for a fifth; null, at first: any',
  }),
  on_excess: Type.Enum(['warn', 'refuse'], {
    description:
      'What becomes of an edit over a threshold, or one that keeps no word. `warn`, at first: it is stored with warnings and carries no token labels; `refuse`: 422 `edit_refused`, and nothing is stored',
  }),
  review: Type.Enum(['none', 'required'], {
    description:
      '`none`: at first. `required`: new edits are `pending`, and no snapshot takes them, until a reviewer decides',
  }),
};
const policyExample = {
  max_changed_fraction: 0.4,
  max_hunks: 5,
  max_length_change: null,
  on_excess: 'refuse',
  review: 'required',
};
const EditPolicy = Type.Object(policyFields, {
  $id: 'EditPolicy',
  description: 'What the dataset asks of its edits from now on; edits that are stored stay as they are',
  examples: [policyExample],
});
const EditPolicyChange = Type.Partial(Type.Object(policyFields), {
  additionalProperties: false,
  description: 'What is not given stays as it is',
  examples: [{ max_changed_fraction: 0.4, on_excess: 'refuse' }],
});

export const Dataset = Type.Object(
  {
    id: Id(exampleId),
    name: Name,
    description: Description,
    edit_policy: Type.Ref('EditPolicy'),
    created_at: Timestamp,
    archived_at: Nullable(Timestamp, { description: 'When it left the list; its data stay' }),
  },
  { $id: 'Dataset' },
);

const Count = Type.Integer({ minimum: 0 });
const Length = Nullable(Type.Integer({ minimum: 0 }));
const Lengths = Type.Object({
  min: Length,
  median: Length,
  mean: Nullable(Type.Number()),
  p95: Length,
  max: Length,
});
const Moment = Nullable(Timestamp);

const DatasetStats = Type.Object(
  {
    pairs: Count,
    preferences: Type.Object({ a: Count, b: Count, undecided: Count }),
    edited_pairs: Type.Integer({ description: 'Pairs with at least one accepted edit' }),
    accepted_edits: Count,
    lengths: Type.Object(
      { prompt: Lengths, response_a: Lengths, response_b: Lengths, edited_response: Lengths },
      {
        description:
          'In Unicode code points; of a conversation those of its messages together. Null where there is none',
      },
    ),
    duplicates: Type.Object({
      prompts: Type.Integer({ description: 'Pairs whose prompt another pair has too' }),
      pairs: Type.Integer({ description: 'Pairs whose prompt and responses another pair has too' }),
      identical_responses: Type.Integer({ description: 'Pairs whose two responses are equal' }),
    }),
    edits: Type.Object({
      total: Count,
      by_status: Type.Object({
        pending: Count,
        accepted: Count,
        unchanged: Count,
        stale: Count,
        rejected: Count,
        superseded: Count,
      }),
      by_editor: Type.Object({ person: Count, llm: Count, program: Count }),
      mean_changed_fraction: Nullable(Type.Number(), {
        description: 'Of the accepted edits: the share of both texts together that is changed',
      }),
    }),
    created: Type.Object({ first: Moment, last: Moment }, { description: 'When pairs were added' }),
  },
  {
    $id: 'DatasetStats',
    examples: [
      {
        pairs: 4000,
        preferences: { a: 1962, b: 1988, undecided: 50 },
        edited_pairs: 3600,
        accepted_edits: 3712,
        lengths: {
          prompt: { min: 12, median: 141, mean: 170.2, p95: 402, max: 2031 },
          response_a: { min: 1, median: 310, mean: 355.9, p95: 811, max: 4096 },
          response_b: { min: 0, median: 322, mean: 361.4, p95: 829, max: 4096 },
          edited_response: { min: 2, median: 315, mean: 357.1, p95: 817, max: 4090 },
        },
        duplicates: { prompts: 120, pairs: 0, identical_responses: 2 },
        edits: {
          total: 3760,
          by_status: { pending: 0, accepted: 3712, unchanged: 8, stale: 30, rejected: 10, superseded: 0 },
          by_editor: { person: 3000, llm: 760, program: 0 },
          mean_changed_fraction: 0.14,
        },
        created: { first: '2026-11-23T09:00:00.000Z', last: '2026-11-28T09:00:00.000Z' },
      },
    ],
  },
);

const params = Type.Object({ dataset_id: Id(exampleId) });

export const datasetRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  app.addSchema(EditPolicy);
  app.addSchema(Dataset);
  app.addSchema(DatasetStats);

  app.post(
    '/v1/datasets',
    {
      config: { scope: 'pairs:write', idempotency: 'accepted' },
      schema: {
        operationId: 'createDataset',
        tags: ['datasets'],
        summary: 'Create a dataset',
        description: 'An empty one, for pairs. Names need not be unique.',
        body: Type.Object(
          {
            name: Name,
            description: Type.Optional(Description),
            edit_policy: Type.Optional(EditPolicyChange),
          },
          { additionalProperties: false },
        ),
        response: { 201: Type.Ref('Dataset'), ...problemResponses(413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => ({
        status: 201,
        body: await datasets.createDataset(services, request.caller, request.body),
      })),
  );

  app.get(
    '/v1/datasets',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listDatasets',
        tags: ['datasets'],
        summary: 'List datasets, oldest first',
        description: 'Without archived ones, unless `archived` is set.',
        querystring: Type.Object(
          {
            ...PageQuery,
            archived: Type.Optional(Type.Boolean({ description: 'Archived ones as well', default: false })),
          },
          { additionalProperties: false },
        ),
        response: { 200: Page(Type.Ref('Dataset')), ...problemResponses() },
      },
    },
    (request) => datasets.listDatasets(services, request.caller, request.query),
  );

  app.get(
    '/v1/datasets/:dataset_id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getDataset',
        tags: ['datasets'],
        summary: 'Get a dataset',
        description: 'By its id, archived or not.',
        params,
        headers: ifNoneMatchHeaders,
        response: { 200: Tagged(Type.Ref('Dataset')), ...notModified, ...problemResponses(404) },
      },
    },
    async (request, reply) =>
      sendTagged(
        request,
        reply,
        await datasets.getDataset(services, request.caller, request.params.dataset_id),
      ),
  );

  app.patch(
    '/v1/datasets/:dataset_id',
    {
      config: { scope: 'pairs:write', idempotency: 'accepted' },
      schema: {
        operationId: 'updateDataset',
        tags: ['datasets'],
        summary: 'Rename, describe, archive or restore a dataset, or change its edit policy',
        description:
          'Only the fields that are given change. An archived dataset leaves the list and hands out no editing work; its data stay and can still be read.',
        params,
        headers: Type.Object(IfMatch),
        body: Type.Object(
          {
            name: Type.Optional(Name),
            description: Type.Optional(Description),
            archived: Type.Optional(Type.Boolean()),
            edit_policy: Type.Optional(EditPolicyChange),
          },
          { additionalProperties: false, minProperties: 1 },
        ),
        response: { 200: Tagged(Type.Ref('Dataset')), ...problemResponses(404, 412, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(
          200,
          await datasets.updateDataset(
            services,
            request.caller,
            request.params.dataset_id,
            request.body,
            preconditionOf(request),
          ),
        ),
      ),
  );

  app.get(
    '/v1/datasets/:dataset_id/stats',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getDatasetStats',
        tags: ['datasets'],
        summary: 'What is in a dataset: preferences, lengths, duplicates, edits',
        description: 'Counted now, over all of its pairs and edits: a second or so for 200,000 pairs.',
        params,
        response: { 200: Type.Ref('DatasetStats'), ...problemResponses(404) },
      },
    },
    (request) => datasets.getDatasetStats(services, request.caller, request.params.dataset_id),
  );
};
