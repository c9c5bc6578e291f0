// Agreement between the editors of a pair, and of a dataset.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import * as agreement from '../../services/agreement.ts';
import type { Services } from '../../services/context.ts';
import { Id, Nullable, problemResponses } from '../schemas.ts';
import { datasetExample, Editor, editExample, pairExample } from './edits.ts';

const figures = {
  alpha: Nullable(Type.Number(), {
    description:
      "Krippendorff's alpha of the marks changed and kept: 1 = all editors always agree, 0 = as often as chance would; from .8 on reliable, from .667 on for tentative conclusions; null with a `reason`",
    examples: [0.78],
  }),
  pairwise_f1: Nullable(Type.Number(), {
    description: 'F1 on the changed tokens, mean over each two editors; two who change nothing have 1',
    examples: [0.81],
  }),
  changed_fraction: Nullable(Type.Number(), {
    description: 'Share of all marks that say changed',
    examples: [0.12],
  }),
  reason: Nullable(Type.String(), { description: 'Why alpha is null', examples: [null] }),
};
const tokens = (example: number) =>
  Type.Integer({ description: 'Words and marks of what was edited, and each end', examples: [example] });

const PairAgreement = Type.Object(
  {
    pair_id: Id(pairExample),
    responses: Type.Array(
      Type.Object({
        side: Type.Enum(['a', 'b']),
        tokens: tokens(14),
        editors: Type.Integer({ examples: [2] }),
        edits: Type.Array(
          Type.Object({
            id: Id(editExample),
            editor: Editor,
            changed_tokens: Type.Integer({ examples: [2] }),
          }),
          { description: 'The last one of each editor' },
        ),
        ...figures,
      }),
      { description: 'Those with edits of two editors or more' },
    ),
  },
  { $id: 'PairAgreement' },
);

const DatasetAgreement = Type.Object(
  {
    responses: Type.Integer({ description: 'With edits of two editors or more', examples: [412] }),
    tokens: tokens(31_208),
    edits: Type.Integer({ description: 'Of those responses, the last one of each editor', examples: [860] }),
    editors: Type.Integer({ description: 'Different names among them', examples: [7] }),
    ...figures,
    confidence_interval: Nullable(
      Type.Object({ low: Type.Number(), high: Type.Number(), level: Type.Number() }),
      {
        description:
          'Of alpha, over responses; null with fewer than two, and where they do not differ in how far editors agree',
        examples: [{ low: 0.74, high: 0.82, level: 0.95 }],
      },
    ),
  },
  { $id: 'DatasetAgreement' },
);

const counted =
  'The last edit of each editor counts, an unchanged one too: who changes nothing says something. Edits that a reviewer rejected or superseded do not. docs/agreement.md says what the figures mean.';

export const agreementRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (
  app,
  { services },
) => {
  for (const schema of [PairAgreement, DatasetAgreement]) app.addSchema(schema);

  app.get(
    '/v1/pairs/:pair_id/agreement',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getPairAgreement',
        tags: ['edits'],
        summary: 'How far the editors of a pair agree',
        description: `On which tokens of a response to change, for each response with edits of two editors or more. ${counted}`,
        params: Type.Object({ pair_id: Id(pairExample) }),
        response: { 200: Type.Ref('PairAgreement'), ...problemResponses(404) },
      },
    },
    (request) => agreement.getPairAgreement(services, request.caller, request.params.pair_id),
  );

  app.get(
    '/v1/datasets/:dataset_id/agreement',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getDatasetAgreement',
        tags: ['edits'],
        summary: 'How far the editors of a dataset agree',
        description: `Pooled over all responses with edits of two editors or more, with an interval over responses. Computed now, in seconds for tens of thousands of edits. ${counted}`,
        params: Type.Object({ dataset_id: Id(datasetExample) }),
        response: { 200: Type.Ref('DatasetAgreement'), ...problemResponses(404) },
      },
    },
    (request) => agreement.getDatasetAgreement(services, request.caller, request.params.dataset_id),
  );
};
