// Routes of other servers, so that their clients can be pointed here: POST /pooling of vLLM and POST /get_reward of
// OpenRLHF. They answer as those do, errors aside, which are problems as everywhere; what they do not know they ignore.
// docs/adr/0026 says which versions were read.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { type TSchema, Type } from 'typebox';
import { messageRoles } from '../../domain/prompt-format.ts';
import { maxCompatibleItems, poolTokens, rewardQueries } from '../../services/compatible-scoring.ts';
import type { Services } from '../../services/context.ts';
import { scoringAlias } from '../../services/models.ts';
import { maxTextLength } from '../../services/pair-rows.ts';
import { clientGone } from '../disconnect.ts';
import { Nullable, problemResponses } from '../schemas.ts';
import { bodyLimitMiB } from './score.ts';

const prompt = 'When was the harbor bridge opened?';
const response = 'It was opened in 1936.';

/** Clients of these servers send null for what they do not mean. */
const Maybe = <T extends TSchema>(schema: T, description: string) =>
  Type.Optional(Nullable(schema, { description }));

const Text = Type.String({ maxLength: maxTextLength });
const TokenIds = Type.Array(Type.Integer({ minimum: 0, maximum: 2 ** 31 - 1 }), {
  minItems: 1,
  maxItems: maxTextLength,
});
const several = { minItems: 1, maxItems: maxCompatibleItems };

const PoolingRequest = Type.Object(
  {
    model: Maybe(
      Type.String({ minLength: 1, maxLength: 200 }),
      `Id or alias of a token reward model; without it the alias \`${scoringAlias}\``,
    ),
    input: Type.Optional(
      Type.Union([Text, Type.Array(Text, several), TokenIds, Type.Array(TokenIds, several)], {
        description: 'A text, several, or either as token ids. Either `input` or `messages`.',
      }),
    ),
    messages: Type.Optional(
      Type.Array(
        Type.Object({
          role: Type.Enum([...messageRoles]),
          content: Type.Union([
            Type.String({ minLength: 1, maxLength: maxTextLength }),
            Type.Array(
              Type.Object({
                type: Type.Literal('text'),
                text: Type.String({ minLength: 1, maxLength: maxTextLength }),
              }),
              { minItems: 1, maxItems: 100 },
            ),
          ]),
        }),
        {
          minItems: 1,
          maxItems: 1000,
          description: "One conversation, laid out in the model's prompt format. Either this or `input`.",
        },
      ),
    ),
    task: Maybe(Type.Literal('token_classify'), 'What a token reward model does'),
    encoding_format: Maybe(
      Type.Enum(['float', 'base64']),
      '`base64`: the numbers as float32, little-endian, in the place of lists',
    ),
    embed_dtype: Maybe(Type.Literal('float32'), 'Of `base64`'),
    endianness: Maybe(Type.Enum(['native', 'little']), 'Of `base64`'),
    add_special_tokens: Maybe(Type.Boolean(), 'BOS before a text: true unless it is given'),
    add_generation_prompt: Maybe(Type.Boolean(), 'After `messages`, what asks for a response'),
    continue_final_message: Maybe(Type.Boolean(), 'The last of `messages` is not at its end'),
    truncate_prompt_tokens: Maybe(
      Type.Integer({ minimum: -1, maximum: 2 ** 31 - 1 }),
      'Only so many tokens are scored, the last ones; -1: as many as the model reads. Without it, a text that is too long is an error.',
    ),
    truncation_side: Maybe(Type.Enum(['left', 'right']), '`right`: the first tokens are scored'),
  },
  {
    $id: 'PoolingRequest',
    description: 'As of vLLM; fields that are not named here are ignored',
    examples: [
      { model: scoringAlias, input: [`${prompt} ${response}`] },
      {
        model: scoringAlias,
        messages: [
          { role: 'user', content: [{ type: 'text', text: prompt }] },
          { role: 'assistant', content: response },
        ],
      },
    ],
  },
);

export const PoolingAnswer = Type.Object(
  {
    id: Type.String(),
    object: Type.Literal('list'),
    created: Type.Integer({ description: 'Seconds since 1970' }),
    model: Type.String({ description: 'As the request names it' }),
    data: Type.Array(
      Type.Object({
        index: Type.Integer({ minimum: 0 }),
        object: Type.Literal('pooling'),
        data: Type.Union([
          Type.Array(Type.Array(Type.Number(), { minItems: 1, maxItems: 1 }), {
            description: 'The reward of each token, in a list of its own',
          }),
          Type.String({ description: 'With `base64`' }),
        ]),
      }),
      { description: 'In the order of `input`' },
    ),
    usage: Type.Object({
      prompt_tokens: Type.Integer(),
      total_tokens: Type.Integer(),
      completion_tokens: Type.Literal(0),
      prompt_tokens_details: Type.Null(),
    }),
  },
  {
    $id: 'PoolingAnswer',
    examples: [
      {
        id: 'pooling-0d1d6d2c-7a57-4c8e-9d0b-7f3f6f3c1f52',
        object: 'list',
        created: 1796342400,
        model: scoringAlias,
        data: [{ index: 0, object: 'pooling', data: [[-0.021], [-0.016], [-2.731]] }],
        usage: { prompt_tokens: 3, total_tokens: 3, completion_tokens: 0, prompt_tokens_details: null },
      },
    ],
  },
);

