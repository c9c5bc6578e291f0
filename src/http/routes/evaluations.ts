// /v1/evaluations: candidates against a baseline under a judge; their items, judgements, figures and table.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import * as creation from '../../services/evaluation-creation.ts';
import { importEvaluation } from '../../services/evaluation-import.ts';
import { maxCandidates, maxItemId } from '../../services/evaluation-responses.ts';
import * as results from '../../services/evaluation-results.ts';
import * as evaluations from '../../services/evaluations.ts';
import * as judgements from '../../services/judgements.ts';
import { Message, maxTextLength } from '../../services/pair-rows.ts';
import { GenerateSpec } from '../../services/run-specs.ts';
import { splits } from '../../services/snapshot-content.ts';
import { clientGone } from '../disconnect.ts';
import {
  IfMatch,
  ifNoneMatchHeaders,
  notModified,
  preconditionOf,
  sendTagged,
  Tagged,
  tagged,
} from '../etags.ts';
import { LlmLimits, llmJudgeSettings } from '../llm-schemas.ts';
import { answerOnce } from '../plugins/idempotency.ts';
import {
  Digest,
  describeCodes,
  Id,
  Nullable,
  Page,
  PageQuery,
  problemResponses,
  Timestamp,
} from '../schemas.ts';
import { ndjsonType, sendStream } from '../streams.ts';
import { Prompt } from './pairs.ts';
import { NamedModel } from './score.ts';
import { Options, WinRate } from './win-rates.ts';

const evaluationExample = 'eval_019356f0f1a27b3c8d4e5f6a7b8c9d0e';
const judgementExample = 'judg_019356f0f1a27b3c8d4e5f6a7b8c9d0e';
const snapshotExample = 'snap_019356f0d1a27b3c8d4e5f6a7b8c9d0e';
const runExample = 'run_019356f0c1a27b3c8d4e5f6a7b8c9d0e';
const closed = { additionalProperties: false };
const keysOf = <T extends object>(table: T) => Object.keys(table) as (keyof T & string)[];

const { trained_policies: __, agreement: ___, ...optionFields } = Options.properties;
const EvaluationOptions = Type.Object(optionFields, {
  $id: 'EvaluationOptions',
  ...closed,
  description: 'Of `POST /v1/win-rates`; whether policies were trained, and who judged, the evaluation knows',
});

const State = Type.Enum(keysOf(evaluations.evaluationStates), {
  description: describeCodes(evaluations.evaluationStates),
});
const Name = Type.String({ minLength: 1, maxLength: 200 });
const ItemId = Type.String({ minLength: 1, maxLength: maxItemId, examples: ['prompt-1'] });
const TrainingSeed = Type.Union([Type.String({ minLength: 1, maxLength: 200 }), Type.Integer()], {
  description:
    'Candidates of one name that were trained with different seeds are one candidate, whose interval then includes the training',
});
const Text = Type.String({ maxLength: maxTextLength });

const responderFields = {
  name: Type.Optional(
    Type.String({ ...Name, description: '`baseline`, `candidate` or `candidate 1` unless given' }),
  ),
  training_seed: Type.Optional(TrainingSeed),
  model: Type.Optional(GenerateSpec.properties.model),
  seed: Type.Optional(
    Type.Integer({ minimum: 0, maximum: 2 ** 32 - 1, description: 'With `model`: of the sampling' }),
  ),
  hyperparameters: Type.Optional(GenerateSpec.properties.hyperparameters),
  generate_run_id: Type.Optional(
    Id(runExample, 'A `generate` run, whose responses these are; it may still be under way'),
  ),
  artifact: Type.Optional(
    Type.String({
      pattern: '^sha256:[0-9a-f]{64}$',
      description: 'An NDJSON artifact with rows `{id, prompt?, response}`; further columns are left alone',
      examples: [`sha256:${'3f'.repeat(32)}`],
    }),
  ),
  responses: Type.Optional(
    Type.Array(
      Type.Object({ id: ItemId, prompt: Type.Optional(Type.Ref('Prompt')), response: Text }, closed),
      { minItems: 1, maxItems: 5000, description: 'The responses themselves' },
    ),
  ),
};

const Responder = Type.Object(responderFields, {
  $id: 'Responder',
  ...closed,
  description:
    'Whose responses: exactly one of `model` (a policy; the evaluation queues a `generate` run, which needs the scope `runs:write`), `generate_run_id`, `artifact`, `responses`',
  examples: [{ name: 'policy', model: { alias: 'policy' } }],
});

