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

/** The response of a route that streams. */
export const streamed = (mediaType: string, description: string) => ({
  description,
  content: { [mediaType]: { schema: { type: 'string' as const } } },
});
