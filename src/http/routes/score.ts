// Rewards token by token, of responses and of what an edit changed.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import { maxDeadlineMs } from '../../services/deadlines.ts';
import { Message, maxTextLength } from '../../services/pair-rows.ts';
import { compareVersions } from '../../services/score-comparison.ts';
import { streamScores } from '../../services/score-stream.ts';
import {
  maxScoreItems,
  precisions,
  type ScoreRequest as ScoreRequestBody,
  scoreErrorCodes,
  scoreResponses,
} from '../../services/scoring.ts';
import { clientGone } from '../disconnect.ts';
import { eventStreamType } from '../event-stream.ts';
import { preferredType } from '../media-types.ts';
import { Digest, Id, Nullable, problemResponses, Span } from '../schemas.ts';
import { scoreStreamTypes, sendScores } from '../score-stream.ts';
import { ndjsonType } from '../streams.ts';
import { AlignmentSegment } from './edits.ts';
import { Prompt } from './pairs.ts';

export const bodyLimitMiB = 8;
const modelExample = 'model_019356f0d6e78f9a8b1c2d3e4f5a6b7c';
const prompt = 'When was the harbor bridge opened?';
const response = 'It was opened in 1936.';

export const Unit = Type.Enum(['utf16', 'codepoint', 'byte'], {
  description: 'What offsets count: UTF-16 code units, Unicode code points or UTF-8 bytes',
});
export const Response = Type.String({ maxLength: maxTextLength, examples: [response] });
export const ModelName = Type.Optional(
  Type.String({
    minLength: 1,
    maxLength: 200,
    description:
      'Id or alias of a token reward model; without it the alias `token-reward`, which the shipped sample carries until a model of the project takes it',
    examples: ['token-reward'],
  }),
);
const DeadlineMs = Type.Optional(
  Type.Integer({
    minimum: 1,
    maximum: maxDeadlineMs,
    description:
      'Milliseconds after which the answer is worth nothing to you; counted from the arrival of the body. What has not begun by then is never scored.',
  }),
);
export const Precision = Type.Optional(
  Type.Enum([...precisions], {
    default: 'fp32',
    description:
      '`int8`: products of integers, faster; the rewards are nearly those of `fp32`, and as independent of everything else in the request. 422 for a model whose trainer found that its tokens would be ranked otherwise.',
  }),
);
const oneForm = 'Either `prompt` with `responses`, or `items`';

