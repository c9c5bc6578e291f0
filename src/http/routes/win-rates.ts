// POST /v1/win-rates: a win rate with its uncertainty from posted judgements; nothing is stored.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import { bootstrapDefaults } from '../../domain/bootstrap.ts';
import {
  computeWinRate,
  type Judgement,
  type WinRateOptions,
  type WinRateReport,
} from '../../domain/win-rate.ts';
import type { Services } from '../../services/context.ts';
import { winRateOf } from '../../services/win-rates.ts';
import { clientGone } from '../disconnect.ts';
import { Nullable, problemResponses } from '../schemas.ts';

const Fraction = Nullable(Type.Number({ minimum: 0, maximum: 1 }));
const StandardError = Nullable(Type.Number({ minimum: 0 }));
const Reason = Nullable(Type.String(), { description: 'Why there is no figure' });
const Name = Type.String({ minLength: 1, maxLength: 200 });
const TrainingSeed = Type.Union([Type.String({ maxLength: 200 }), Type.Integer()]);

const JudgementSchema = Type.Object(
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
    candidate: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 200,
        description:
          'Whose response was judged against the baseline; several may be in one call, at most 100',
      }),
    ),
    training_seed: Type.Optional(
      Type.Union([Type.String({ maxLength: 200 }), Type.Integer()], {
        description:
          'Which training of the candidate; several make `training`, with the training variance in it',
      }),
    ),
    null_reason: Type.Optional(
      Type.String({ maxLength: 200, description: 'Why the outcome is null', examples: ['timeout'] }),
    ),
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

export const Options = Type.Object(
  {
    confidence_level: Type.Optional(Type.Number({ exclusiveMinimum: 0, exclusiveMaximum: 1, default: 0.95 })),
    bootstrap: Type.Optional(
      Type.Object(
        {
          rounds: Type.Optional(
            Type.Integer({
              minimum: 100,
              maximum: 10_000,
              default: bootstrapDefaults.rounds,
              description: 'Times the judgements at most 200,000,000',
            }),
          ),
          seed: Type.Optional(
            Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER, default: bootstrapDefaults.seed }),
          ),
          method: Type.Optional(Type.Enum(['bca', 'percentile'], { default: bootstrapDefaults.method })),
        },
        { additionalProperties: false, description: 'Resamples items; none unless asked for' },
      ),
    ),
    length_control: Type.Optional(
      Type.Object(
        {
          method: Type.Optional(
            Type.Enum(['regression', 'alpaca_eval'], {
              default: 'regression',
              description:
                '`regression`: a ridge on the slopes; `alpaca_eval`: a lasso, its strength chosen by cross-validation, and gamed baselines',
            }),
          ),
          gamed_baselines: Type.Optional(
            Type.Array(Name, {
              maxItems: 10,
              description:
                'Candidates that are versions of the baseline told to be long or short: they count in no figure, and pull the length effect of `alpaca_eval` to theirs',
            }),
          ),
        },
        { additionalProperties: false },
      ),
    ),
    imputation_bounds: Type.Optional(
      Type.Boolean({ default: false, description: 'As if all that failed had been lost, and won' }),
    ),
    trained_policies: Type.Optional(
      Type.Boolean({
        default: false,
        description: 'The candidates come out of training: the answer then says what the intervals leave out',
      }),
    ),
    agreement: Type.Optional(
      Type.Object(
        { judge: Name, people: Type.Array(Name, { minItems: 1, maxItems: 100 }) },
        {
          additionalProperties: false,
          description: 'Names in `judge` of the judgements: the judge to check, and the people who check it',
          examples: [{ judge: 'gpt', people: ['ann', 'bob'] }],
        },
      ),
    ),
  },
  { $id: 'WinRateOptions', additionalProperties: false },
);

const Interval = Type.Object({
  low: Type.Number(),
  high: Type.Number(),
  level: Type.Number({ examples: [0.95] }),
});

const ConfidenceInterval = Type.Object(
  {
    ...Interval.properties,
    method: Type.Enum(['wilson', 'student_t', 'cluster_robust_t'], {
      description:
        '`wilson`: wins and losses only, one judgement an item; `student_t`: mean ± t · standard error; `cluster_robust_t`: the same with items as clusters',
    }),
  },
  { $id: 'ConfidenceInterval' },
);

