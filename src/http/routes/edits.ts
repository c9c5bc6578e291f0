// Minimal edits: submit, preview, list, get, review.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import * as decisions from '../../services/edit-decisions.ts';
import * as transfer from '../../services/edit-transfer.ts';
import * as edits from '../../services/edits.ts';
import { maxTextLength } from '../../services/pair-rows.ts';
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
import { Id, Nullable, Page, PageQuery, problemResponses, Span, Timestamp } from '../schemas.ts';
import {
  ndjsonType,
  passStream,
  readRows,
  rowTypes,
  sendStream,
  streamed,
  streamedBody,
} from '../streams.ts';

export const editExample = 'edit_019356f0c5d67e8f9a0b1c2d3e4f5a6b';
export const pairExample = 'pair_019356f0b3c47d5e8f6a7b8c9d0e1f2a';
export const datasetExample = 'ds_019356f0a1b27c3d8e4f5a6b7c8d9e0f';
const original = 'It was opened in 1936, and it is the best bridge of all.';
const edited = 'It was opened in 1932.';

export const taskExample = 'etask_019356f0d6e77f9a8b1c2d3e4f5a6b7c';

const Side = Type.Enum(['a', 'b']);
const Unit = Type.Enum(['utf16', 'codepoint', 'byte'], {
  default: 'utf16',
  description: 'What offsets count: UTF-16 code units, Unicode code points or UTF-8 bytes',
});
const Status = Type.Enum([...edits.editStatuses], {
  description:
    '`pending`: waits for a reviewer, as its dataset asks for reviews. `accepted`: snapshots take it. `unchanged`: equal to its original, kept out. `stale`: the preference of its pair is now on its side; it is `accepted` again when the preference moves back. `rejected`: by a reviewer. `superseded`: a reviewer put another edit in its place.',
});

/** Of 'It was opened in 1936.' and 'It was opened in 1932.' */
const alignmentExample = {
  version: 1,
  segments: [
    { kind: 'keep', original: [0, 17], edited: [0, 17] },
    { kind: 'replace', original: [17, 21], edited: [17, 21] },
    { kind: 'keep', original: [21, 22], edited: [21, 22] },
  ],
  changed_original: [[17, 21]],
  changed_edited: [[17, 21]],
  stats: {
    changed_fraction_original: 0.182,
    changed_fraction_edited: 0.182,
    similarity: 0.818,
    hunks: 1,
    length_change: 0,
  },
  minimal: true,
  warnings: [],
};

export const AlignmentSegment = Type.Object({
  kind: Type.Enum(['keep', 'replace', 'insert', 'delete']),
  original: Span,
  edited: Span,
});

const Alignment = Type.Object(
  {
    version: Type.Integer({ description: 'Of the algorithm that made it' }),
    segments: Type.Array(AlignmentSegment, { description: 'In order; they tile both texts' }),
    changed_original: Type.Array(Span),
    changed_edited: Type.Array(Span),
    stats: Type.Object({
      changed_fraction_original: Type.Number(),
      changed_fraction_edited: Type.Number(),
      similarity: Type.Number({ description: '1 for equal texts' }),
      hunks: Type.Integer({ description: 'Changed places' }),
      length_change: Type.Optional(
        Nullable(Type.Number(), {
          description:
            'Of the edited text, as a share of the original; null when only the original is empty. Edits of older versions have none.',
        }),
      ),
    }),
    minimal: Type.Boolean({
      description:
        'An edit rather than a rewrite, by the thresholds of the dataset: only then its tokens train a reward model',
    }),
    warnings: Type.Array(Type.Object({ code: Type.String(), detail: Type.String() })),
  },
  {
    $id: 'Alignment',
    examples: [alignmentExample],
    description: 'What an edit changed, with offsets in UTF-16 code units unless another unit was asked for',
  },
);

const TokenSide = Type.Object({
  token_ids: Type.Array(Type.Integer()),
  offsets: Type.Array(Span),
  changed: Type.Array(Type.Boolean()),
});