const { responses: _, ...summaryFields } = responderFields;
const ResponderSummary = Type.Object(
  { ...summaryFields, name: Name },
  { $id: 'ResponderSummary', description: 'As it was asked for; posted responses are left out' },
);

const promptFields = {
  snapshot_id: Type.Optional(Id(snapshotExample, 'The prompts of a snapshot, each once')),
  split: Type.Optional(Type.Enum([...splits], { description: 'With `snapshot_id`; `test` unless given' })),
  prompts: Type.Optional({ ...Digest, description: 'An NDJSON artifact with rows `{id, prompt}`' }),
};

const Prompts = Type.Object(
  {
    ...promptFields,
    items: Type.Optional(
      Type.Array(Type.Object({ id: ItemId, prompt: Type.Ref('Prompt') }, closed), {
        minItems: 1,
        maxItems: 5000,
      }),
    ),
  },
  {
    $id: 'EvaluationPrompts',
    ...closed,
    description:
      'Exactly one of `snapshot_id`, `prompts`, `items`. Needed where a model writes responses; else the prompts are those of the response sets, and if given they say what is compared.',
    examples: [{ snapshot_id: snapshotExample, split: 'test' }],
  },
);

const PerItem = Type.Optional(
  Type.Integer({ minimum: 1, maximum: 9, default: 1, description: 'Judgements of each pair of responses' }),
);

const JudgeInstructions = Type.Optional(
  Nullable(Type.String({ maxLength: 20_000, description: 'What people are shown with each pair' })),
);

const peopleFields = {
  items: Type.Optional(
    Nullable(Type.Integer({ minimum: 1, maximum: 20_000 }), {
      description: 'So many items, drawn; null: all',
    }),
  ),
  per_item: PerItem,
  instructions: JudgeInstructions,
};
const People = Type.Object(peopleFields, {
  $id: 'EvaluationPeople',
  ...closed,
  description:
    'People who judge beside a reward model, an LLM or a program: they say how far that judge agrees with them, and correct its estimate. The evaluation does not wait for them.',
  examples: [{ items: 100 }],
});

const judgeForms = {
  reward: Type.Object(
    {
      kind: Type.Literal('reward'),
      model: Type.Optional(
        Type.String({
          maxLength: 200,
          description: 'A token or sequence reward model, by id or alias; `token-reward` unless given',
        }),
      ),
      tie_margin: Type.Optional(
        Type.Number({ minimum: 0, default: 0, description: 'Totals no further apart than this are a tie' }),
      ),
    },
    closed,
  ),
  llm: Type.Object({ kind: Type.Literal('llm'), ...llmJudgeSettings }, closed),
  person: Type.Object(
    {
      kind: Type.Literal('person'),
      per_item: PerItem,
      instructions: JudgeInstructions,
    },
    closed,
  ),
  external: Type.Object({ kind: Type.Literal('external'), per_item: PerItem }, closed),
};

// one branch by `kind`: its errors only are told
const Judge = Type.Unsafe<evaluations.Judge>({
  $id: 'Judge',
  type: 'object',
  required: ['kind'],
  properties: {
    kind: Type.Enum(keysOf(judgeForms), { description: describeCodes(evaluations.judgeKinds) }),
  },
  discriminator: { propertyName: 'kind' },
  oneOf: Object.values(judgeForms),
  examples: [{ kind: 'reward', model: 'token-reward' }],
});

const NewEvaluation = Type.Object(
  {
    name: Type.Optional(Nullable(Name)),
    candidates: Type.Array(Type.Ref('Responder'), { minItems: 1, maxItems: maxCandidates }),
    baseline: Type.Ref('Responder'),
    prompts: Type.Optional(Type.Ref('EvaluationPrompts')),
    judge: Type.Ref('Judge'),
    people: Type.Optional(Nullable(Type.Ref('EvaluationPeople'))),
    options: Type.Optional(Type.Ref('EvaluationOptions')),
  },
  {
    $id: 'NewEvaluation',
    ...closed,
    examples: [
      {
        name: 'letters',
        candidates: [
          {
            name: 'tuned',
            responses: [
              {
                id: 'prompt-1',
                prompt: 'Write a letter to Anna about the harbor.',
                response: 'Dear Anna, this letter is about the harbor.',
              },
            ],
          },
        ],
        baseline: {
          name: 'before',
          responses: [{ id: 'prompt-1', response: 'Dear Anna, this damn letter is about the garden.' }],
        },
        judge: { kind: 'reward' },
      },
      {
        candidates: [{ name: 'policy', model: { alias: 'policy' } }],
        baseline: { name: 'before', model: { model_id: 'model_019356f0e1a27b3c8d4e5f6a7b8c9d0e' } },
        prompts: { snapshot_id: snapshotExample, split: 'test' },
        judge: { kind: 'person', per_item: 2, instructions: 'Which letter does what the prompt asks for?' },
      },
    ],
  },
);