const RewardRequest = Type.Object(
  {
    query: Type.Array(Text, { ...several, description: 'Prompt and response in one text each' }),
    prompts: Maybe(
      Type.Array(Nullable(Text), { maxItems: maxCompatibleItems }),
      'As many as queries. Where a query begins with its prompt, only what follows is in its reward.',
    ),
  },
  {
    $id: 'RewardRequest',
    description: 'As of OpenRLHF; other fields, `labels` for one, are ignored',
    examples: [{ query: [`${prompt} ${response}`], prompts: [`${prompt} `], labels: [null] }],
  },
);

const Rewards = Type.Array(Type.Number());

export const RewardAnswer = Type.Object(
  {
    rewards: { ...Rewards, description: 'One for each query, in their order' },
    scores: { ...Rewards, description: 'The same' },
    extra_logs: Type.Object({ dummy_scores: Rewards }, { description: 'The same again, as OpenRLHF does' }),
  },
  {
    $id: 'RewardAnswer',
    examples: [{ rewards: [-2.798], scores: [-2.798], extra_logs: { dummy_scores: [-2.798] } }],
  },
);

const asTheyAre =
  'A text stands behind BOS as it is, without the prompt format, and control tokens that it spells are text.';
const allOrNone = `Up to ${maxCompatibleItems} texts and ${bodyLimitMiB} MiB. 422: one of them cannot be scored, with a pointer to it; then none is.`;

export const compatibleRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (
  app,
  { services },
) => {
  for (const schema of [PoolingRequest, PoolingAnswer, RewardRequest, RewardAnswer]) app.addSchema(schema);

  app.post(
    '/pooling',
    {
      config: { scope: 'score' },
      bodyLimit: bodyLimitMiB * 1024 * 1024,
      schema: {
        operationId: 'poolTokens',
        tags: ['scoring'],
        summary: 'Score every token of whole texts, as vLLM does',
        description: `The pooling API of vLLM for the task \`token_classify\`: the reward of every token of a text, BOS and all that a prompt may be included. ${asTheyAre} \`messages\` are laid out in the prompt format. Rewards are as the model gives them: \`use_activation\` changes nothing. ${allOrNone}`,
        body: Type.Ref('PoolingRequest'),
        response: { 200: Type.Ref('PoolingAnswer'), ...problemResponses(404, 413, 415) },
      },
    },
    async (request, reply) => {
      const body = request.body as Parameters<typeof poolTokens>[2] & { encoding_format?: string | null };
      const texts = await poolTokens(services, request.caller, body, clientGone(reply));
      const tokens = texts.reduce((sum, { length }) => sum + length, 0);
      return {
        id: `pooling-${request.id}`,
        object: 'list' as const,
        created: Math.floor(Date.now() / 1000),
        model: body.model ?? scoringAlias,
        data: texts.map((rewards, index) => ({
          index,
          object: 'pooling' as const,
          data:
            body.encoding_format === 'base64' ? inBase64(rewards) : Array.from(rewards, (reward) => [reward]),
        })),
        usage: {
          prompt_tokens: tokens,
          total_tokens: tokens,
          completion_tokens: 0 as const,
          prompt_tokens_details: null,
        },
      };
    },
  );

  app.post(
    '/get_reward',
    {
      config: { scope: 'score', keyAsPassword: true },
      bodyLimit: bodyLimitMiB * 1024 * 1024,
      schema: {
        operationId: 'rewardQueries',
        tags: ['scoring'],
        summary: 'Reward whole texts, as the reward server of OpenRLHF does',
        description: `One reward for each query, by the model with the alias \`${scoringAlias}\`: the sum over its tokens. ${asTheyAre} Since OpenRLHF can be given a URL and no key, the key may stand in it as the password: \`http://key:KEY@HOST/get_reward\`. ${allOrNone}`,
        body: Type.Ref('RewardRequest'),
        response: { 200: Type.Ref('RewardAnswer'), ...problemResponses(404, 413, 415) },
      },
    },
    async (request, reply) => {
      const body = request.body as Parameters<typeof rewardQueries>[2];
      const rewards = await rewardQueries(services, request.caller, body, clientGone(reply));
      return { rewards, scores: rewards, extra_logs: { dummy_scores: rewards } };
    },
  );
};

function inBase64(rewards: Float32Array): string {
  const bytes = Buffer.alloc(4 * rewards.length);
  for (const [index, reward] of rewards.entries()) bytes.writeFloatLE(reward, 4 * index);
  return bytes.toString('base64');
}
