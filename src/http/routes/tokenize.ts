// What a model reads: the tokens of a prompt and of responses.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import { Message } from '../../services/pair-rows.ts';
import { maxScoreItems } from '../../services/scoring.ts';
import { maxListedTokens, tokenize } from '../../services/tokenization.ts';
import { clientGone } from '../disconnect.ts';
import { Nullable, problemResponses, Span } from '../schemas.ts';
import { Prompt } from './pairs.ts';
import { bodyLimitMiB, modelNamed, NamedModel, Response, Unit } from './score.ts';

const prompt = 'When was the harbor bridge opened?';
const response = 'It was opened in 1936.';

const TokenizeRequest = Type.Object(
  {
    model: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 200,
        description: 'Id or alias of a model of any role; without it the alias `token-reward`',
        examples: ['token-reward'],
      }),
    ),
    prompt: Type.Optional(Type.Ref('Prompt')),
    responses: Type.Optional(
      Type.Array(Response, { maxItems: maxScoreItems, description: 'Each by itself, without EOS' }),
    ),
    unit: Type.Optional({ ...Unit, default: 'utf16' }),
  },
  { $id: 'TokenizeRequest', additionalProperties: false, examples: [{ prompt, responses: [response] }] },
);

const columns = {
  token_count: Type.Integer({ minimum: 0, description: 'Of the whole text' }),
  token_ids: Type.Array(Type.Integer(), { description: 'The first ones, as many as the model reads' }),
  tokens: Type.Array(Type.String(), { description: 'The text of each token: what its offset covers' }),
  truncated: Type.Boolean({ description: 'The text has more tokens than are listed' }),
};

export const TokenizedPrompt = Type.Object(
  {
    ...columns,
    messages: Type.Array(Nullable(Type.Integer({ minimum: 0 })), {
      description: 'The message that each token is of; null for those of the prompt format',
    }),
    offsets: Type.Array(Nullable(Span), { description: 'In the content of that message, in `unit`' }),
  },
  { $id: 'TokenizedPrompt', description: 'What the model reads before a response, its format included' },
);

export const TokenizedResponse = Type.Object(
  { ...columns, offsets: Type.Array(Span, { description: 'Half-open, in `unit`, as of POST /v1/score' }) },
  { $id: 'TokenizedResponse' },
);

export const TokenizeAnswer = Type.Object(
  {
    model: NamedModel,
    context_length: Type.Integer({
      description: 'Tokens that the model reads, prompt and response together',
    }),
    unit: Unit,
    prompt: Nullable(Type.Ref('TokenizedPrompt'), { description: 'Null when none was given' }),
    responses: Type.Array(Type.Ref('TokenizedResponse'), { description: 'In the order of the request' }),
  },
  {
    $id: 'TokenizeAnswer',
    examples: [
      {
        model: modelNamed,
        context_length: 192,
        unit: 'utf16',
        prompt: {
          token_count: 4,
          token_ids: [1, 4, 2203, 5],
          tokens: ['', '', 'Hello', ''],
          truncated: false,
          messages: [null, null, 0, null],
          offsets: [null, null, [0, 5], null],
        },
        responses: [
          {
            token_count: 2,
            token_ids: [2109, 18],
            tokens: ['1932', '.'],
            truncated: false,
            offsets: [
              [0, 4],
              [4, 5],
            ],
          },
        ],
      },
    ],
  },
);

export const tokenizeRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (
  app,
  { services },
) => {
  for (const schema of [Message, Prompt, TokenizeRequest, TokenizedPrompt, TokenizedResponse, TokenizeAnswer])
    app.addSchema(schema);

  app.post(
    '/v1/tokenize',
    {
      config: { scope: 'score', idempotency: 'nothing_stored' },
      bodyLimit: bodyLimitMiB * 1024 * 1024,
      schema: {
        operationId: 'tokenize',
        tags: ['scoring'],
        summary: 'Show the tokens that a model reads',
        description: `Tokens of a prompt, in the model's own prompt format, and of up to ${maxScoreItems} responses, exactly as they are scored; up to ${bodyLimitMiB} MiB and ${maxListedTokens / 1e6} million tokens. All tokens are counted; listed are as many of each text as the model reads. Text that spells a control token stays text. 422: the model has no tokenizer, or the texts have more tokens.`,
        body: Type.Ref('TokenizeRequest'),
        response: { 200: Type.Ref('TokenizeAnswer'), ...problemResponses(404, 413, 415) },
      },
    },
    (request, reply) =>
      tokenize(services, request.caller, request.body as Parameters<typeof tokenize>[2], clientGone(reply)),
  );
};
