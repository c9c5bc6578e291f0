// Preference pairs: batch and streamed import, list, export, get, preference, votes, delete.

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import { exportFormats, exportPairs } from '../../services/pair-exports.ts';
import {
  completePair,
  Message,
  maxTextLength,
  type NewPair as NewPairInput,
} from '../../services/pair-rows.ts';
import * as pairs from '../../services/pairs.ts';
import * as votes from '../../services/votes.ts';
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
import { Id, Metadata, Nullable, Page, PageQuery, problemResponses, Timestamp } from '../schemas.ts';
import {
  ndjsonType,
  passStream,
  readRows,
  rowTypes,
  sendStream,
  streamed,
  streamedBody,
} from '../streams.ts';

const datasetExample = 'ds_019356f0a1b27c3d8e4f5a6b7c8d9e0f';
const pairExample = 'pair_019356f0b3c47d5e8f6a7b8c9d0e1f2a';

export const Prompt = Type.Union(
  [
    Type.String({ minLength: 1, maxLength: maxTextLength }),
    Type.Array(Type.Ref('Message'), { minItems: 1, maxItems: 1000 }),
  ],
  {
    $id: 'Prompt',
    description: 'A text, or a conversation that the response continues',
    examples: ['When was the harbor bridge opened?'],
  },
);

const Response = (example: string) => Type.String({ maxLength: maxTextLength, examples: [example] });
const Preference = Nullable(Type.Enum(['a', 'b']), {
  description: 'Which response is better; null while nobody knows',
  examples: ['a'],
});
const ExternalId = Nullable(Type.String({ minLength: 1, maxLength: 500 }), {
  description: 'Your id of the pair, unique within the dataset',
  examples: ['conversation-17'],
});

const content = {
  prompt: Type.Ref('Prompt'),
  response_a: Response('It was opened in 1932.'),
  response_b: Response('It was opened in 1936, and it is the best bridge of all.'),
};

const VoteCount = Type.Integer({ minimum: 0, maximum: 2 ** 31 - 1 });
const voteFields = { a: VoteCount, b: VoteCount, tie: VoteCount };
const Votes = Type.Object(voteFields, {
  description: 'How many voters preferred `a`, preferred `b`, found neither better',
  examples: [{ a: 3, b: 1, tie: 0 }],
});
const Voter = Type.String({ minLength: 1, maxLength: 200, examples: ['annotator-7'] });
const Vote = Type.Enum(['a', 'b', 'tie']);

const PairVote = Type.Object(
  {
    id: Id('vote_019356f0f8a99bac8d1e2f3a4b5c6d7e'),
    pair_id: Id(pairExample),
    voter: Voter,
    vote: Vote,
    created_at: Timestamp,
    updated_at: Timestamp,
  },
  { $id: 'PairVote' },
);

const Pair = Type.Object(
  {
    id: Id(pairExample),
    dataset_id: Id(datasetExample),
    external_id: ExternalId,
    ...content,
    preference: Preference,
    metadata: Metadata,
    votes: Votes,
    created_at: Timestamp,
  },
  { $id: 'Pair' },
);

const NewPair = Type.Object(
  {
    external_id: Type.Optional(ExternalId),
    ...content,
    preference: Type.Optional(Preference),
    metadata: Type.Optional(Metadata),
    votes: Type.Optional(
      Type.Partial(Type.Object(voteFields), {
        additionalProperties: false,
        description: 'Votes that were given elsewhere; the preference follows from them unless it is given',
        examples: [{ a: 3, b: 1 }],
      }),
    ),
  },
  { $id: 'NewPair', additionalProperties: false },
);

const exampleMetadata = { source: 'chat-2026' };