const LengthControlled = Type.Object(
  {
    win_rate: Fraction,
    standard_error: StandardError,
    confidence_interval: Nullable(Interval),
    n: Type.Integer({ description: 'Judgements that have lengths' }),
    method: Type.Enum(['regression', 'alpaca_eval']),
    difficulty: Type.Enum(['none', 'given', 'estimated'], {
      description:
        'Of the items: `given` when every judgement has it; else `estimated` when several candidates are in the call',
    }),
    coefficients: Nullable(
      Type.Object({ intercept: Type.Number(), length: Type.Number(), difficulty: Nullable(Type.Number()) }),
      { description: 'On the scale of the logit' },
    ),
    inverse_penalty: Nullable(Type.Number(), {
      description: 'Of `alpaca_eval`, as cross-validation chose it',
    }),
    identified: Type.Boolean({
      description: 'False when only the penalty keeps the answer finite, or there is none',
    }),
    reason: Nullable(Type.String(), { description: 'Why there is no figure, or it is not identified' }),
  },
  { $id: 'LengthControlledWinRate' },
);

const Bound = Type.Object({ win_rate: Type.Number(), confidence_interval: Type.Ref('ConfidenceInterval') });

const OverTrainings = {
  standard_error: StandardError,
  confidence_interval: Nullable(Interval),
  reason: Reason,
};

const Training = Type.Object(
  {
    seeds: Type.Array(
      Type.Object({ training_seed: TrainingSeed, win_rate: Type.Number(), n: Type.Integer() }),
    ),
    ...OverTrainings,
  },
  { $id: 'TrainingVariance' },
);

const Figures = Type.Object({
  win_rate: Fraction,
  standard_error: StandardError,
  confidence_interval: Nullable(Type.Ref('ConfidenceInterval')),
  n: Type.Integer({ description: 'Judgements that count' }),
  wins: Type.Integer(),
  losses: Type.Integer(),
  ties: Type.Integer(),
  dropped: Type.Object({ null: Type.Integer(), out_of_range: Type.Integer() }),
  discrete_win_rate: Fraction,
  clusters: Type.Integer({ description: 'Items' }),
  length_controlled: Nullable(Type.Ref('LengthControlledWinRate'), {
    description: 'The win rate at equal lengths, beside the raw one; null without lengths',
  }),
  position_consistency: Fraction,
  judge_agreement: Fraction,
  minimal_detectable_difference: Nullable(Type.Number(), {
    description: 'Distance from one half that a test at this level finds with 80 % power, from this variance',
  }),
  nulls: Type.Object({
    share: Fraction,
    by_reason: Type.Array(
      Type.Object({ reason: Nullable(Type.String()), count: Type.Integer(), share: Type.Number() }),
      { description: 'Most frequent first; null where no reason was given' },
    ),
  }),
  imputation_bounds: Nullable(Type.Object({ all_lost: Bound, all_won: Bound })),
  bootstrap: Nullable(
    Type.Object({
      low: Nullable(Type.Number()),
      high: Nullable(Type.Number()),
      level: Type.Number(),
      method: Type.Enum(['bca', 'percentile']),
      rounds: Type.Integer(),
      seed: Type.Integer(),
      standard_error: StandardError,
      reason: Reason,
    }),
  ),
  training: Nullable(Type.Ref('TrainingVariance'), {
    description: 'Over items and trainings, where judgements have training seeds',
  }),
  reason: Nullable(Type.String(), { description: 'Why a main figure is null' }),
});

const Candidate = Nullable(Type.String(), { description: 'null for judgements that name none' });

const Comparison = Type.Object(
  {
    candidates: Type.Array(Candidate, { minItems: 2, maxItems: 2, description: 'The first and the second' }),
    difference: Nullable(Type.Number(), { description: 'The first less the second, over the items of both' }),
    standard_error: StandardError,
    confidence_interval: Nullable(Type.Ref('ConfidenceInterval')),
    n_shared: Type.Integer({ description: 'Items that both were judged on' }),
    minimal_detectable_difference: Nullable(Type.Number()),
    training: Nullable(Type.Object(OverTrainings), {
      description: 'Over items and the trainings of both, where judgements have training seeds',
    }),
    reason: Reason,
  },
  { $id: 'PairedComparison' },
);