const { model: _model, instructions: _instructions, ...llmOnly } = llmJudgeSettings;

const Evaluation = Type.Object(
  {
    id: Id(evaluationExample),
    name: Nullable(Type.String()),
    state: State,
    candidates: Type.Array(Type.Ref('ResponderSummary')),
    baseline: Type.Ref('ResponderSummary'),
    prompts: Nullable(Type.Object(promptFields)),
    judge: Type.Object(
      {
        kind: Type.Enum(keysOf(judgeForms)),
        model: Type.Optional(Type.String()),
        tie_margin: Type.Optional(Type.Number()),
        per_item: Type.Optional(Type.Integer()),
        instructions: Type.Optional(Nullable(Type.String())),
        ...Type.Partial(Type.Object(llmOnly)).properties,
        circular: Type.Array(Type.String(), {
          description:
            'Candidates, or the baseline, that the judge trained: what it says of them is no evidence',
        }),
        scored_by: Nullable(NamedModel, {
          description: 'The model that a `reward` judge stood for when it was asked for',
        }),
      },
      { description: 'As it was asked for, with defaults' },
    ),
    people: Nullable(Type.Ref('EvaluationPeople')),
    options: Type.Ref('EvaluationOptions'),
    runs: Type.Array(
      Type.Object({
        responder: Type.String(),
        run_id: Id(runExample),
        own: Type.Boolean({ description: 'Made for this evaluation, and cancelled with it' }),
        state: Type.String(),
        progress: Nullable(
          Type.Object({
            step: Type.Integer(),
            total_steps: Type.Integer(),
            fraction: Type.Number(),
            eta_seconds: Nullable(Type.Number()),
            stage: Type.String(),
          }),
        ),
      }),
      { description: 'Runs whose responses it waits for, or has waited for' },
    ),
    progress: Type.Object({
      items: Nullable(Type.Integer(), { description: 'Prompts; null until they are known' }),
      judged: Type.Integer({
        description: 'Judgements that are there, `nulls` included',
      }),
      nulls: Type.Integer({ description: 'Those among them without an outcome' }),
      leased: Type.Integer({ description: 'Somebody is at them' }),
      total: Nullable(Type.Integer(), { description: 'Judgements in all; null until the items are known' }),
      fraction: Type.Number(),
      beside: Type.Object(
        { judged: Type.Integer(), total: Type.Integer() },
        { description: 'Of further judges, such as people: they are not waited for' },
      ),
    }),
    failure: Nullable(
      Type.Object({
        reason: Type.Enum(keysOf(evaluations.failureReasons), {
          description: describeCodes(evaluations.failureReasons),
        }),
        detail: Type.String(),
      }),
    ),
    usage: Nullable(Type.Ref('LlmUsage'), { description: 'What an `llm` has used so far; null for others' }),
    stopped: Nullable(Type.Ref('LlmStopped'), {
      description: 'Why an `llm` does not go on before `/resume`; null while it does',
    }),
    created_at: Timestamp,
    finished_at: Nullable(Timestamp),
  },
  {
    $id: 'Evaluation',
    examples: [
      {
        id: evaluationExample,
        name: 'letters',
        state: 'judging',
        candidates: [{ name: 'policy', model: { alias: 'policy' }, seed: 1 }],
        baseline: { name: 'before' },
        prompts: { snapshot_id: snapshotExample, split: 'test' },
        judge: {
          kind: 'person',
          per_item: 2,
          instructions: 'Which letter does what the prompt asks for?',
          circular: [],
          scored_by: null,
        },
        people: null,
        options: {},
        runs: [{ responder: 'policy', run_id: runExample, own: true, state: 'succeeded', progress: null }],
        progress: {
          items: 300,
          judged: 120,
          nulls: 2,
          leased: 3,
          total: 600,
          fraction: 0.2,
          beside: { judged: 0, total: 0 },
        },
        failure: null,
        usage: null,
        stopped: null,
        created_at: '2026-11-23T09:00:00.000Z',
        finished_at: null,
      },
    ],
  },
);