const filterFields = {
  preference: Type.Optional(
    Type.Enum(['a', 'b', 'none'], { description: 'Only pairs with this preference; `none`: not known' }),
  ),
  has_edit: Type.Optional(
    Type.Boolean({ description: 'Only pairs with an accepted edit, or only pairs without one' }),
  ),
  created_after: Type.Optional(
    Type.String({
      format: 'date-time',
      description: 'Only pairs added later than this',
      examples: ['2026-11-23T09:00:00.000Z'],
    }),
  ),
  created_before: Type.Optional(
    Type.String({
      format: 'date-time',
      description: 'Only pairs added earlier than this',
      examples: ['2026-11-30T09:00:00.000Z'],
    }),
  ),
};

export const pairFilterFields = {
  external_ids: Type.Optional(
    Type.Array(Type.String({ minLength: 1, maxLength: 500 }), {
      minItems: 1,
      maxItems: 10_000,
      uniqueItems: true,
      description: 'These pairs only',
      examples: [['conversation-17']],
    }),
  ),
  ...filterFields,
  metadata: Type.Optional(
    Type.Record(Type.String(), Type.Unknown(), {
      description:
        'Only pairs whose metadata contain this: equal values, in objects and lists that may hold more',
      examples: [exampleMetadata],
    }),
  ),
};

const PairFilterQuery = {
  external_ids: Type.Optional(
    Type.String({ description: 'These pairs only: a JSON list', examples: ['["conversation-17"]'] }),
  ),
  ...filterFields,
  metadata: Type.Optional(
    Type.String({
      description:
        'A JSON object. Only pairs whose metadata contain it: equal values, in objects and lists that may hold more',
      examples: [JSON.stringify(exampleMetadata)],
    }),
  ),
};

export const LabelRule = Type.Enum(['mix', 'all', 'none'], {
  default: 'mix',
  description:
    'Of token labels: which tokens of an insertion carry one. `mix`: the token that skipped it and the first inserted one; `all`: every inserted token; `none`: no token',
});

export const exportQuery = {
  format: Type.Optional(
    Type.Enum([...exportFormats], {
      description:
        '`pairs`: as an import takes them back. `trl`: TRL preference rows `{prompt, chosen, rejected}`, one for each accepted edit: it is chosen, its original rejected. `labels`: for each accepted edit the token ids of both versions in the tokenizer of a model, which of them changed, and the labels that a reward model learns from. `labels` where a `model` is named, else `pairs`',
    }),
  ),
  model: Type.Optional(Type.String({ description: 'Of `labels`: id or alias of the model' })),
  label_rule: Type.Optional(LabelRule),
  without_edit: Type.Optional(
    Type.Enum(['skip', 'preferred'], {
      default: 'skip',
      description:
        'Of `trl`: a pair without an edit gives no row, or its two responses where one is preferred',
    }),
  ),
};

const rowExample = `${JSON.stringify({
  external_id: 'conversation-18',
  prompt: 'When was the harbor bridge opened?',
  response_a: 'It was opened in 1932.',
  response_b: 'It was opened in 1936, and it is the best bridge of all.',
  preference: 'a',
})}\n`;

const ImportResult = Type.Object(
  {
    received: Type.Integer({ description: 'Lines that were not blank' }),
    created: Type.Integer(),
    unchanged: Type.Integer({ description: 'Already there, equal' }),
    rejected: Type.Integer(),
    errors: Type.Array(
      Type.Object({
        line: Type.Integer({ description: 'Counted from 1' }),
        code: Type.Enum([
          'malformed_json',
          'ill_formed_text',
          'line_too_long',
          'invalid_row',
          'conflict',
          'not_found',
          'edit_refused',
        ]),
        pointer: Type.String({ description: 'JSON pointer into the row' }),
        detail: Type.String(),
      }),
      { description: 'The first 100 rejected rows' },
    ),
    errors_truncated: Type.Boolean(),
  },
  {
    $id: 'ImportResult',
    examples: [
      {
        received: 20_000,
        created: 19_876,
        unchanged: 123,
        rejected: 1,
        errors: [{ line: 17, code: 'invalid_row', pointer: '/response_b', detail: 'is missing' }],
        errors_truncated: false,
      },
    ],
  },
);