const Ranked = Type.Object({
  candidate: Candidate,
  is_baseline: Type.Boolean(),
  strength: Type.Number({ description: 'Logit of winning against the baseline' }),
  standard_error: StandardError,
  confidence_interval: Nullable(Interval),
  rank: Type.Integer(),
  rank_interval: Nullable(Type.Object({ low: Type.Integer(), high: Type.Integer() }), {
    description: 'Ranks that the pairwise intervals leave open',
  }),
});

const Kappa = Type.Object({
  items: Type.Integer({ description: 'That both judged' }),
  accuracy: Nullable(Type.Number(), { description: 'Share of equal verdicts of win, tie and loss' }),
  kappa: Nullable(Type.Number(), { description: "Cohen's" }),
});

const Agreement = Type.Object(
  {
    judge: Type.String(),
    ...Kappa.properties,
    accuracy_interval: Nullable(Interval),
    undecided: Type.Integer({ description: 'Items on which people have no majority' }),
    people: Type.Array(Type.Object({ name: Type.String(), ...Kappa.properties })),
    reason: Reason,
  },
  { $id: 'JudgeAgreement' },
);

const PredictionPowered = Type.Object(
  {
    win_rate: Fraction,
    standard_error: StandardError,
    confidence_interval: Nullable(Interval),
    weight: Nullable(Type.Number(), { description: 'How much the judge is trusted, 0..1' }),
    people_items: Type.Integer({ description: 'That people and the judge judged' }),
    judge_items: Type.Integer({ description: 'That the judge judged alone' }),
    people_win_rate: Fraction,
    people_standard_error: StandardError,
    reason: Reason,
  },
  { $id: 'PredictionPoweredWinRate' },
);

const CheckedByPeople = {
  agreement: Nullable(Type.Ref('JudgeAgreement')),
  prediction_powered: Nullable(Type.Ref('PredictionPoweredWinRate'), {
    description: "The judge's win rate, corrected by the people's judgements of some of the items",
  }),
};

const example: Judgement[] = Array.from({ length: 40 }, (_, k) => ({
  item_id: `prompt-${k + 1}`,
  outcome: [1, 0.5, 1, 0][k % 4]!,
  length_candidate: 400 + ((k * 37) % 90),
  length_baseline: 430,
}));

/** For reading. */
const rounded = (report: WinRateReport) =>
  JSON.parse(JSON.stringify(report), (_, value) =>
    typeof value === 'number' ? Number(value.toFixed(4)) : value,
  );

export const WinRate = Type.Object(
  {
    ...Figures.properties,
    candidates: Nullable(
      Type.Array(Type.Object({ candidate: Candidate, ...Figures.properties, ...CheckedByPeople })),
      {
        description: 'Each alone; null with one candidate. The figures at the top are pooled over all.',
      },
    ),
    comparisons: Nullable(Type.Array(Type.Ref('PairedComparison')), {
      description: 'Each two candidates; null with one',
    }),
    ranking: Nullable(Type.Array(Ranked), {
      description: 'Bradley-Terry, strongest first, with the baseline among them; null with one candidate',
    }),
    ...CheckedByPeople,
    summary: Type.String({ description: 'The result in one or two plain sentences' }),
    notes: Type.Array(Type.String(), { description: 'What to know before one relies on it' }),
  },
  { $id: 'WinRate', examples: [rounded(computeWinRate(example))] },
);

export const winRateRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app) => {
  for (const schema of [
    JudgementSchema,
    Options,
    ConfidenceInterval,
    LengthControlled,
    Training,
    Comparison,
    Agreement,
    PredictionPowered,
    WinRate,
  ])
    app.addSchema(schema);

  app.post(
    '/v1/win-rates',
    {
      config: { scope: 'read', idempotency: 'nothing_stored' },
      bodyLimit: 64 * 1024 * 1024,
      schema: {
        operationId: 'computeWinRate',
        tags: ['evaluation'],
        summary: 'Compute a win rate from judgements',
        description:
          'At most 100,000 judgements of 100 candidates, 64 MiB. All rates are fractions. Nothing is stored. docs/win-rates.md has each figure.',
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
            options: Type.Optional(Type.Ref('WinRateOptions')),
          },
          { additionalProperties: false },
        ),
        response: { 200: Type.Ref('WinRate'), ...problemResponses(413, 415) },
      },
    },
    async (request, reply) => {
      const { judgements, options = {} } = request.body as {
        judgements: Judgement[];
        options?: WinRateOptions;
      };
      return winRateOf(judgements, options, clientGone(reply));
    },
  );
};