const Order = Nullable(Type.Enum([...judgements.orders]), {
  description: 'Which response the judge saw first; null: it saw no order',
});
const Outcome = Nullable(Type.Number({ minimum: 0, maximum: 1 }), {
  description: 'Share of the candidate: 1 won, 0 lost, 0.5 a tie; null: there is none, see `null_reason`',
  examples: [1],
});
const JudgedBy = Type.Object({
  kind: Type.Enum(['reward', 'llm', 'person', 'external']),
  name: Nullable(Type.String(), { description: 'Null while nobody has taken it' }),
});

const EvaluationJudgement = Type.Object(
  {
    id: Id(judgementExample),
    item_id: ItemId,
    candidate: Type.String(),
    training_seed: Nullable(TrainingSeed),
    state: Type.Enum(['open', 'leased', 'judged', 'cancelled'], {
      description:
        '`open`: wanted. `leased`: somebody is at it. `judged`: done. `cancelled`: its evaluation ended before.',
    }),
    judge: JudgedBy,
    order: Order,
    outcome: Outcome,
    null_reason: Nullable(Type.String(), {
      description: `Why there is no outcome; the service’s own reasons: ${describeCodes(judgements.nullReasons)}`,
    }),
    detail: Nullable(Type.Object({}, { additionalProperties: true }), {
      description: 'What the judge gave beside the outcome, such as both rewards or a comment',
    }),
    judged_at: Nullable(Timestamp),
  },
  {
    $id: 'EvaluationJudgement',
    examples: [
      {
        id: judgementExample,
        item_id: 'prompt-1',
        candidate: 'policy',
        training_seed: null,
        state: 'judged',
        judge: { kind: 'reward', name: 'model_019356f0e1a27b3c8d4e5f6a7b8c9d0e' },
        order: null,
        outcome: 1,
        null_reason: null,
        detail: { reward_candidate: -0.4, reward_baseline: -2.1 },
        judged_at: '2026-11-23T09:00:21.507Z',
      },
    ],
  },
);

const NewJudgement = Type.Object(
  {
    item_id: ItemId,
    candidate: Type.Optional(Type.String({ maxLength: 200, description: 'Needed where there are several' })),
    training_seed: Type.Optional(TrainingSeed),
    outcome: Outcome,
    null_reason: Type.Optional(
      Nullable(Type.String({ minLength: 1, maxLength: 200, description: 'Needed with an outcome of null' })),
    ),
    judge: Type.Optional(
      Type.Object(
        {
          kind: Type.Optional(
            Type.Enum(['person', 'llm', 'external'], {
              description: '`person` in evaluations by people, `external` in all others, unless given',
            }),
          ),
          name: Name,
        },
        closed,
      ),
    ),
    order: Type.Optional(Order),
    comment: Type.Optional(Nullable(Type.String({ maxLength: 20_000 }))),
  },
  { $id: 'NewJudgement', ...closed, examples: [{ item_id: 'prompt-1', outcome: 1 }] },
);

const EvaluationResult = Type.Object(
  {
    evaluation_id: Id(evaluationExample),
    state: State,
    running: Type.Boolean({ description: 'Judgements are still to come: a running estimate' }),
    figures: Type.Ref('WinRate', { description: 'Of the judge of the evaluation' }),
    other_judges: Type.Array(
      Type.Object({
        judge: Type.Object({
          kind: Type.Enum(['reward', 'llm', 'external']),
          name: Type.String({ examples: ['gpt-9'] }),
        }),
        figures: Type.Ref('WinRate'),
      }),
      {
        description: `Programs whose judgements were posted beside the judge's, those of most judgements first, ${results.maxOtherJudges} at most: their own figures, without the bootstrap, and how far each agrees with people`,
      },
    ),
  },
  { $id: 'EvaluationResult' },
);

