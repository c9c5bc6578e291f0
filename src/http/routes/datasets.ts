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

const DatasetStats = Type.Object(
  {
    pairs: Type.Integer(),
    preferences: Type.Object({ a: Type.Integer(), b: Type.Integer(), undecided: Type.Integer() }),
    edited_pairs: Type.Integer({ description: 'Pairs with at least one accepted edit' }),
    accepted_edits: Type.Integer(),
  },
  {
    $id: 'DatasetStats',
    examples: [
      {
        pairs: 4000,
        preferences: { a: 1962, b: 1988, undecided: 50 },
        edited_pairs: 3600,
        accepted_edits: 3712,
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
        summary: 'Count pairs, preferences and edits',
        description: 'Counted now: pairs by preference, pairs with an accepted edit, accepted edits.',
        params,
        response: { 200: Type.Ref('DatasetStats'), ...problemResponses(404) },
      },
    },
    (request) => datasets.getDatasetStats(services, request.caller, request.params.dataset_id),
  );
};
