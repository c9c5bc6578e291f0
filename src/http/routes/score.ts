// POST /v1/score: rewards token by token.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import { Message, maxTextLength } from '../../services/pair-rows.ts';
import { maxScoreItems, scoreErrorCodes, scoreResponses } from '../../services/scoring.ts';
import { clientGone } from '../disconnect.ts';
import { Digest, Id, Nullable, problemResponses, Span } from '../schemas.ts';
import { Prompt } from './pairs.ts';

const bodyLimitMiB = 8;
const modelExample = 'model_019356f0d6e78f9a8b1c2d3e4f5a6b7c';
const prompt = 'When was the harbor bridge opened?';
const response = 'It was opened in 1936.';

const Unit = Type.Enum(['utf16', 'codepoint', 'byte'], {
  description: 'What offsets count: UTF-16 code units, Unicode code points or UTF-8 bytes',
});
const Response = Type.String({ maxLength: maxTextLength, examples: [response] });
const oneForm = 'Either `prompt` with `responses`, or `items`';

const ScoreRequest = Type.Object(
  {
    model: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 200,
        description:
          'Id or alias of a token reward model; without it the alias `token-reward`, which the shipped sample carries until a model of the project takes it',
        examples: ['token-reward'],
      }),
    ),
    prompt: Type.Optional(Type.Ref('Prompt')),
    responses: Type.Optional(
      Type.Array(Response, {
        minItems: 1,
        maxItems: maxScoreItems,
        description: `Responses to the one prompt. ${oneForm}.`,
      }),
    ),
    items: Type.Optional(
      Type.Array(
        Type.Object({ prompt: Type.Ref('Prompt'), response: Response }, { additionalProperties: false }),
        { minItems: 1, maxItems: maxScoreItems, description: `Responses to different prompts. ${oneForm}.` },
      ),
    ),
    unit: Type.Optional({ ...Unit, default: 'utf16' }),
    truncate: Type.Optional(
      Type.Boolean({
        default: false,
        description:
          'Score as many tokens of a response as the model has room for, instead of an error. The rewards of those are what they would be with more room.',
      }),
    ),
    include_eos: Type.Optional(
      Type.Boolean({
        default: false,
        description:
          'Score the end of the response too: one more entry, with the empty offset at the end of the text. A truncated response has none.',
      }),
    ),
  },
  {
    $id: 'ScoreRequest',
    additionalProperties: false,
    examples: [
      { prompt, responses: [response, 'It was opened in 1932.'] },
      { model: 'token-reward', items: [{ prompt, response }], unit: 'byte', include_eos: true },
      {
        prompt: [
          { role: 'system', content: 'Answer in one sentence.' },
          { role: 'user', content: prompt },
        ],
        responses: [response],
      },
    ],
  },
);

export const ScoredItem = Type.Object(
  {
    status: Type.Literal('ok'),
    token_ids: Type.Array(Type.Integer()),
    tokens: Type.Array(Type.String(), { description: 'The text of each token: what its offset covers' }),
    offsets: Type.Array(Span, {
      description:
        'Half-open, in `unit`; together they cover the response in order. Of several tokens that share a character the last one owns it and the others are empty.',
    }),
    rewards: Type.Array(Type.Number(), { description: 'One for each token; nearer to zero is better' }),
    reward: Type.Number({ description: 'Sum of `rewards`' }),
    mean_reward: Nullable(Type.Number(), { description: 'Null for a response without tokens' }),
    prompt_token_count: Type.Integer({
      description: 'Tokens before the response, those of the prompt format included',
    }),
    truncated: Type.Boolean({ description: 'The response goes on after what was scored' }),
  },
  { $id: 'ScoredItem' },
);

export const FailedItem = Type.Object(
  {
    status: Type.Literal('error'),
    code: Type.Enum([...scoreErrorCodes], {
      description:
        '`too_long`: prompt and response have more tokens than the model reads. `not_finite`: the model gives NaN or infinity. `model_failed`: the model cannot compute this input.',
    }),
    detail: Type.String({ description: 'What happened and what to do' }),
  },
  { $id: 'FailedItem' },
);

export const ScoreAnswer = Type.Object(
  {
    model: Type.Object({
      id: Id(modelExample),
      alias: Nullable(Type.String(), {
        description: 'The alias that led to the model; null when it was named by its id',
      }),
      shared: Type.Boolean({
        description:
          'True for the sample that ships with finegrain: outside of the demo world its rewards mean nothing',
      }),
      digest: Digest,
      tokenizer_digest: Digest,
    }),
    unit: Unit,
    results: Type.Array(Type.Union([Type.Ref('ScoredItem'), Type.Ref('FailedItem')]), {
      description: 'One for each response, in their order',
    }),
  },
  {
    $id: 'ScoreAnswer',
    examples: [
      {
        model: {
          id: modelExample,
          alias: 'token-reward',
          shared: false,
          digest: `sha256:${'3f'.repeat(32)}`,
          tokenizer_digest: `sha256:${'a7'.repeat(32)}`,
        },
        unit: 'utf16',
        results: [
          {
            status: 'ok',
            token_ids: [73, 281, 402, 288, 355, 18],
            tokens: ['It', ' was', ' opened', ' in', ' 1936', '.'],
            offsets: [
              [0, 2],
              [2, 6],
              [6, 13],
              [13, 16],
              [16, 21],
              [21, 22],
            ],
            rewards: [-0.012, -0.008, -0.011, -0.016, -2.731, -0.02],
            reward: -2.798,
            mean_reward: -0.46633333333333327,
            prompt_token_count: 9,
            truncated: false,
          },
        ],
      },
    ],
  },
);

export const scoreRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  for (const schema of [Message, Prompt, ScoreRequest, ScoredItem, FailedItem, ScoreAnswer])
    app.addSchema(schema);

  app.post(
    '/v1/score',
    {
      config: { scope: 'score' },
      bodyLimit: bodyLimitMiB * 1024 * 1024,
      schema: {
        operationId: 'score',
        tags: ['scoring'],
        summary: 'Score responses token by token',
        security: [{ key: [] }],
        description: `Needs the scope \`score\`. Takes one prompt with its responses, or items with a prompt each; up to ${maxScoreItems} responses and ${bodyLimitMiB} MiB. What is wrong with one response is said in its place and leaves the others alone. A score never depends on what else is in the request. Text that spells a control token is scored as text. 429: more is queued than can be done soon; come back after \`Retry-After\` seconds.`,
        body: Type.Ref('ScoreRequest'),
        response: { 200: Type.Ref('ScoreAnswer'), ...problemResponses(404, 413, 415, 422, 429) },
      },
    },
    (request, reply) =>
      scoreResponses(
        services,
        request.caller,
        request.body as Parameters<typeof scoreResponses>[2],
        clientGone(reply),
      ),
  );
};