const ScoreRequest = Type.Object(
  {
    model: ModelName,
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
    precision: Precision,
    deadline_ms: DeadlineMs,
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

const namedModel = {
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
};
/** How an answer names the model that was asked. */
export const NamedModel = Type.Object(namedModel);
export const ScoringModel = Type.Object({
  ...namedModel,
  precision: Type.Enum([...precisions], { description: 'In which the rewards were computed' }),
});

export const modelNamed = {
  id: modelExample,
  alias: 'token-reward',
  shared: false,
  digest: `sha256:${'3f'.repeat(32)}`,
  tokenizer_digest: `sha256:${'a7'.repeat(32)}`,
};

export const ScoreAnswer = Type.Object(
  {
    model: ScoringModel,
    unit: Unit,
    results: Type.Array(Type.Union([Type.Ref('ScoredItem'), Type.Ref('FailedItem')]), {
      description: 'One for each response, in their order',
    }),
  },
  {
    $id: 'ScoreAnswer',
    examples: [
      {
        model: { ...modelNamed, precision: 'fp32' },
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

const Index = Type.Integer({ minimum: 0, description: 'Place of the response in the request' });
const counted = {
  ok: Type.Integer({ minimum: 0, description: 'Results with rewards' }),
  failed: Type.Integer({ minimum: 0, description: 'Results with an error of their own' }),
};

const streamExample = [
  { event: 'begin', model: { ...modelNamed, precision: 'fp32' }, unit: 'utf16', count: 2 },
  {
    event: 'result',
    index: 1,
    status: 'ok',
    token_ids: [2109, 18],
    tokens: ['1932', '.'],
    offsets: [
      [0, 4],
      [4, 5],
    ],
    rewards: [-0.018, -0.011],
    reward: -0.029,
    mean_reward: -0.0145,
    prompt_token_count: 9,
    truncated: false,
  },
  {
    event: 'result',
    index: 0,
    status: 'error',
    code: 'too_long',
    detail: 'The prompt has 9 tokens and the response 300; the model reads 192 in all. Shorten it.',
  },
  { event: 'end', ok: 1, failed: 1 },
];

export const ScoreEvent = Type.Union(
  [
    Type.Object({
      event: Type.Literal('begin'),
      model: ScoringModel,
      unit: Unit,
      count: Type.Integer({ minimum: 1, description: 'Results to come' }),
    }),
    Type.Object({ event: Type.Literal('result'), index: Index, ...ScoredItem.properties }),
    Type.Object({ event: Type.Literal('result'), index: Index, ...FailedItem.properties }),
    Type.Object({ event: Type.Literal('end'), ...counted }),
    Type.Object({
      event: Type.Literal('problem'),
      ...counted,
      unscored: Type.Array(Index, { description: 'Responses that have no result' }),
      problem: Type.Ref('Problem'),
    }),
  ],
  {
    $id: 'ScoreEvent',
    description:
      'One line of a stream of scores, or the data of one of its events: `begin`, a `result` for each response in any order, and last `end`, or `problem` when the work broke off. A stream that ends with neither was cut.',
    examples: streamExample,
  },
);

/** What the token reward model of `npm run demo -- --quick` says, rounded to three digits. */
// biome-ignore format: a row for each segment and column
const comparisonExample = {
  model: { ...modelNamed, precision: 'fp32' },
  unit: 'utf16',
  segments: [
    { kind: 'keep', original: [0, 3], edited: [0, 3], original_reward: -0.108, edited_reward: -0.108, difference: 0 },
    { kind: 'replace', original: [3, 6], edited: [3, 6], original_reward: -0.77, edited_reward: -0.192, difference: 0.578 },
    { kind: 'keep', original: [6, 18], edited: [6, 18], original_reward: -0.026, edited_reward: -0.027, difference: -0.001 },
    { kind: 'delete', original: [18, 23], edited: [18, 18], original_reward: -0.796, edited_reward: 0, difference: 0.796 },
    { kind: 'keep', original: [23, 30], edited: [18, 25], original_reward: -0.448, edited_reward: -0.066, difference: 0.382 },
  ],
  end: { original_reward: -0.925, edited_reward: -0.882, difference: 0.043 },
  original: {
    status: 'ok',
    token_ids: [403, 474, 17, 319, 264, 570, 357, 19, 2],
    tokens: ['Hi', ' Bob', ',', ' bring', ' the', ' damn', ' basket', '.', ''],
    offsets: [[0, 2], [2, 6], [6, 7], [7, 13], [13, 17], [17, 22], [22, 29], [29, 30], [30, 30]],
    rewards: [-0.108, -0.77, -0.004, -0.015, -0.007, -0.796, -0.442, -0.006, -0.925],
    reward: -3.073,
    mean_reward: -0.341444444444,
    prompt_token_count: 12,
    truncated: false,
  },
  edited: {
    status: 'ok',
    token_ids: [403, 537, 17, 319, 264, 357, 19, 2],
    tokens: ['Hi', ' Gus', ',', ' bring', ' the', ' basket', '.', ''],
    offsets: [[0, 2], [2, 6], [6, 7], [7, 13], [13, 17], [17, 24], [24, 25], [25, 25]],
    rewards: [-0.108, -0.192, -0.004, -0.016, -0.007, -0.061, -0.005, -0.882],
    reward: -1.275,
    mean_reward: -0.159375,
    prompt_token_count: 12,
    truncated: false,
  },
  original_reward: -3.073,
  edited_reward: -1.275,
  difference: 1.798,
  minimal: true,
  warnings: [],
};

const comparisonRequestExample = {
  prompt: 'Write a note to Gus about the concert.',
  original: 'Hi Bob, bring the damn basket.',
  edited: 'Hi Gus, bring the basket.',
};

const ComparisonRequest = Type.Object(
  {
    model: ModelName,
    prompt: Type.Ref('Prompt'),
    original: Type.String({
      maxLength: maxTextLength,
      description: 'The response as it was',
      examples: [comparisonRequestExample.original],
    }),
    edited: Type.String({
      maxLength: maxTextLength,
      description: 'Its other version',
      examples: [comparisonRequestExample.edited],
    }),
    unit: Type.Optional({ ...Unit, default: 'utf16' }),
    precision: Precision,
    deadline_ms: DeadlineMs,
  },
  {
    $id: 'ComparisonRequest',
    additionalProperties: false,
    examples: [comparisonRequestExample],
  },
);

const RewardDifference = {
  original_reward: Type.Number({ description: 'Sum over the tokens of the original' }),
  edited_reward: Type.Number({ description: 'Sum over the tokens of the edited version' }),
  difference: Type.Number({ description: 'Edited minus original: above 0 the edit made it better' }),
};

export const Comparison = Type.Object(
  {
    model: ScoringModel,
    unit: Unit,
    segments: Type.Array(Type.Object({ ...AlignmentSegment.properties, ...RewardDifference }), {
      description:
        'In order; they tile both texts. Each token counts once: in the first changed segment that it touches, leading white space aside, else in the kept segment it lies in. What an insertion mends mostly shows in the kept segment after it, or in `end`, because there the original was blamed.',
    }),
    end: Type.Object(RewardDifference, {
      description: 'The end of the response (EOS): low where something is missing at the end',
    }),
    original: Type.Ref('ScoredItem'),
    edited: Type.Ref('ScoredItem'),
    ...RewardDifference,
    minimal: Type.Boolean({ description: 'An edit rather than a rewrite' }),
    warnings: Type.Array(Type.Object({ code: Type.String(), detail: Type.String() }), {
      description: 'What is unusual about the alignment',
    }),
  },
  {
    $id: 'Comparison',
    examples: [comparisonExample],
    description:
      'The rewards at the top are those of the whole responses: of all segments and `end`. The scored items have the EOS token as their last.',
  },
);

export const scoreRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  for (const schema of [
    Message,
    Prompt,
    ScoreRequest,
    ScoredItem,
    FailedItem,
    ScoreAnswer,
    ScoreEvent,
    ComparisonRequest,
    Comparison,
  ])
    app.addSchema(schema);

  app.post(
    '/v1/score',
    {
      config: { scope: 'score', idempotency: 'nothing_stored' },
      bodyLimit: bodyLimitMiB * 1024 * 1024,
      schema: {
        operationId: 'score',
        tags: ['scoring'],
        summary: 'Score responses token by token',
        description: `Takes one prompt with its responses, or items with a prompt each; up to ${maxScoreItems} responses and ${bodyLimitMiB} MiB. What is wrong with one response is said in its place and leaves the others alone. A score never depends on what else is in the request. Text that spells a control token is scored as text. 429: more is queued than can be done soon; come back after \`Retry-After\` seconds. 422 \`deadline_exceeded\`: not everything was scored by the deadline.

\`Accept: application/x-ndjson\` or \`text/event-stream\` streams each result as soon as it is there, in any order, as lines or events of the form \`ScoreEvent\`: \`begin\`, \`result\` with the \`index\` of its response, and last \`end\`, or \`problem\` when the work broke off, for instance at the deadline; the results before it stand. What goes wrong before the first result is answered as a problem with its status.`,
        body: Type.Ref('ScoreRequest'),
        response: {
          200: {
            description: 'All results, or each as it comes',
            content: {
              'application/json': { schema: Type.Ref('ScoreAnswer') },
              [ndjsonType]: {
                schema: {
                  type: 'string' as const,
                  description: 'A `ScoreEvent` a line',
                  examples: [streamExample.map((event) => `${JSON.stringify(event)}\n`).join('')],
                },
              },
              [eventStreamType]: {
                schema: {
                  type: 'string' as const,
                  description: 'Events named by `event` of their data, a `ScoreEvent`',
                  examples: [
                    streamExample
                      .map((event) => `event: ${event.event}\ndata: ${JSON.stringify(event)}\n\n`)
                      .join(''),
                  ],
                },
              },
            },
          },
          ...problemResponses(404, 413, 415, 429),
        },
      },
    },
    async (request, reply) => {
      reply.header('vary', 'Accept');
      const body = request.body as ScoreRequestBody;
      const type = preferredType(request.headers.accept, ['application/json', ...scoreStreamTypes]);
      const gone = clientGone(reply);
      if (type === 'application/json') return scoreResponses(services, request.caller, body, gone);
      return sendScores(request, reply, type, streamScores(services, request.caller, body, gone));
    },
  );

  app.post(
    '/v1/score/compare',
    {
      config: { scope: 'score', idempotency: 'nothing_stored' },
      bodyLimit: bodyLimitMiB * 1024 * 1024,
      schema: {
        operationId: 'compareVersions',
        tags: ['scoring'],
        summary: 'Show what an edit bought, segment by segment',
        description: `Aligns two versions of a response and gives the reward of each segment on both sides; up to ${bodyLimitMiB} MiB. Stores nothing. 422: a version cannot be scored, for instance because it is too long for the model; nothing is truncated here; or \`deadline_exceeded\`: it was not scored by the deadline. 429: more is queued than can be done soon; come back after \`Retry-After\` seconds.`,
        body: Type.Ref('ComparisonRequest'),
        response: { 200: Type.Ref('Comparison'), ...problemResponses(404, 413, 415, 429) },
      },
    },
    (request, reply) =>
      compareVersions(
        services,
        request.caller,
        request.body as Parameters<typeof compareVersions>[2],
        clientGone(reply),
      ),
  );
};
