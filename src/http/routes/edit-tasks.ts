// /v1/edit-tasks: claim pairs under a lease, renew it, submit the edit, give back, skip; list and get.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import { failureReasons } from '../../domain/edit-answers.ts';
import type { Services } from '../../services/context.ts';
import * as tasks from '../../services/edit-tasks.ts';
import { answerOnce } from '../plugins/idempotency.ts';
import { describeCodes, Id, Nullable, Page, PageQuery, problemResponses, Timestamp } from '../schemas.ts';
import { Instructions, requestExample } from './edit-requests.ts';
import { Comment, EditedResponse, Editor, editExample, pairExample, taskExample } from './edits.ts';

const State = Type.Enum(['open', 'leased', 'submitted', 'failed', 'cancelled'], {
  description:
    '`open`: free to be claimed, at first, after a release, a skip, or when the lease ran out. `leased`: an editor holds it. `submitted`: it has its edit. `failed`: the service’s own editor gave it up; resuming its request with `retry_failed` opens it again. `cancelled`: its request was.',
});
const LeaseSeconds = (options: Record<string, unknown>) =>
  Type.Integer({ minimum: 5, maximum: 86_400, ...options });
const tokenExample = '4Jm0vSxXkqkqV7yq8y0n3w1ZrG5m2bX9e8cT6uHs0aE';
const LeaseToken = Type.String({
  minLength: 1,
  maxLength: 200,
  description: 'Of the claim; it alone says who holds the task',
  examples: [tokenExample],
});

const EditTask = Type.Object(
  {
    id: Id(taskExample),
    edit_request_id: Id(requestExample),
    pair_id: Id(pairExample),
    slot: Type.Integer({
      description: 'Which of the edits wanted of this pair: 1 to the redundancy',
      examples: [1],
    }),
    side: Type.Enum(['a', 'b'], {
      description: 'The less-preferred response when the task was made or last claimed',
    }),
    state: State,
    editor: Nullable(Editor, { description: 'Who holds it, has submitted it, or gave it up' }),
    lease_expires_at: Nullable(Timestamp),
    edit_id: Nullable(Id(editExample), { description: 'The edit that it brought' }),
    failure: Nullable(
      Type.Object({
        reason: Type.Enum(Object.keys(failureReasons), {
          description: describeCodes(failureReasons),
        }),
        detail: Type.String({ description: 'What was wrong, as the model was told' }),
        last_output: Nullable(Type.String(), {
          description: 'The last answer of the model, up to 200,000 characters; null when it gave none',
        }),
      }),
      { description: 'Why a `failed` task was given up', examples: [null] },
    ),
  },
  { $id: 'EditTask' },
);

const ClaimedTask = Type.Object(
  {
    id: Id(taskExample),
    edit_request_id: Id(requestExample),
    lease_token: LeaseToken,
    lease_expires_at: Timestamp,
    pair: Type.Ref('Pair'),
    side: Type.Enum(['a', 'b'], { description: 'Which response to edit: the less-preferred one' }),
    instructions: Instructions,
  },
  { $id: 'ClaimedTask' },
);

const lease = { lease_token: LeaseToken };
const params = Type.Object({ edit_task_id: Id(taskExample) });
const refusals =
  '409 when the lease ran out, the token does not hold this task, it is submitted already, or its request was cancelled; 404 when its pair was deleted.';

