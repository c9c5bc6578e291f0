// Streamed bodies and answers. A route's schema describes their text; what is read or sent is a stream of it.
import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Problem } from '../errors.ts';
import type { RowStream } from '../services/row-import.ts';

export const ndjsonType = 'application/x-ndjson';
export const jsonlType = 'application/jsonl';
export const parquetType = 'application/vnd.apache.parquet';

/** Of the body of an import. */
export const rowTypes = [ndjsonType, jsonlType, parquetType];

/** The parser of a content type whose bodies are read as they come. */
export const passStream = async (_request: unknown, payload: unknown): Promise<unknown> => payload;

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

/**
 * @param what it should hold
 * @throws Problem invalid_request for a request without a body, which needs no content type either, and
 * unsupported_media_type for JSON, which every route can parse and this one does not read
 */
export function readStream({ body }: FastifyRequest, what: string): AsyncIterable<Uint8Array> {
  if (body === undefined) throw new Problem('invalid_request', `There is no body: send ${what}.`);
  if (!(body instanceof Readable))
    throw new Problem('unsupported_media_type', `The route does not read application/json: send ${what}.`);
  return body;
}

/** The rows of an import, in the format that the request says. @param what they are */
export const readRows = (request: FastifyRequest, what: string): RowStream => ({
  format: request.headers['content-type']?.toLowerCase().startsWith(parquetType) ? 'parquet' : 'ndjson',
  bytes: readStream(request, `NDJSON, one ${what} a line, or a Parquet file`),
});

/** The body of a route that reads a stream; nothing of it is validated before it is read. */
export const streamedBody = (mediaTypes: string[], description: string, example: string) => ({
  content: Object.fromEntries(
    mediaTypes.map((mediaType) => [mediaType, { schema: { description, examples: [example] } }]),
  ),
});
