// What requests for the work of a language model have in common: a chat endpoint, how to call it, and what that may cost.
import { type TSchema, Type } from 'typebox';
import { judgeModes, judgeOrders } from '../services/llm-judges.ts';
import { stopReasons } from '../services/llm-work.ts';
import { describeCodes, Nullable, Timestamp } from './schemas.ts';

export const SecretName = Type.String({
  pattern: '^[a-z0-9][a-z0-9_-]{0,62}$',
  description: 'Small letters, digits, `_` and `-`',
  examples: ['llm-api-key'],
});

const limit = (description: string, schema: TSchema) => Type.Optional(Nullable(schema, { description }));
export const LlmLimits = Type.Object(
  {
    max_total_tokens: limit(
      'Input and output tokens together, of all calls',
      Type.Integer({ minimum: 1, maximum: 1_000_000_000_000 }),
    ),
    max_cost: limit(
      'Of all calls, in the currency of `price`, which it needs',
      Type.Number({ minimum: 0, maximum: 1_000_000_000 }),
    ),
  },
  {
    additionalProperties: false,
    $id: 'LlmLimits',
    description:
      'Checked before each call against the most that it and the calls under way can take: a byte of the messages is at most a token, an answer at most `max_tokens`. When there is no room for a call the work stops with the reason `budget`.',
    examples: [{ max_total_tokens: 2_000_000, max_cost: 5 }],
  },
);

const price = Type.Number({ minimum: 0, maximum: 1_000_000 });
export const llmSettings = {
  base_url: Type.String({
    minLength: 1,
    maxLength: 2000,
    description:
      'Of an OpenAI-compatible endpoint; `/chat/completions` is added to its path. Everybody who may read the project sees it: put no key in it',
    examples: ['https://llm.example/v1'],
  }),
  model: Type.String({
    minLength: 1,
    maxLength: 190,
    description:
      'As the endpoint calls it; edits carry it as the name of their editor, judgements as that of their judge',
    examples: ['qwen3-8b'],
  }),
  secret: Type.Optional(
    Nullable(SecretName, {
      description: 'The secret that holds the key of the endpoint. Naming one needs the scope `admin`',
    }),
  ),
  concurrency: Type.Optional(
    Type.Integer({ minimum: 1, maximum: 16, default: 4, description: 'Calls at a time' }),
  ),
  requests_per_minute: Type.Optional(
    Nullable(Type.Integer({ minimum: 1, maximum: 60_000 }), {
      description: 'Calls begin at even distances, retries too',
    }),
  ),
  price: Type.Optional(
    Nullable(
      Type.Object({ input_per_million: price, output_per_million: price }, { additionalProperties: false }),
      {
        description: 'Of a million tokens, in any currency; for `usage.cost` and `limits.max_cost`',
        examples: [{ input_per_million: 0.2, output_per_million: 0.8 }],
      },
    ),
  ),
};

export const Temperature = (description: string) =>
  Type.Optional(Nullable(Type.Number({ minimum: 0, maximum: 2 }), { description }));

export const MaxTokens = (description: string) =>
  Type.Optional(Nullable(Type.Integer({ minimum: 16, maximum: 1_000_000 }), { description }));

export const LlmUsage = Type.Object(
  {
    requests: Type.Integer({ description: 'Calls of the endpoint' }),
    retries: Type.Integer({ description: 'Calls among them that repeated a failed one' }),
    refused: Type.Integer({ description: 'Answers that could not be taken: no minimal edit, no verdict' }),
    input_tokens: Type.Integer({
      description:
        'As the endpoint counts. A call that broke off, or an answer that does not say, counts with the most that it can have taken',
    }),
    output_tokens: Type.Integer(),
    cost: Nullable(Type.Number(), { description: 'By `price`; null without one' }),
  },
  {
    $id: 'LlmUsage',
    examples: [
      {
        requests: 3720,
        retries: 40,
        refused: 96,
        input_tokens: 1_480_000,
        output_tokens: 610_000,
        cost: 0.784,
      },
    ],
  },
);

export const LlmStopped = Type.Object(
  {
    reason: Type.Enum(Object.keys(stopReasons), {
      description: describeCodes(stopReasons),
      examples: ['credentials'],
    }),
    detail: Type.String({
      description: 'What happened, as far as the endpoint said it',
      examples: ['The endpoint answered 401: Incorrect API key'],
    }),
    at: Timestamp,
  },
  { $id: 'LlmStopped' },
);

/** Of the llm judge of an evaluation. */
export const llmJudgeSettings = {
  ...llmSettings,
  temperature: Temperature('0 unless given; null leaves it to the endpoint, as some models take no other'),
  max_tokens: MaxTokens('Of an answer of the mode `verdict`, thoughts included; 2048 unless given'),
  orders: Type.Optional(
    Type.Enum(Object.keys(judgeOrders), {
      default: 'both',
      description: `How often each pair of responses is judged. ${describeCodes(judgeOrders)}`,
    }),
  ),
  mode: Type.Optional(
    Type.Enum(Object.keys(judgeModes), { default: 'verdict', description: describeCodes(judgeModes) }),
  ),
  ties: Type.Optional(
    Type.Boolean({ description: 'Whether a verdict may be a tie; true unless given. Not for `logprobs`' }),
  ),
  instructions: Type.Optional(
    Nullable(Type.String({ maxLength: 20_000 }), {
      description: 'What you expect of a response, for the judge to go by',
      examples: ['Correct and short. An apology is worth nothing.'],
    }),
  ),
  limits: Type.Optional(Nullable(Type.Ref('LlmLimits'))),
};