export const editTaskRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (
  app,
  { services },
) => {
  app.addSchema(EditTask);
  app.addSchema(ClaimedTask);

  app.post(
    '/v1/edit-tasks/claim',
    {
      config: { scope: 'edits:write', idempotency: 'secret' },
      schema: {
        operationId: 'claimEditTasks',
        tags: ['editing work'],
        summary: 'Claim tasks for an editor',
        description: `Gives up to \`limit\` tasks, each of another pair, to this editor for the time of a lease: of the oldest request first, and there every
pair once before any a second time. An editor is known by name within the project and never gets a pair twice, whatever the request: none that the editor has submitted, holds or has skipped,
nor one whose less-preferred response has an edit by that editor from \`POST /v1/edits\`. A pair that was released, or whose lease ran out, may come back to the same editor. Tasks whose pair has lost its preference wait until it has one.

Nothing to give is no error: \`items\` is empty, and \`open\` says what that means. 0: nothing is left for this editor. More: others hold these pairs and may give them back; ask again in a few seconds.`,
        body: Type.Object(
          {
            editor: Editor,
            edit_request_id: Type.Optional(
              Id(
                requestExample,
                'Of this request only. One that is finished, cancelled, past its deadline or of an archived dataset gives nothing; one for another kind of editor is a 409',
              ),
            ),
            lease_seconds: Type.Optional(
              LeaseSeconds({
                default: tasks.defaultLeaseSeconds,
                description: 'From the claim on, by the clock of the database',
              }),
            ),
            limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 1 })),
          },
          {
            additionalProperties: false,
            examples: [{ editor: { kind: 'person', name: 'annotator-7' }, limit: 10 }],
          },
        ),
        response: {
          200: Type.Object({
            items: Type.Array(Type.Ref('ClaimedTask')),
            open: Nullable(Type.Integer(), {
              examples: [null],
              description:
                'Pairs that this editor may still be given, free ones and those that others hold; null when `limit` tasks were given, as it is not counted then: claim again',
            }),
          }),
          ...problemResponses(404, 409, 413, 415),
        },
      },
    },
    (request) => tasks.claimTasks(services, request.caller, request.body),
  );

  app.get(
    '/v1/edit-tasks',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listEditTasks',
        tags: ['editing work'],
        summary: 'List edit tasks, in the order of the work',
        description: 'Of all edit requests, or of one; `state` picks those that wait, are held or are done.',
        querystring: Type.Object(
          {
            ...PageQuery,
            edit_request_id: Type.Optional(Id(requestExample, 'Only those of this edit request')),
            state: Type.Optional(State),
          },
          { additionalProperties: false },
        ),
        response: { 200: Page(Type.Ref('EditTask')), ...problemResponses(404) },
      },
    },
    (request) => tasks.listTasks(services, request.caller, request.query),
  );

  app.get(
    '/v1/edit-tasks/:edit_task_id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getEditTask',
        tags: ['editing work'],
        summary: 'Get an edit task',
        description:
          'Its state, who holds it and until when, and the edit that it brought; the lease token is known to its holder only.',
        params,
        response: { 200: Type.Ref('EditTask'), ...problemResponses(404) },
      },
    },
    (request) => tasks.getTask(services, request.caller, request.params.edit_task_id),
  );

  app.post(
    '/v1/edit-tasks/:edit_task_id/heartbeat',
    {
      config: { scope: 'edits:write', idempotency: 'accepted' },
      schema: {
        operationId: 'heartbeatEditTask',
        tags: ['editing work'],
        summary: 'Renew the lease of a task',
        description: `The lease counts from now again. ${refusals}`,
        params,
        body: Type.Object(
          {
            ...lease,
            lease_seconds: Type.Optional(LeaseSeconds({ description: 'As many as before unless given' })),
          },
          { additionalProperties: false, examples: [{ lease_token: tokenExample }] },
        ),
        response: { 200: Type.Ref('EditTask'), ...problemResponses(404, 409, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => ({
        status: 200,
        body: await tasks.heartbeatTask(services, request.caller, request.params.edit_task_id, request.body),
      })),
  );

  app.post(
    '/v1/edit-tasks/:edit_task_id/submit',
    {
      config: { scope: 'edits:write', idempotency: 'accepted' },
      schema: {
        operationId: 'submitEditTask',
        tags: ['editing work'],
        summary: 'Submit the edit of a task',
        description: `Stores the edit, by the editor of the claim, and ends the task. The same submission sent again answers the same edit, for a client that
lost the first answer. An edit of a side that has become the preferred one meanwhile is stored as \`stale\`. ${refusals} A refused text is not lost: \`POST /v1/edits\` takes it.`,
        params,
        body: Type.Object(
          { ...lease, edited_response: EditedResponse, comment: Type.Optional(Comment) },
          {
            additionalProperties: false,
            examples: [{ lease_token: tokenExample, edited_response: 'It was opened in 1932.' }],
          },
        ),
        response: { 201: Type.Ref('SubmittedEdit'), ...problemResponses(404, 409, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => ({
        status: 201,
        body: await tasks.submitTask(services, request.caller, request.params.edit_task_id, request.body),
      })),
  );

  app.post(
    '/v1/edit-tasks/:edit_task_id/release',
    {
      config: { scope: 'edits:write', idempotency: 'accepted' },
      schema: {
        operationId: 'releaseEditTask',
        tags: ['editing work'],
        summary: 'Give a task back',
        description: `Every editor may get it then, this one too. ${refusals}`,
        params,
        body: Type.Object(lease, { additionalProperties: false }),
        response: { 200: Type.Ref('EditTask'), ...problemResponses(404, 409, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => ({
        status: 200,
        body: await tasks.releaseTask(services, request.caller, request.params.edit_task_id, request.body),
      })),
  );

  app.post(
    '/v1/edit-tasks/:edit_task_id/skip',
    {
      config: { scope: 'edits:write', idempotency: 'accepted' },
      schema: {
        operationId: 'skipEditTask',
        tags: ['editing work'],
        summary: 'Leave a pair to other editors',
        description: `The task is open to others; this editor does not get its pair again. ${refusals}`,
        params,
        body: Type.Object(
          { ...lease, reason: Type.Optional(Nullable(Type.String({ maxLength: 10_000 }))) },
          {
            additionalProperties: false,
            examples: [{ lease_token: tokenExample, reason: 'nothing to change' }],
          },
        ),
        response: { 200: Type.Ref('EditTask'), ...problemResponses(404, 409, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => ({
        status: 200,
        body: await tasks.skipTask(services, request.caller, request.params.edit_task_id, request.body),
      })),
  );
};
