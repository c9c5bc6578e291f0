// Streamed answers. A route's schema describes their text; what is sent is a stream of it.
import { Readable } from 'node:stream';
import type { FastifyReply } from 'fastify';

export const ndjsonType = 'application/x-ndjson';

/** Sends what `source` yields, with back-pressure. */
export function sendStream(
  reply: unknown,
  mediaType: string,
  source: Readable | AsyncIterable<string>,
): FastifyReply {
  const stream = source instanceof Readable ? source : Readable.from(source);
  return (reply as FastifyReply).type(mediaType).send(stream);
}

/** The response of a route that streams, with its beginning as the example. */
export const streamed = (mediaType: string, description: string, example: string) => ({
  description,
  content: { [mediaType]: { schema: { type: 'string' as const, examples: [example] } } },
});

/** The body of a route that reads a stream; nothing of it is validated before it is read. */
export const streamedBody = (mediaTypes: string[], description: string, example: string) => ({
  content: Object.fromEntries(
    mediaTypes.map((mediaType) => [mediaType, { schema: { description, examples: [example] } }]),
  ),
});