const EvaluationItem = Type.Object(
  {
    number: Type.Integer({ examples: [1] }),
    item_id: ItemId,
    prompt: Type.Ref('Prompt'),
    responses: Type.Array(
      Type.Object({
        name: Type.String(),
        training_seed: Nullable(TrainingSeed),
        response: Nullable(Type.String(), { description: 'null where there is none' }),
      }),
      { description: 'Of the baseline, then of the candidates' },
    ),
  },
  {
    $id: 'EvaluationItem',
    examples: [
      {
        number: 1,
        item_id: 'prompt-1',
        prompt: 'Write a letter to Anna about the harbor.',
        responses: [
          {
            name: 'before',
            training_seed: null,
            response: 'Dear Anna, this damn letter is about the garden.',
          },
          { name: 'policy', training_seed: null, response: 'Dear Anna, this letter is about the harbor.' },
        ],
      },
    ],
  },
);

const annotationExample = {
  instruction: 'Write a letter to Anna about the harbor.',
  output_1: 'Dear Anna, this damn letter is about the garden.',
  generator_1: 'before',
  output_2: 'Dear Anna, this letter is about the harbor.',
  generator_2: 'policy',
  annotator: 'weighted_alpaca_eval_gpt4_turbo',
  preference: 1.93,
};

// further columns are left alone, as AlpacaEval's files have many
const Annotation = Type.Object({
  instruction: Type.String({ minLength: 1, maxLength: maxTextLength }),
  output_1: Type.String({ maxLength: maxTextLength, description: 'Of the baseline' }),
  output_2: Type.String({ maxLength: maxTextLength, description: 'Of the model' }),
  generator_1: Type.Optional(Nullable(Name)),
  generator_2: Type.Optional(Nullable(Name)),
  annotator: Type.Optional(Nullable(Name)),
  preference: Type.Optional(
    Nullable(Type.Number(), {
      description:
        '1: the baseline, 2: the model, between them: a share, 1.5 or 0: a tie; null: the annotator failed',
    }),
  ),
});
const Annotations = Type.Array(Annotation, {
  $id: 'AlpacaEvalAnnotations',
  examples: [[annotationExample]],
});
const exportExample = `${JSON.stringify({ item_id: 'prompt-1', prompt: annotationExample.instruction, responses: [], judgements: [] })}\n`;
const csvExample =
  'item_id,candidate,training_seed,judge_kind,judge,order,outcome,null_reason,length_candidate,length_baseline\r\n';

const params = Type.Object({ evaluation_id: Id(evaluationExample) });
const exportTypes = { ndjson: ndjsonType, csv: 'text/csv; charset=utf-8', alpaca_eval: 'application/json' };