const Preview = Type.Object(
  {
    ...Alignment.properties,
    refused: Type.Boolean({ description: 'The dataset that was named would not take the edit' }),
    tokens: Type.Optional(
      Type.Object(
        { original: TokenSide, edited: TokenSide },
        { description: 'When a model is named: the texts as its tokenizer sees them' },
      ),
    ),
  },
  { $id: 'EditPreview', examples: [{ ...alignmentExample, refused: false }] },
);

export const Editor = Type.Object(
  {
    kind: Type.Enum(['person', 'llm', 'program']),
    name: Type.String({ minLength: 1, maxLength: 200, examples: ['annotator-7'] }),
  },
  { additionalProperties: false },
);

export const EditedResponse = Type.String({ maxLength: maxTextLength, examples: [edited] });
export const Comment = Nullable(Type.String({ maxLength: 10_000 }), { examples: ['the year was wrong'] });

const Edit = Type.Object(
  {
    id: Id(editExample),
    pair_id: Id(pairExample),
    side: Side,
    edited_response: Type.String({ examples: [edited] }),
    editor: Editor,
    comment: Comment,
    status: Status,
    alignment: Type.Ref('Alignment'),
    edit_task_id: Nullable(Id(taskExample), {
      description: 'The task that it answered; null for one that was posted',
    }),
    prompt_version: Nullable(Type.String(), {
      description:
        'The prompt that the service’s own editor was asked with; null for the edits of all others',
      examples: [null],
    }),
    decided_at: Nullable(Timestamp, { description: 'When a reviewer decided last' }),
    superseded_by: Nullable(Id(editExample), {
      description: 'The edit that a reviewer put in its place',
      examples: [null],
    }),
    created_at: Timestamp,
  },
  { $id: 'Edit' },
);

const Decision = Type.Enum(['accept', 'reject', 'supersede']);
const Reviewer = Type.String({ minLength: 1, maxLength: 200, examples: ['lead-1'] });
const Reason = Nullable(Type.String({ maxLength: 10_000 }), { examples: ['the year was wrong'] });

const EditDecision = Type.Object(
  {
    id: Id('edec_019356f0e7f88a9b9c1d2e3f4a5b6c7d'),
    edit_id: Id(editExample),
    decision: Decision,
    reviewer: Reviewer,
    reason: Reason,
    superseded_by: Nullable(Id(editExample), { examples: [null] }),
    created_at: Timestamp,
  },
  { $id: 'EditDecision' },
);

const editParams = Type.Object({ edit_id: Id(editExample) });

const SubmittedEdit = Type.Object(
  { id: Id(editExample), status: Status, alignment: Type.Ref('Alignment') },
  { $id: 'SubmittedEdit' },
);

const NewEdit = Type.Object(
  {
    pair_id: Type.Optional(Id(pairExample, 'The pair; or name it by dataset_id and pair_external_id')),
    dataset_id: Type.Optional(Id(datasetExample)),
    pair_external_id: Type.Optional(Type.String({ examples: ['conversation-17'] })),
    side: Type.Optional(
      Type.Enum(['a', 'b'], {
        description:
          'Which response was edited; the less-preferred one unless given. Required while the preference is null.',
      }),
    ),
    edited_response: EditedResponse,
    editor: Editor,
    comment: Type.Optional(Comment),
  },
  {
    $id: 'NewEdit',
    additionalProperties: false,
    examples: [
      { pair_id: pairExample, edited_response: edited, editor: { kind: 'person', name: 'annotator-7' } },
    ],
  },
);

const rowExample = `${JSON.stringify({
  pair_id: pairExample,
  pair_external_id: null,
  side: 'b',
  edited_response: edited,
  editor: { kind: 'person', name: 'annotator-7' },
  comment: null,
})}\n`;