const PairBatchResult = Type.Object(
  {
    created: Type.Integer({ examples: [1] }),
    unchanged: Type.Integer({ examples: [0] }),
    items: Type.Array(
      Type.Object({
        id: Id(pairExample),
        external_id: ExternalId,
        status: Type.Enum(['created', 'unchanged']),
      }),
      {
        description: 'In the order of the request',
      },
    ),
  },
  { $id: 'PairBatchResult' },
);

const datasetParams = Type.Object({ dataset_id: Id(datasetExample) });
const pairParams = Type.Object({ pair_id: Id(pairExample) });

export const pairRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  for (const schema of [Message, Prompt, Pair, PairVote, NewPair, ImportResult, PairBatchResult])
    app.addSchema(schema);
  app.addContentTypeParser(rowTypes, passStream);

  app.post(
    '/v1/datasets/:dataset_id/pairs',
    {
      config: { scope: 'pairs:write', idempotency: 'accepted' },
      bodyLimit: 32 * 1024 * 1024,
      schema: {
        operationId: 'createPairs',
        tags: ['pairs'],
        summary: 'Add up to 1,000 pairs, all or none',
        description:
          'At most 32 MiB. A pair that is there already, equal, is `unchanged`; one that contradicts a stored pair refuses the whole batch (409).',
        params: datasetParams,
        body: Type.Object(
          { pairs: Type.Array(Type.Ref('NewPair'), { minItems: 1, maxItems: 1000 }) },
          { additionalProperties: false },
        ),
        response: { 201: Type.Ref('PairBatchResult'), ...problemResponses(404, 409, 413, 415) },
      },
    },
    (request, reply) => {
      const inputs = (request.body.pairs as NewPairInput[]).map(completePair);
      return answerOnce(services, request, reply, async (services) => ({
        status: 201,
        body: await pairs.createPairs(services, request.caller, request.params.dataset_id, inputs),
      }));
    },
  );

  app.post(
    '/v1/datasets/:dataset_id/pairs/import',
    {
      config: { scope: 'pairs:write', idempotency: 'stream' },
      schema: {
        operationId: 'importPairs',
        tags: ['pairs'],
        summary: 'Import pairs from an NDJSON stream of any length, or a Parquet file',
        description: `One row a line (at most 8 MiB each): a pair, a TRL preference row \`{prompt, chosen, rejected}\` or an AlpacaFarm row
\`{instruction, input, output_1, output_2, preference}\`. \`id\` is taken as \`external_id\`; columns that are not ours are kept under \`metadata\`.
Bad rows are reported by line and skipped, good ones are kept; repeating an import adds nothing.
A Parquet file (at most 2 GiB, row groups of at most 256 MiB) has the same columns, a conversation as a list of structs, \`metadata\` as a map, a struct or JSON text; a null is a missing
column, and \`line\` is the number of the row.`,
        params: datasetParams,
        body: streamedBody(rowTypes, 'One row a line', rowExample),
        response: { 200: Type.Ref('ImportResult'), ...problemResponses(404, 413, 415) },
      },
    },
    (request) =>
      pairs.importPairs(services, request.caller, request.params.dataset_id, readRows(request, 'row')),
  );

  app.get(
    '/v1/datasets/:dataset_id/pairs',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listPairs',
        tags: ['pairs'],
        summary: 'List the pairs of a dataset, oldest first',
        description: 'In the order in which they were added. All of the filters that are given must hold.',
        params: datasetParams,
        querystring: Type.Object({ ...PageQuery, ...PairFilterQuery }, { additionalProperties: false }),
        response: { 200: Page(Type.Ref('Pair')), ...problemResponses(404) },
      },
    },
    (request) => pairs.listPairs(services, request.caller, request.params.dataset_id, request.query),
  );

  app.get(
    '/v1/datasets/:dataset_id/pairs/export',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'exportPairs',
        tags: ['pairs'],
        summary: 'Export the pairs of a dataset as NDJSON',
        description:
          'A stream, one row a line, in the order in which they were added; all of the filters that are given must hold.',
        params: datasetParams,
        querystring: Type.Object({ ...exportQuery, ...PairFilterQuery }, { additionalProperties: false }),
        response: {
          200: streamed(ndjsonType, 'One row a line', rowExample),
          ...problemResponses(404),
        },
      },
    },
    async (request, reply) => {
      const lines = await exportPairs(services, request.caller, request.params.dataset_id, request.query);
      return sendStream(reply, ndjsonType, lines);
    },
  );

  app.get(
    '/v1/pairs/:pair_id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getPair',
        tags: ['pairs'],
        summary: 'Get a pair',
        description: 'By its id, with its metadata as they were given.',
        params: pairParams,
        headers: ifNoneMatchHeaders,
        response: { 200: Tagged(Type.Ref('Pair')), ...notModified, ...problemResponses(404) },
      },
    },
    async (request, reply) =>
      sendTagged(request, reply, await pairs.getPair(services, request.caller, request.params.pair_id)),
  );

  app.patch(
    '/v1/pairs/:pair_id',
    {
      config: { scope: 'pairs:write', idempotency: 'accepted' },
      schema: {
        operationId: 'setPreference',
        tags: ['pairs'],
        summary: 'Set or withdraw the preference of a pair',
        description:
          'By hand, until the next vote. Edits of the side that is now preferred become `stale`, others are `accepted` again.',
        params: pairParams,
        headers: Type.Object(IfMatch),
        body: Type.Object({ preference: Preference }, { additionalProperties: false }),
        response: { 200: Tagged(Type.Ref('Pair')), ...problemResponses(404, 412, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(
          200,
          await pairs.setPreference(
            services,
            request.caller,
            request.params.pair_id,
            request.body.preference,
            preconditionOf(request),
          ),
        ),
      ),
  );

  app.post(
    '/v1/pairs/:pair_id/votes',
    {
      config: { scope: 'votes:write', idempotency: 'accepted' },
      schema: {
        operationId: 'voteOnPair',
        tags: ['pairs'],
        summary: 'Vote on a pair, or change or withdraw a vote',
        description:
          'Each voter has one vote; another one replaces it, null withdraws it. The preference follows: the response with more votes than the other and more than there are ties, else null. Counts that came with the pair go on counting.',
        params: pairParams,
        headers: Type.Object(IfMatch),
        body: Type.Object(
          { voter: Voter, vote: Nullable(Vote, { examples: ['a'] }) },
          { additionalProperties: false, examples: [{ voter: 'annotator-7', vote: 'a' }] },
        ),
        response: { 200: Tagged(Type.Ref('Pair')), ...problemResponses(404, 412, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(
          200,
          await votes.castVote(
            services,
            request.caller,
            request.params.pair_id,
            request.body,
            preconditionOf(request),
          ),
        ),
      ),
  );

  app.get(
    '/v1/pairs/:pair_id/votes',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listVotes',
        tags: ['pairs'],
        summary: 'List the votes on a pair, oldest first',
        description: 'Those whose voter is known: counts that came with the pair have none.',
        params: pairParams,
        querystring: Type.Object(PageQuery, { additionalProperties: false }),
        response: { 200: Page(Type.Ref('PairVote')), ...problemResponses(404) },
      },
    },
    (request) => votes.listVotes(services, request.caller, request.params.pair_id, request.query),
  );

  app.delete(
    '/v1/pairs/:pair_id',
    {
      config: { scope: 'pairs:write', idempotency: 'accepted' },
      schema: {
        operationId: 'deletePair',
        tags: ['pairs'],
        summary: 'Delete a pair and its edits',
        description: 'Snapshots that hold the pair keep it.',
        params: pairParams,
        headers: Type.Object(IfMatch),
        response: { 204: Type.Null({ description: 'Deleted' }), ...problemResponses(404, 412) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => {
        await pairs.deletePair(services, request.caller, request.params.pair_id, preconditionOf(request));
        return { status: 204 };
      }),
  );
};
