// /v1/artifact-uploads: files in parts, to be resumed after whatever broke off.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import * as uploads from '../../services/artifact-uploads.ts';
import { maxArtifactBytes } from '../../services/artifacts.ts';
import type { Services } from '../../services/context.ts';
import { answerOnce } from '../plugins/idempotency.ts';
import { Digest, Id, Nullable, problemResponses, Timestamp } from '../schemas.ts';
import { readStream, streamedBody } from '../streams.ts';

const uploadExample = 'aup_019356f0a1b27c3d8e4f5a6b7c8d9e0f';

const MediaType = Type.String({
  minLength: 1,
  maxLength: 200,
  pattern: '^[!-~]+/[!-~]+(; ?[!-~]+)*$',
  default: 'application/octet-stream',
  description: 'What the artifact is downloaded as',
  examples: ['application/x-ndjson'],
});

const ArtifactUpload = Type.Object(
  {
    id: Id(uploadExample),
    digest: Digest,
    bytes: Type.Integer({ examples: [48_213] }),
    media_type: Type.String({ examples: ['application/x-ndjson'] }),
    part_bytes: Type.Integer({ description: 'Of every part but the last', examples: [uploads.partBytes] }),
    parts: Type.Integer({ description: 'How many there are, numbered from 1', examples: [1] }),
    missing: Type.Array(
      Type.Object({
        part: Type.Integer({ examples: [1] }),
        offset: Type.Integer({ description: 'Of its first byte in the file', examples: [0] }),
        bytes: Type.Integer({ examples: [48_213] }),
        url: Nullable(Type.String(), {
          description:
            'Takes a PUT of the part for an hour, without a key, so that its bytes do not pass through this API; null where artifacts are kept in a folder. `GET` the upload for fresh ones.',
          examples: [null],
        }),
      }),
      { description: 'What has not come yet' },
    ),
    created_at: Timestamp,
    expires_at: { ...Timestamp, description: 'From then on the upload is gone, with what has come' },
  },
  { $id: 'ArtifactUpload' },
);

const params = Type.Object({ upload_id: Id(uploadExample) });

export const artifactUploadRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (
  app,
  { services },
) => {
  app.addSchema(ArtifactUpload);
  await app.register(partRoute, { services });

  app.post(
    '/v1/artifact-uploads',
    {
      config: { scope: 'models:write', idempotency: 'accepted' },
      schema: {
        operationId: 'createArtifactUpload',
        tags: ['artifacts'],
        summary: 'Begin to upload a file in parts',
        description:
          'For files that are too large for one request. Send each of the `missing` parts, in any order and several at once, to `PUT …/parts/{part}` or to its `url`; after a break, `GET` the upload and go on with what is missing; then `POST …/complete`. A file that the project has already is answered at once, with 200.',
        body: Type.Object(
          {
            digest: Digest,
            bytes: Type.Integer({
              minimum: 1,
              maximum: maxArtifactBytes,
              description: 'Of the whole file',
              examples: [48_213],
            }),
            media_type: Type.Optional(MediaType),
          },
          { additionalProperties: false },
        ),
        response: {
          200: { ...Type.Ref('Artifact'), description: 'It is here already' },
          201: Type.Ref('ArtifactUpload'),
          ...problemResponses(413, 415),
        },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => {
        const { media_type = 'application/octet-stream', ...file } = request.body;
        const begun = await uploads.createArtifactUpload(services, request.caller, { ...file, media_type });
        return 'artifact' in begun
          ? { status: 200, body: begun.artifact }
          : { status: 201, body: begun.upload };
      }),
  );

  app.get(
    '/v1/artifact-uploads/:upload_id',
    {
      config: { scope: 'models:write' },
      schema: {
        operationId: 'getArtifactUpload',
        tags: ['artifacts'],
        summary: 'What an upload still lacks',
        description: 'After a break, go on with its `missing` parts; each answer has fresh URLs for them.',
        params,
        response: { 200: Type.Ref('ArtifactUpload'), ...problemResponses(404) },
      },
    },
    (request) => uploads.getArtifactUpload(services, request.caller, request.params.upload_id),
  );

  app.post(
    '/v1/artifact-uploads/:upload_id/complete',
    {
      config: { scope: 'models:write', idempotency: 'repeatable' },
      schema: {
        operationId: 'completeArtifactUpload',
        tags: ['artifacts'],
        summary: 'Make the file visible',
        description:
          'Reads the parts together, which takes a while for a large file. 422 `unprocessable` while parts are missing; 422 `digest_mismatch` when they are not what was announced, and the upload is gone then. After an answer that was lost, begin the upload again: 200 says that the file is there.',
        params,
        response: { 201: Type.Ref('Artifact'), ...problemResponses(404) },
      },
    },
    async (request, reply) =>
      reply
        .code(201)
        .send(await uploads.completeArtifactUpload(services, request.caller, request.params.upload_id)),
  );

  app.delete(
    '/v1/artifact-uploads/:upload_id',
    {
      config: { scope: 'models:write', idempotency: 'accepted' },
      schema: {
        operationId: 'abortArtifactUpload',
        tags: ['artifacts'],
        summary: 'Give an upload up',
        description: 'What has come of it is thrown away. An upload that is left alone expires by itself.',
        params,
        response: { 204: Type.Null({ description: 'It is gone' }), ...problemResponses(404) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) => {
        await uploads.abortArtifactUpload(services, request.caller, request.params.upload_id);
        return { status: 204 };
      }),
  );
};

/** Apart, as it reads any type as a stream, JSON too. */
const partRoute: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', async (_request: unknown, payload: unknown) => payload);

  app.put(
    '/v1/artifact-uploads/:upload_id/parts/:part',
    {
      config: { scope: 'models:write', idempotency: 'stream', keepsBodyAsSent: true },
      schema: {
        operationId: 'putArtifactUploadPart',
        tags: ['artifacts'],
        summary: 'Send a part',
        description:
          'The body is the part, of exactly its size; sent again, it replaces what came before. 422 for another size.',
        params: Type.Object({
          ...params.properties,
          part: Type.Integer({ minimum: 1, maximum: 10_000, description: 'Its number', examples: [1] }),
        }),
        body: streamedBody(['application/octet-stream'], 'The part', 'the bytes of the part'),
        response: {
          204: Type.Null({ description: 'It has come' }),
          ...problemResponses(404, 413, 415),
        },
      },
    },
    async (request, reply) => {
      const { upload_id, part } = request.params;
      const body = readStream(request, 'the part');
      await uploads.putUploadPart(services, request.caller, upload_id, part, body);
      return reply.code(204).send(null);
    },
  );
};