export const editRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  for (const schema of [Alignment, Preview, Edit, EditDecision, SubmittedEdit, NewEdit])
    app.addSchema(schema);
  app.addContentTypeParser(rowTypes, passStream);

  app.post(
    '/v1/edits',
    {
      config: { scope: 'edits:write', idempotency: 'accepted' },
      bodyLimit: 32 * 1024 * 1024,
      schema: {
        operationId: 'createEdits',
        tags: ['edits'],
        summary: 'Submit up to 1,000 edits, all or none',
        description:
          'For pipelines that have edits already. At most 32 MiB. Each answer says how the edit aligns with its original and whether it is minimal. Where the dataset refuses larger edits, one of them refuses the whole batch (422 `edit_refused`).',
        body: Type.Object(
          { edits: Type.Array(Type.Ref('NewEdit'), { minItems: 1, maxItems: 1000 }) },
          { additionalProperties: false },
        ),
        response: {
          201: Type.Object({
            items: Type.Array(Type.Ref('SubmittedEdit'), { description: 'In the order of the request' }),
          }),
          ...problemResponses(404, 413, 415),
        },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => ({
        status: 201,
        body: await edits.createEdits(services, request.caller, request.body.edits as edits.NewEdit[]),
      })),
  );

  app.post(
    '/v1/edits/import',
    {
      config: { scope: 'edits:write', idempotency: 'stream' },
      schema: {
        operationId: 'importEdits',
        tags: ['edits'],
        summary: 'Import edits from an NDJSON stream of any length, or a Parquet file',
        description: `One edit a line (at most 8 MiB each), as \`POST /v1/edits\` takes them or as the export gives them. A row that names its pair by \`pair_external_id\` alone means
one of the dataset \`dataset_id\`. Bad rows are reported by line and skipped, good ones are kept. An edit is \`unchanged\` when its editor gave the same text for the same response
before: repeating an import adds nothing. A Parquet file has the same columns, \`editor\` as a struct or JSON text.`,
        querystring: Type.Object(
          {
            dataset_id: Type.Optional(Id(datasetExample, 'Of the pairs that rows name by external id alone')),
          },
          { additionalProperties: false },
        ),
        body: streamedBody(rowTypes, 'One edit a line', rowExample),
        response: { 200: Type.Ref('ImportResult'), ...problemResponses(404, 413, 415) },
      },
    },
    (request) =>
      transfer.importEdits(services, request.caller, request.query.dataset_id, readRows(request, 'edit')),
  );

  app.get(
    '/v1/edits/export',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'exportEdits',
        tags: ['edits'],
        summary: 'Export the edits of a dataset as NDJSON',
        description:
          'One edit a line, oldest first, without its alignment. Imported into the same project it changes nothing; with the `dataset_id` of a copy of the pairs it adds the edits to those with the same external ids.',
        querystring: Type.Object(
          {
            dataset_id: Id(datasetExample, 'Of this dataset'),
            status: Type.Optional(Status),
          },
          { additionalProperties: false },
        ),
        response: { 200: streamed(ndjsonType, 'One edit a line', rowExample), ...problemResponses(404) },
      },
    },
    async (request, reply) =>
      sendStream(reply, ndjsonType, await transfer.exportEdits(services, request.caller, request.query)),
  );

  app.post(
    '/v1/edits/preview',
    {
      config: { scope: 'read', idempotency: 'nothing_stored' },
      schema: {
        operationId: 'previewEdit',
        tags: ['edits'],
        summary: 'Align an edit with its original, storing nothing',
        description:
          'What `POST /v1/edits` would find: the changed places, and whether the edit is minimal, by the policy of a dataset if one is named. With a `model` also the tokens of both texts and which of them count as changed.',
        body: Type.Object(
          {
            original: Type.String({ maxLength: maxTextLength, examples: [original] }),
            edited: Type.String({ maxLength: maxTextLength, examples: [edited] }),
            dataset_id: Type.Optional(Id(datasetExample, 'Judge by the policy of this dataset')),
            model: Type.Optional(
              Type.String({
                description: 'Id or alias: adds the tokens of its tokenizer',
                examples: ['token-reward'],
              }),
            ),
            unit: Type.Optional(Unit),
          },
          { additionalProperties: false },
        ),
        response: { 200: Type.Ref('EditPreview'), ...problemResponses(404, 413, 415) },
      },
    },
    (request) => edits.previewEdit(services, request.caller, request.body),
  );

  app.get(
    '/v1/edits',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listEdits',
        tags: ['edits'],
        summary: 'List edits, oldest first',
        description:
          'Of the project, or of one dataset or pair. `status=pending` is the queue of the reviewers.',
        querystring: Type.Object(
          {
            ...PageQuery,
            dataset_id: Type.Optional(Id(datasetExample, 'Only those of this dataset')),
            pair_id: Type.Optional(Id(pairExample, 'Only those of this pair')),
            status: Type.Optional(Status),
            editor: Type.Optional(Type.String({ description: 'Only those of the editor of this name' })),
            minimal: Type.Optional(Type.Boolean({ description: 'Only those that are, or are not, minimal' })),
          },
          { additionalProperties: false },
        ),
        response: { 200: Page(Type.Ref('Edit')), ...problemResponses(404) },
      },
    },
    (request) => edits.listEdits(services, request.caller, request.query),
  );

  app.get(
    '/v1/edits/:edit_id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getEdit',
        tags: ['edits'],
        summary: 'Get an edit',
        description: 'With its alignment to the response that it edits, and whether snapshots take it.',
        params: editParams,
        headers: ifNoneMatchHeaders,
        response: { 200: Tagged(Type.Ref('Edit')), ...notModified, ...problemResponses(404) },
      },
    },
    async (request, reply) =>
      sendTagged(request, reply, await edits.getEdit(services, request.caller, request.params.edit_id)),
  );

  app.post(
    '/v1/edits/:edit_id/decision',
    {
      config: { scope: 'edits:review', idempotency: 'accepted' },
      schema: {
        operationId: 'decideEdit',
        tags: ['edits'],
        summary: 'Accept, reject or supersede an edit',
        description: `The last decision counts, and all are kept. \`accept\`: snapshots take the edit (\`stale\` while the preference is on its side). \`reject\`: they do not.
\`supersede\`: another edit stands in its place, either one that is stored (\`superseded_by\`, which keeps its own status) or the reviewer's own text
(\`edited_response\`), which is stored as an accepted edit by the reviewer. Give the ETag of the edit as \`If-Match\` where several reviewers work at once. Where reviews are
required, look for work with \`GET /v1/edits?status=pending\`.`,
        params: editParams,
        headers: Type.Object(IfMatch),
        body: Type.Object(
          {
            decision: Decision,
            reviewer: Reviewer,
            reason: Type.Optional(Reason),
            superseded_by: Type.Optional(Id(editExample, 'Another edit of the same side of the pair')),
            edited_response: Type.Optional(EditedResponse),
          },
          {
            additionalProperties: false,
            examples: [{ decision: 'accept', reviewer: 'lead-1', reason: 'the year was wrong' }],
          },
        ),
        response: { 200: Tagged(Type.Ref('Edit')), ...problemResponses(404, 409, 412, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(
          200,
          await decisions.decideEdit(
            services,
            request.caller,
            request.params.edit_id,
            request.body,
            preconditionOf(request),
          ),
        ),
      ),
  );

  app.get(
    '/v1/edits/:edit_id/decisions',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listEditDecisions',
        tags: ['edits'],
        summary: 'List the decisions on an edit, oldest first',
        description: 'Who decided what and why.',
        params: editParams,
        querystring: Type.Object(PageQuery, { additionalProperties: false }),
        response: { 200: Page(Type.Ref('EditDecision')), ...problemResponses(404) },
      },
    },
    (request) => decisions.listDecisions(services, request.caller, request.params.edit_id, request.query),
  );
};
