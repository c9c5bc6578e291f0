// POST /v1/win-rates: a win rate with its uncertainty from posted judgements; nothing is stored.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import { computeWinRate } from '../../domain/win-rate.ts';
import type { Services } from '../../services/context.ts';
import { Nullable, problemResponses } from '../schemas.ts';

const Fraction = Nullable(Type.Number({ minimum: 0, maximum: 1 }));

const Judgement = Type.Object(
  {
    item_id: Type.String({
      minLength: 1,
      maxLength: 500,
      description: 'The prompt; several judgements of one item make it the cluster of the uncertainty',
    }),
    outcome: Nullable(Type.Number(), {
      description:
        'Share of the candidate: 1 won, 0 lost, 0.5 a tie; null when the judge failed. Values outside 0..1 are dropped and counted.',
    }),
    length_candidate: Type.Optional(Type.Number({ minimum: 0 })),
    length_baseline: Type.Optional(Type.Number({ minimum: 0 })),
    difficulty: Type.Optional(
      Type.Number({ description: 'Logit with which a baseline of your choice wins this item' }),
    ),
    judge: Type.Optional(Type.String({ maxLength: 200 })),
    order: Type.Optional(
      Type.Union([Type.String({ maxLength: 200 }), Type.Integer()], {
        description: 'In which order the judge saw the responses, in words or numbers of your own',
        examples: ['candidate_first'],
      }),
    ),
  },
  { $id: 'Judgement', additionalProperties: false },
);

const ConfidenceInterval = Type.Object({
  low: Type.Number(),
  high: Type.Number(),
  level: Type.Number({ examples: [0.95] }),
  method: Type.Enum(['wilson', 'student_t', 'cluster_robust_t'], {
    description:
      '`wilson`: wins and losses only, one judgement an item; `student_t`: mean ± t · standard error; `cluster_robust_t`: the same with items as clusters',
  }),
});

const WinRate = Type.Object(
  {
    win_rate: Fraction,
    standard_error: Nullable(Type.Number()),
    confidence_interval: Nullable(ConfidenceInterval),
    n: Type.Integer({ description: 'Judgements that count' }),
    wins: Type.Integer(),
    losses: Type.Integer(),
    ties: Type.Integer(),
    dropped: Type.Object({ null: Type.Integer(), out_of_range: Type.Integer() }),
    discrete_win_rate: Fraction,
    clusters: Type.Integer({ description: 'Items' }),
    length_controlled: Nullable(
      Type.Object({
        win_rate: Fraction,
        standard_error: Nullable(Type.Number()),
        n: Type.Integer({ description: 'Judgements that have lengths' }),
        reason: Nullable(Type.String(), { description: 'Why there is no figure' }),
      }),
      { description: 'The win rate at equal lengths, beside the raw one; null without lengths' },
    ),
    position_consistency: Fraction,
    judge_agreement: Fraction,
    reason: Nullable(Type.String(), { description: 'Why a main figure is null' }),
  },
  {
    $id: 'WinRate',
    examples: [
      {
        win_rate: 0.603,
        standard_error: 0.0255,
        confidence_interval: { low: 0.553, high: 0.653, level: 0.95, method: 'student_t' },
        n: 300,
        wins: 154,
        losses: 92,
        ties: 54,
        dropped: { null: 0, out_of_range: 0 },
        discrete_win_rate: 0.603,
        clusters: 300,
        length_controlled: { win_rate: 0.597, standard_error: 0.0259, n: 300, reason: null },
        position_consistency: null,
        judge_agreement: null,
        reason: null,
      },
    ],
  },
);

export const winRateRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app) => {
  app.addSchema(Judgement);
  app.addSchema(WinRate);

  app.post(
    '/v1/win-rates',
    {
      config: { scope: 'read', idempotency: 'nothing_stored' },
      bodyLimit: 64 * 1024 * 1024,
      schema: {
        operationId: 'computeWinRate',
        tags: ['evaluation'],
        summary: 'Compute a win rate from judgements',
        description: 'At most 100,000 judgements, 64 MiB. All rates are fractions. Nothing is stored.',
        body: Type.Object(
          {
            judgements: Type.Array(Type.Ref('Judgement'), {
              maxItems: 100_000,
              examples: [
                [
                  { item_id: 'prompt-1', outcome: 1 },
                  { item_id: 'prompt-2', outcome: 0.5 },
                  { item_id: 'prompt-3', outcome: 0 },
                ],
              ],
            }),
            options: Type.Optional(
              Type.Object(
                {
                  confidence_level: Type.Optional(
                    Type.Number({ exclusiveMinimum: 0, exclusiveMaximum: 1, default: 0.95 }),
                  ),
                },
                { additionalProperties: false },
              ),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 200: Type.Ref('WinRate'), ...problemResponses(413, 415) },
      },
    },
    async (request) => computeWinRate(request.body.judgements as never, request.body.options),
  );
};
