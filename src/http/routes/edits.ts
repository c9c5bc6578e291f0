// Minimal edits: submit, preview, list, get.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import * as edits from '../../services/edits.ts';
import { maxTextLength } from '../../services/pair-rows.ts';
import { answerOnce } from '../plugins/idempotency.ts';
import { Id, Nullable, Page, PageQuery, problemResponses, Span, Timestamp } from '../schemas.ts';

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
const Status = Type.Enum(['accepted', 'unchanged', 'stale', 'rejected'], {
  description:
    '`accepted`: snapshots take it. `unchanged`: equal to its original, kept out. `stale`: the preference of its pair is now on its side; it is `accepted` again when the preference moves back. `rejected`: by a reviewer.',
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
    }),
    minimal: Type.Boolean({
      description: 'An edit rather than a rewrite: only then its tokens train a reward model',
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
    tokens: Type.Optional(
      Type.Object(
        { original: TokenSide, edited: TokenSide },
        { description: 'When a model is named: the texts as its tokenizer sees them' },
      ),
    ),
  },
  { $id: 'EditPreview', examples: [alignmentExample] },
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
    created_at: Timestamp,
  },
  { $id: 'Edit' },
);

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

export const editRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  for (const schema of [Alignment, Preview, Edit, SubmittedEdit, NewEdit]) app.addSchema(schema);

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
          'For pipelines that have edits already. At most 32 MiB. Each answer says how the edit aligns with its original and whether it is minimal.',
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
    '/v1/edits/preview',
    {
      config: { scope: 'read', idempotency: 'nothing_stored' },
      schema: {
        operationId: 'previewEdit',
        tags: ['edits'],
        summary: 'Align an edit with its original, storing nothing',
        description:
          'What `POST /v1/edits` would find: the changed places, and whether the edit is minimal. With a `model` also the tokens of both texts and which of them count as changed.',
        body: Type.Object(
          {
            original: Type.String({ maxLength: maxTextLength, examples: [original] }),
            edited: Type.String({ maxLength: maxTextLength, examples: [edited] }),
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
        description: 'Of the project, or of one dataset or pair.',
        querystring: Type.Object(
          {
            ...PageQuery,
            dataset_id: Type.Optional(Id(datasetExample, 'Only those of this dataset')),
            pair_id: Type.Optional(Id(pairExample, 'Only those of this pair')),
            status: Type.Optional(Status),
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
        params: Type.Object({ edit_id: Id(editExample) }),
        response: { 200: Type.Ref('Edit'), ...problemResponses(404) },
      },
    },
    (request) => edits.getEdit(services, request.caller, request.params.edit_id),
  );
};
