// /v1/artifacts: demonstrations and prompts in, generated responses and reports out.

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import { Problem } from '../../errors.ts';
import * as artifacts from '../../services/artifacts.ts';
import type { Services } from '../../services/context.ts';
import { rangeOf } from '../ranges.ts';
import { Digest, problemResponses, Timestamp } from '../schemas.ts';
import { readStream, sendStream, streamed, streamedBody } from '../streams.ts';

/** Any text: what is no digest names no artifact (404). */
const ArtifactDigest = Type.String({
  description: '`sha256:` and 64 hexadecimal digits',
  examples: [`sha256:${'3f'.repeat(32)}`],
});

const rowExample = `${JSON.stringify({ id: 'prompt-1', prompt: 'When was the harbor bridge opened?' })}\n`;

const Artifact = Type.Object(
  {
    digest: Digest,
    bytes: Type.Integer({ examples: [48_213] }),
    media_type: Type.String({ examples: ['application/x-ndjson'] }),
    created_at: Timestamp,
  },
  { $id: 'Artifact' },
);

export const artifactRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (
  app,
  { services },
) => {
  app.addSchema(Artifact);
  // whatever the type, the body is passed on as a stream
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', async (_request: unknown, payload: unknown) => payload);

  app.post(
    '/v1/artifacts',
    {
      config: { scope: 'models:write', idempotency: 'stream', keepsBodyAsSent: true },
      schema: {
        operationId: 'putArtifact',
        tags: ['artifacts'],
        summary: 'Store a file under its digest',
        description:
          'The body is the file, of any content type and of up to 8 GiB; storing it again changes nothing. Runs take digests: NDJSON rows `{id?, prompt, response}` as demonstrations of an `sft` run, `{id, prompt}` as prompts.',
        body: streamedBody(['application/x-ndjson', 'application/octet-stream'], 'The file', rowExample),
        response: { 201: Type.Ref('Artifact'), ...problemResponses(413, 415) },
      },
    },
    async (request, reply) => {
      const mediaType = request.headers['content-type'] ?? 'application/octet-stream';
      const body = readStream(request, 'the file, with its content type');
      return reply.code(201).send(await artifacts.putArtifact(services, request.caller, mediaType, body));
    },
  );

  app.get(
    '/v1/artifacts/:digest',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getArtifact',
        tags: ['artifacts'],
        summary: 'Download an artifact',
        description:
          'Byte by byte as it was stored. To go on with a download that broke off, ask for the rest by `Range`.',
        params: Type.Object({ digest: ArtifactDigest }),
        headers: Type.Object({
          Range: Type.Optional(
            Type.String({ description: 'One range of bytes (RFC 9110); anything else is passed over' }),
          ),
        }),
        response: {
          200: streamed('*/*', 'The content, of the type that it was stored with', rowExample),
          206: streamed('*/*', 'The range of it that was asked for', rowExample.slice(0, 20)),
          ...problemResponses(404, 416),
        },
      },
    },
    async (request, reply) => {
      const { artifact, read } = await artifacts.getArtifact(services, request.caller, request.params.digest);
      const range = rangeOf(request.headers.range, artifact.bytes);
      if (range === 'unsatisfiable') {
        reply.header('content-range', `bytes */${artifact.bytes}`);
        throw new Problem('range_not_satisfiable', `The artifact has ${artifact.bytes} bytes.`);
      }
      if (range) {
        reply.code(206);
        reply.header('content-range', `bytes ${range.start}-${range.end - 1}/${artifact.bytes}`);
      }
      reply.headers({
        'accept-ranges': 'bytes',
        'content-length': range ? range.end - range.start : artifact.bytes,
        'cache-control': 'no-transform', // the bytes are those of the digest
        etag: `"${artifact.digest}"`,
        'x-content-type-options': 'nosniff', // the type is the uploader's word
        'content-disposition': 'attachment',
      });
      return sendStream(reply, artifact.media_type, read(range ?? undefined));
    },
  );
};
