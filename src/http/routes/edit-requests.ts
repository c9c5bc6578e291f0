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
import { LlmLimits, LlmStopped, LlmUsage, llmSettings, MaxTokens, Temperature } from '../llm-schemas.ts';
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

const Deadline = Nullable(
  Type.String({ format: 'date-time', description: 'RFC 3339', examples: ['2027-01-31T17:00:00Z'] }),
  {
    description:
      'No task is given out after it; whoever holds one then may renew its lease and submit. What is left makes the request `expired`.',
  },
);

const settings = {
  ...llmSettings,
  temperature: Temperature('Left to the endpoint unless given'),
  max_tokens: MaxTokens(
    'Of an answer, thoughts included; unless given as many as the response can have, and 1024',
  ),
};
const llmExample = {
  base_url: 'https://llm.example/v1',
  model: 'qwen3-8b',
  secret: 'llm-api-key',
  concurrency: 8,
  price: { input_per_million: 0.2, output_per_million: 0.8 },
  limits: { max_cost: 5 },
};
const NewLlmEditor = Type.Object(
  { ...settings, limits: Type.Optional(Nullable(Type.Ref('LlmLimits'))) },
  { $id: 'NewLlmEditor', additionalProperties: false, examples: [llmExample] },
);
const LlmEditor = Type.Object(
  { ...settings, limits: Type.Ref('LlmLimits') },
  { $id: 'LlmEditor', description: 'The service’s own editor, as it was asked for', examples: [llmExample] },
);

const summary = {
  id: Id(requestExample),
  dataset_id: Id(datasetExample),
  filter: Type.Ref('EditFilter'),
  editor: Type.Enum(['person', 'program', 'llm'], { description: 'Whose edits are wanted' }),
  redundancy: Redundancy,
  instructions: Instructions,
  deadline: Deadline,
  state: Type.Enum(['open', 'stopped', 'expired', 'finished', 'cancelled'], {
    description:
      '`open`: tasks are open or leased. `stopped`: so they are, and the service’s own editor does not go on before it is resumed; `stopped` says why. `expired`: so they are, and the deadline is over. `finished`: every task is submitted or failed. `cancelled`: by somebody, with tasks left.',
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
        failed: Type.Integer({ description: 'Given up by the service’s own editor' }),
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
        examples: [
          { open: 5120, leased: 80, submitted: 2000, failed: 0, cancelled: 0, total: 7200, skipped: 12 },
        ],
      },
    ),
    editors: Type.Array(
      Type.Object({
        ...Editor.properties,
        submitted: Type.Integer(),
        leased: Type.Integer(),
        failed: Type.Integer(),
        skipped: Type.Integer(),
      }),
      {
        description: 'What each editor has done; the busiest first',
        examples: [
          [{ kind: 'person', name: 'annotator-7', submitted: 412, leased: 10, failed: 0, skipped: 3 }],
        ],
      },
    ),
    llm: Nullable(Type.Ref('LlmEditor'), { description: 'Of the editor `llm`; null for others' }),
    usage: Nullable(Type.Ref('LlmUsage'), { description: 'What `llm` has used so far' }),
    stopped: Nullable(Type.Ref('LlmStopped'), {
      description: 'Why `llm` does not go on; null while it does',
    }),
  },
  { $id: 'EditRequest' },
);

const params = Type.Object({ edit_request_id: Id(requestExample) });

export const editRequestRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (
  app,
  { services },
) => {
  for (const schema of [
    EditFilter,
    LlmLimits,
    NewLlmEditor,
    LlmEditor,
    LlmUsage,
    LlmStopped,
    EditRequestSummary,
    EditRequest,
  ])
    app.addSchema(schema);

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
editors of the kind \`person\`, those for a \`program\` to the kinds \`program\` and \`llm\`. A dataset that is archived takes no request (409); when it is archived later, its tasks are not given
out until it is restored.

Those for an \`llm\` are done by the service's own editor: it asks the endpoint of \`llm\` for the smallest edit that makes the response at least as good as the
preferred one, takes no rewrite, and asks once more before it gives a task up (\`failed\`). Its edits name the model as their editor, \`{kind: "llm", name: MODEL}\`; a further sample
of the same pair, for the redundancy or another request, is \`MODEL#2\`, \`MODEL#3\` and so on, so that no editor gets a pair twice. An endpoint that is busy or
fails is asked again later; where only a person can help, or a limit is reached, the request is \`stopped\` until \`/resume\`.`,
        body: Type.Object(
          {
            dataset_id: Id(datasetExample),
            filter: Type.Optional(Type.Ref('EditFilter')),
            editor: Type.Enum(['person', 'program', 'llm'], {
              description: 'Whose edits are wanted; `llm` is the service’s own editor, and needs `llm`',
              examples: ['person'],
            }),
            redundancy: Type.Optional(Redundancy),
            instructions: Type.Optional(Instructions),
            deadline: Type.Optional(Deadline),
            llm: Type.Optional(Type.Ref('NewLlmEditor')),
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

  app.post(
    '/v1/edit-requests/:edit_request_id/resume',
    {
      config: { scope: 'pairs:write', idempotency: 'accepted' },
      schema: {
        operationId: 'resumeEditRequest',
        tags: ['editing work'],
        summary: 'Let the service’s own editor go on',
        description: `After the cause of \`stopped\` is mended: a secret is set again, an endpoint is back, a limit is raised. \`limits\` take the place of the old ones,
at any time (with a secret that needs the scope \`admin\`); without them they stay. \`retry_failed\` opens failed tasks again. 409 for a request that is cancelled or expired, or not for an \`llm\`.`,
        params,
        headers: Type.Object(IfMatch),
        body: Type.Object(
          {
            limits: Type.Optional(Nullable(Type.Ref('LlmLimits'))),
            retry_failed: Type.Optional(
              Type.Boolean({
                default: false,
                description: 'Failed tasks too; on a finished request these alone',
              }),
            ),
          },
          { additionalProperties: false, examples: [{ limits: { max_cost: 10 } }] },
        ),
        response: { 200: Tagged(Type.Ref('EditRequest')), ...problemResponses(404, 409, 412, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(
          200,
          await requests.resumeEditRequest(
            services,
            request.caller,
            request.params.edit_request_id,
            request.body as requests.Resumption,
            preconditionOf(request),
          ),
        ),
      ),
  );
};
