// Snapshots: create, list, get, export.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import { splits } from '../../services/snapshot-content.ts';
import { editRules } from '../../services/snapshot-rules.ts';
import * as snapshots from '../../services/snapshots.ts';
import { answerOnce } from '../plugins/idempotency.ts';
import { Digest, Id, Page, PageQuery, problemResponses, Timestamp } from '../schemas.ts';
import { ndjsonType, sendStream, streamed } from '../streams.ts';
import { exportQuery, pairFilterFields } from './pairs.ts';

const snapshotExample = 'snap_019356f0d7e87f9a8b0c1d2e3f4a5b6c';
const datasetExample = 'ds_019356f0a1b27c3d8e4f5a6b7c8d9e0f';
const Fraction = (example: number) => Type.Number({ minimum: 0, maximum: 1, examples: [example] });

const Split = Type.Object(
  {
    train: Fraction(0.8),
    validation: Fraction(0.1),
    test: Fraction(0.1),
    seed: Type.Integer({ minimum: 0, maximum: 2 ** 31 - 1, examples: [0] }),
  },
  {
    additionalProperties: false,
    description: 'Shares of the prompts, together 1. A prompt is never in two parts.',
  },
);

const rules = {
  edits: Type.Enum([...editRules], {
    default: 'all',
    description:
      'Of several edits of one response. `all` of them; the `latest`; the one that a reviewer `accepted` last, none where nobody decided; the text of the `majority` of its editors, of several such texts the one that agrees best with the others, then the latest',
  }),
  rewrites: Type.Enum(['comparison', 'exclude'], {
    default: 'comparison',
    description:
      'Edits that are not minimal by the policy of their dataset, those without a kept word among them. `comparison`: in the snapshot, without token labels; `exclude`: left out',
  }),
  undecided: Type.Enum(['keep', 'exclude'], {
    default: 'keep',
    description: 'Pairs without a preference: kept for their edits, or left out',
  }),
  min_vote_share: Type.Number({
    minimum: 0,
    maximum: 1,
    default: 0,
    description:
      'A preference that a smaller share of the votes on its pair agrees with counts as none in this snapshot; pairs without votes are left as they are',
  }),
};
const Rules = Type.Object(rules, { description: 'How the snapshot chose' });

const countsExample = {
  pairs: 3600,
  edits: 3712,
  undecided: 50,
  ambiguous: 12,
  rewrites: 31,
  left_out: { undecided_pairs: 0, unedited_pairs: 0, rewrites: 0, competing_edits: 0 },
  splits: {
    train: { pairs: 2880, edits: 2970, undecided: 40, rewrites: 25 },
    validation: { pairs: 360, edits: 371, undecided: 5, rewrites: 3 },
    test: { pairs: 360, edits: 371, undecided: 5, rewrites: 3 },
  },
};
const rowExample = `${JSON.stringify({
  split: 'train',
  prompt: 'When was the harbor bridge opened?',
  response_a: 'It was opened in 1932.',
  response_b: 'It was opened in 1936.',
  preference: 'a',
  edits: [{ side: 'b', edited_response: 'It was opened in 1932.' }],
})}\n`;
const PartCounts = Type.Object({
  pairs: Type.Integer(),
  edits: Type.Integer(),
  undecided: Type.Integer(),
  rewrites: Type.Integer(),
});

const Snapshot = Type.Object(
  {
    id: Id(snapshotExample),
    digest: Digest,
    dataset_ids: Type.Array(Id(datasetExample)),
    split: Split,
    rules: Rules,
    counts: Type.Object(
      {
        pairs: Type.Integer(),
        edits: Type.Integer(),
        undecided: Type.Integer({ description: 'Pairs without a preference, ambiguous ones among them' }),
        ambiguous: Type.Integer({ description: 'Pairs whose votes agree less than `min_vote_share`' }),
        rewrites: Type.Integer({ description: 'Edits that are not minimal and carry no token labels' }),
        left_out: Type.Object(
          {
            undecided_pairs: Type.Integer(),
            unedited_pairs: Type.Integer(),
            rewrites: Type.Integer(),
            competing_edits: Type.Integer(),
          },
          { description: 'What the rules kept out of pairs that the filter took' },
        ),
        splits: Type.Object({ train: PartCounts, validation: PartCounts, test: PartCounts }),
      },
      { examples: [countsExample] },
    ),
    created_at: Timestamp,
  },
  { $id: 'Snapshot' },
);

const params = Type.Object({ snapshot_id: Id(snapshotExample) });

export const snapshotRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (
  app,
  { services },
) => {
  app.addSchema(Snapshot);

  app.post(
    '/v1/snapshots',
    {
      config: { scope: 'snapshots:write', idempotency: 'accepted' },
      schema: {
        operationId: 'createSnapshot',
        tags: ['snapshots'],
        summary: 'Freeze pairs and accepted edits',
        description:
          'The digest covers canonical content (RFC 8785), not ids: equal content has an equal digest on every machine. Pairs deleted later stay in the snapshot.',
        body: Type.Object(
          {
            dataset_ids: Type.Array(Id(datasetExample), { minItems: 1, maxItems: 100, uniqueItems: true }),
            filter: Type.Optional(
              Type.Object(pairFilterFields, {
                additionalProperties: false,
                description: 'Which pairs of the datasets; all of it must hold',
              }),
            ),
            split: Split,
            rules: Type.Optional(Type.Partial(Type.Object(rules), { additionalProperties: false })),
          },
          { additionalProperties: false },
        ),
        response: { 201: Type.Ref('Snapshot'), ...problemResponses(404, 413, 415) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => ({
        status: 201,
        body: await snapshots.createSnapshot(services, request.caller, request.body),
      })),
  );

  app.get(
    '/v1/snapshots',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listSnapshots',
        tags: ['snapshots'],
        summary: 'List snapshots, oldest first',
        description: 'With their digests and counts.',
        querystring: Type.Object(PageQuery, { additionalProperties: false }),
        response: { 200: Page(Type.Ref('Snapshot')), ...problemResponses() },
      },
    },
    (request) => snapshots.listSnapshots(services, request.caller, request.query),
  );

  app.get(
    '/v1/snapshots/:snapshot_id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getSnapshot',
        tags: ['snapshots'],
        summary: 'Get a snapshot',
        description: 'What went into it, how it was split, and how many pairs and edits each part has.',
        params,
        response: { 200: Type.Ref('Snapshot'), ...problemResponses(404) },
      },
    },
    (request) => snapshots.getSnapshot(services, request.caller, request.params.snapshot_id),
  );

  app.get(
    '/v1/snapshots/:snapshot_id/export',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'exportSnapshot',
        tags: ['snapshots'],
        summary: 'Export a snapshot as NDJSON, token-labelled when a model is named',
        description:
          'Without `model`: pairs with their edits, or TRL preference rows. With `model`: for each edit the token ids of both versions in the tokenizer of that model, which of them changed, and the labels that a reward model learns from.',
        params,
        querystring: Type.Object(
          {
            ...exportQuery,
            split: Type.Optional(Type.Enum([...splits], { description: 'Only this part' })),
          },
          { additionalProperties: false },
        ),
        response: {
          200: streamed(ndjsonType, 'One pair or edit a line', rowExample),
          ...problemResponses(404),
        },
      },
    },
    async (request, reply) =>
      sendStream(
        reply,
        ndjsonType,
        await snapshots.exportSnapshot(services, request.caller, request.params.snapshot_id, request.query),
      ),
  );
};