export const evaluationRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (
  app,
  { services },
) => {
  for (const schema of [
    Message,
    Prompt,
    LlmLimits,
    WinRate,
    EvaluationOptions,
    People,
    Responder,
    ResponderSummary,
    Prompts,
    Judge,
    NewEvaluation,
    Evaluation,
    EvaluationJudgement,
    NewJudgement,
    EvaluationResult,
    EvaluationItem,
    Annotations,
  ])
    app.addSchema(schema);

  app.post(
    '/v1/evaluations',
    {
      config: { scope: 'evaluations:write', idempotency: 'accepted' },
      bodyLimit: 64 * 1024 * 1024,
      schema: {
        operationId: 'createEvaluation',
        tags: ['evaluation'],
        summary: 'Compare candidates with a baseline',
        description: `Takes up to ${maxCandidates} candidates and a baseline: policies, which write their responses in \`generate\` runs of the evaluation, stored response sets, or responses in the request; items are joined by their \`id\`. A judge then says of each item which response is better, and \`/result\` has the win rate with its uncertainty, a running one at first. A response that is missing stays in the table, as a judgement without an outcome. Each item is judged once in each order, whatever dies meanwhile. 429: ${creation.maxUnfinishedEvaluations} evaluations of the project have not ended yet.`,
        body: Type.Ref('NewEvaluation'),
        response: { 202: Tagged(Type.Ref('Evaluation')), ...problemResponses(404, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(
          202,
          await creation.createEvaluation(services, request.caller, request.body as creation.NewEvaluation),
        ),
      ),
  );

  app.post(
    '/v1/evaluations/import',
    {
      config: { scope: 'evaluations:write', idempotency: 'accepted' },
      bodyLimit: 64 * 1024 * 1024,
      schema: {
        operationId: 'importEvaluation',
        tags: ['evaluation'],
        summary: 'Import annotations of AlpacaEval',
        description: `Makes an evaluation of what AlpacaEval has judged, its annotations.json under \`annotations\`: one baseline (\`generator_1\`), up to ${maxCandidates} models (\`generator_2\`), 1 to 20,000 annotations. It has ended at once; \`/result\` has the figures, and people’s judgements may be added.`,
        body: Type.Object(
          {
            name: Type.Optional(Nullable(Name)),
            annotations: Type.Array(Annotation, { minItems: 1, maxItems: 20_000 }),
          },
          { ...closed, examples: [{ annotations: [annotationExample] }] },
        ),
        response: { 201: Tagged(Type.Ref('Evaluation')), ...problemResponses(413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(201, await importEvaluation(services, request.caller, request.body)),
      ),
  );

  app.get(
    '/v1/evaluations',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listEvaluations',
        tags: ['evaluation'],
        summary: 'List evaluations, the newest first',
        description: 'All of the project, or those in one state.',
        querystring: Type.Object({ ...PageQuery, state: Type.Optional(State) }, closed),
        response: { 200: Page(Type.Ref('Evaluation')), ...problemResponses() },
      },
    },
    (request) => evaluations.listEvaluations(services, request.caller, request.query),
  );

  app.get(
    '/v1/evaluations/:evaluation_id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getEvaluation',
        tags: ['evaluation'],
        summary: 'How far an evaluation is',
        description: 'What it compares, its runs, and how many judgements are there.',
        params,
        headers: ifNoneMatchHeaders,
        response: { 200: Tagged(Type.Ref('Evaluation')), ...notModified, ...problemResponses(404) },
      },
    },
    async (request, reply) =>
      sendTagged(
        request,
        reply,
        await evaluations.getEvaluation(services, request.caller, request.params.evaluation_id),
      ),
  );

  app.get(
    '/v1/evaluations/:evaluation_id/result',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getEvaluationResult',
        tags: ['evaluation'],
        summary: 'The win rates of an evaluation',
        description:
          'Computed from the judgements that are there, as `POST /v1/win-rates` does, with the options of the evaluation. Judgements by people say how far each judge agrees with them, and correct its estimate.',
        params,
        response: { 200: Type.Ref('EvaluationResult'), ...problemResponses(404) },
      },
    },
    (request, reply) =>
      results.getResult(services, request.caller, request.params.evaluation_id, clientGone(reply)),
  );

  app.get(
    '/v1/evaluations/:evaluation_id/items',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listEvaluationItems',
        tags: ['evaluation'],
        summary: 'List the items of an evaluation',
        description:
          'In their order, with all responses: what a judge of yours reads. Empty while it prepares.',
        params,
        querystring: Type.Object(
          {
            after: Type.Optional(
              Type.Integer({ minimum: 0, description: '`next_after` of the page before' }),
            ),
            limit: Type.Optional(
              Type.Integer({ minimum: 1, maximum: 500, default: 50, description: 'Items of a page' }),
            ),
          },
          closed,
        ),
        response: {
          200: Type.Object({
            items: Type.Array(Type.Ref('EvaluationItem')),
            next_after: Nullable(Type.Integer(), {
              description: 'Give it as `after` for the next page; null on the last',
              examples: [null],
            }),
          }),
          ...problemResponses(404),
        },
      },
    },
    (request) => results.listItems(services, request.caller, request.params.evaluation_id, request.query),
  );

  app.get(
    '/v1/evaluations/:evaluation_id/judgements',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listJudgements',
        tags: ['evaluation'],
        summary: 'List the judgements of an evaluation',
        description: 'Those that are wanted and those that are there, in the order of the work.',
        params,
        querystring: Type.Object(
          { ...PageQuery, state: Type.Optional(EvaluationJudgement.properties.state) },
          closed,
        ),
        response: { 200: Page(Type.Ref('EvaluationJudgement')), ...problemResponses(404) },
      },
    },
    (request) =>
      judgements.listJudgements(services, request.caller, request.params.evaluation_id, request.query),
  );

  app.post(
    '/v1/evaluations/:evaluation_id/judgements',
    {
      config: { scope: 'evaluations:judge', idempotency: 'accepted' },
      schema: {
        operationId: 'addJudgements',
        tags: ['evaluation'],
        summary: 'Post judgements of your own',
        description:
          'All or none, 1 to 1000. In an `external` evaluation they fill the places that are wanted, and the last one ends it; so do judgements by people in one by people. Others come on top: people’s, in an evaluation by a reward model or an LLM, say how far that judge agrees with them. A judge judges a pair of responses once in an order: the same again changes nothing, another outcome is a 409. They may come after the evaluation has ended.',
        params,
        body: Type.Object(
          {
            judgements: Type.Array(Type.Ref('NewJudgement'), {
              minItems: 1,
              maxItems: 1000,
            }),
          },
          {
            ...closed,
            examples: [
              {
                judgements: [
                  {
                    item_id: 'prompt-1',
                    outcome: 1,
                    judge: { kind: 'person', name: 'ann' },
                    order: 'baseline_first',
                  },
                ],
              },
            ],
          },
        ),
        response: {
          200: Type.Object(
            { created: Type.Integer(), unchanged: Type.Integer() },
            { examples: [{ created: 1, unchanged: 0 }] },
          ),
          ...problemResponses(404, 409, 413, 415),
        },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => ({
        status: 200,
        body: await judgements.addJudgements(
          services,
          request.caller,
          request.params.evaluation_id,
          request.body.judgements as judgements.NewJudgement[],
        ),
      })),
  );

  app.get(
    '/v1/evaluations/:evaluation_id/export',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'exportEvaluation',
        tags: ['evaluation'],
        summary: 'Export items and judgements',
        description: `A stream of what is judged so far. ${describeCodes(results.exportFormats)}`,
        params,
        querystring: Type.Object(
          {
            format: Type.Optional(
              Type.Enum(keysOf(results.exportFormats), {
                default: 'ndjson',
                description: 'Unless given `ndjson`',
              }),
            ),
          },
          closed,
        ),
        response: {
          200: {
            description: 'In the format that was asked for',
            content: {
              [exportTypes.ndjson]: { schema: { type: 'string' as const, examples: [exportExample] } },
              'text/csv': { schema: { type: 'string' as const, examples: [csvExample] } },
              [exportTypes.alpaca_eval]: { schema: Type.Ref('AlpacaEvalAnnotations') },
            },
          },
          ...problemResponses(404),
        },
      },
    },
    async (request, reply) => {
      const format = request.query.format ?? 'ndjson';
      const parts = await results.exportEvaluation(
        services,
        request.caller,
        request.params.evaluation_id,
        format,
      );
      return sendStream(reply, exportTypes[format], parts);
    },
  );

  app.post(
    '/v1/evaluations/:evaluation_id/cancel',
    {
      config: { scope: 'evaluations:write', idempotency: 'accepted' },
      schema: {
        operationId: 'cancelEvaluation',
        tags: ['evaluation'],
        summary: 'Cancel an evaluation',
        description:
          'Ends it at once, with its own runs; judgements that are there stay and count. Repeated, or on one that has ended, it changes nothing.',
        params,
        headers: Type.Object(IfMatch),
        response: { 200: Tagged(Type.Ref('Evaluation')), ...problemResponses(404, 412) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(
          200,
          await evaluations.cancelEvaluation(
            services,
            request.caller,
            request.params.evaluation_id,
            preconditionOf(request),
          ),
        ),
      ),
  );

  app.post(
    '/v1/evaluations/:evaluation_id/resume',
    {
      config: { scope: 'evaluations:write', idempotency: 'accepted' },
      schema: {
        operationId: 'resumeEvaluation',
        tags: ['evaluation'],
        summary: 'Let the llm of an evaluation go on',
        description: `After the cause of \`stopped\` is mended: a secret is set again, an endpoint is back, a limit is raised. \`limits\` take the place of the old ones,
at any time (with a secret that needs the scope \`admin\`); without them they stay. 409 for an evaluation that has ended or has no \`llm\`.`,
        params,
        headers: Type.Object(IfMatch),
        body: Type.Object(
          { limits: Type.Optional(Nullable(Type.Ref('LlmLimits'))) },
          { ...closed, examples: [{ limits: { max_cost: 10 } }] },
        ),
        response: { 200: Tagged(Type.Ref('Evaluation')), ...problemResponses(404, 409, 412, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(
          200,
          await evaluations.resumeEvaluation(
            services,
            request.caller,
            request.params.evaluation_id,
            request.body as evaluations.EvaluationResumption,
            preconditionOf(request),
          ),
        ),
      ),
  );
};
