// /v1/edit-requests: ask for edits of the pairs of a dataset, see how far they are, cancel.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import * as requests from '../../services/edit-requests.ts';
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
import { datasetExample, Editor } from './edits.ts';
import { pairFilterFields } from './pairs.ts';

export const requestExample = 'ereq_019356f0c8f17a2b9c3d4e5f6a7b8c9d';

const EditFilter = Type.Object(
  {
    ...pairFilterFields,
    limit: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 100_000_000,
        description: 'At most so many pairs, the oldest',
        examples: [1000],
      }),
    ),
  },
  {
    $id: 'EditFilter',
    additionalProperties: false,
    description: 'Which pairs of the dataset; all of these must hold',
  },
);

const Redundancy = Type.Integer({
  minimum: 1,
  maximum: 9,
  default: 1,
  description: 'Edits wanted of each pair, each by another editor',
});
export const Instructions = Nullable(Type.String({ maxLength: 100_000 }), {
  description: 'For the editors; every claim answers them',
  examples: ['Change as little as possible. Correct facts, remove insults.'],
});

const summary = {
  id: Id(requestExample),
  dataset_id: Id(datasetExample),
  filter: Type.Ref('EditFilter'),
  editor: Type.Enum(['person', 'program', 'llm'], { description: 'Whose edits are wanted' }),
  redundancy: Redundancy,
  instructions: Instructions,
  state: Type.Enum(['open', 'finished', 'cancelled'], {
    description:
      '`open`: tasks are open or leased. `finished`: every task is submitted. `cancelled`: by somebody, with tasks left.',
  }),
  pairs: Type.Integer({ description: 'That became tasks', examples: [3600] }),
  skipped: Type.Object(
    {
      no_preference: Type.Integer({ description: 'Which response is the lesser is not known yet' }),
      over_limit: Type.Integer({ description: 'Beyond the limit of the filter' }),
      unknown_external_ids: Type.Integer({ description: 'Named by the filter, and not in the dataset' }),
    },
    {
      description: 'What the filter named and no task was made of',
      examples: [{ no_preference: 50, over_limit: 0, unknown_external_ids: 0 }],
    },
  ),
  created_at: Timestamp,
  cancelled_at: Nullable(Timestamp, { examples: [null] }),
};

const EditRequestSummary = Type.Object(summary, { $id: 'EditRequestSummary' });

const EditRequest = Type.Object(
  {
    ...summary,
    progress: Type.Object(
      {
        open: Type.Integer({ description: 'Free to be claimed; a task whose lease ran out is among them' }),
        leased: Type.Integer({ description: 'In the hands of an editor' }),
        submitted: Type.Integer(),
        cancelled: Type.Integer(),
        total: Type.Integer({
          description: 'Pairs × redundancy; a pair that is deleted takes its tasks along',
        }),
        skipped: Type.Integer({
          description: 'How often an editor skipped a pair. That ends no task: it is open to the others.',
        }),
      },
      {
        description: 'Tasks by state',
        examples: [{ open: 5120, leased: 80, submitted: 2000, cancelled: 0, total: 7200, skipped: 12 }],
      },
    ),
    editors: Type.Array(
      Type.Object({
        ...Editor.properties,
        submitted: Type.Integer(),
        leased: Type.Integer(),
        skipped: Type.Integer(),
      }),
      {
        description: 'What each editor has done; the busiest first',
        examples: [[{ kind: 'person', name: 'annotator-7', submitted: 412, leased: 10, skipped: 3 }]],
      },
    ),
  },
  { $id: 'EditRequest' },
);

const params = Type.Object({ edit_request_id: Id(requestExample) });

export const editRequestRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (
  app,
  { services },
) => {
  for (const schema of [EditFilter, EditRequestSummary, EditRequest]) app.addSchema(schema);

  app.post(
    '/v1/edit-requests',
    {
      config: { scope: 'pairs:write', idempotency: 'accepted' },
      schema: {
        operationId: 'createEditRequest',
        tags: ['editing work'],
        summary: 'Ask for edits of the pairs of a dataset',
        description: `Makes tasks of the pairs that are there now: \`redundancy\` of them for each pair whose preference is known. An editor
works on the less-preferred response. Tasks are done through \`POST /v1/edit-tasks/claim\` with the scope \`edits:write\`; those of a request for a \`person\` are given to
editors of the kind \`person\`, those for a \`program\` to the kinds \`program\` and \`llm\`. The editor \`llm\`, the service's own, is not there yet (422). A dataset that is archived
takes no request (409); when it is archived later, its tasks are not given out until it is restored.`,
        body: Type.Object(
          {
            dataset_id: Id(datasetExample),
            filter: Type.Optional(Type.Ref('EditFilter')),
            editor: Type.Enum(['person', 'program', 'llm'], {
              description: 'Whose edits are wanted; `llm` is not there yet',
              examples: ['person'],
            }),
            redundancy: Type.Optional(Redundancy),
            instructions: Type.Optional(Instructions),
          },
          {
            additionalProperties: false,
            examples: [
              {
                dataset_id: datasetExample,
                editor: 'person',
                redundancy: 2,
                filter: { has_edit: false },
                instructions: 'Change as little as possible. Correct facts, remove insults.',
              },
            ],
          },
        ),
        response: { 202: Type.Ref('EditRequest'), ...problemResponses(404, 409, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => ({
        status: 202,
        body: await requests.createEditRequest(
          services,
          request.caller,
          request.body as requests.NewEditRequest,
        ),
      })),
  );

  app.get(
    '/v1/edit-requests',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listEditRequests',
        tags: ['editing work'],
        summary: 'List edit requests, oldest first',
        description: 'Of the project, or of one dataset, each with its progress.',
        querystring: Type.Object(
          { ...PageQuery, dataset_id: Type.Optional(Id(datasetExample, 'Only those of this dataset')) },
          { additionalProperties: false },
        ),
        response: { 200: Page(Type.Ref('EditRequestSummary')), ...problemResponses(404) },
      },
    },
    (request) => requests.listEditRequests(services, request.caller, request.query),
  );

  app.get(
    '/v1/edit-requests/:edit_request_id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getEditRequest',
        tags: ['editing work'],
        summary: 'Get an edit request with its progress',
        description: 'Tasks by state, and what each editor has done.',
        params,
        headers: ifNoneMatchHeaders,
        response: { 200: Tagged(Type.Ref('EditRequest')), ...notModified, ...problemResponses(404) },
      },
    },
    async (request, reply) =>
      sendTagged(
        request,
        reply,
        await requests.getEditRequest(services, request.caller, request.params.edit_request_id),
      ),
  );

  app.post(
    '/v1/edit-requests/:edit_request_id/cancel',
    {
      config: { scope: 'pairs:write', idempotency: 'accepted' },
      schema: {
        operationId: 'cancelEditRequest',
        tags: ['editing work'],
        summary: 'Cancel what is not submitted',
        description:
          'Open and leased tasks are cancelled: whoever holds one is told so (409) by the next call. Edits that were submitted stay. Repeated, or on a finished request, it changes nothing.',
        params,
        headers: Type.Object(IfMatch),
        response: { 200: Tagged(Type.Ref('EditRequest')), ...problemResponses(404, 412) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(
          200,
          await requests.cancelEditRequest(
            services,
            request.caller,
            request.params.edit_request_id,
            preconditionOf(request),
          ),
        ),
      ),
  );
};
