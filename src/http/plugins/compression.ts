// Answers encoded with br or gzip where the client takes it. Streams are encoded as they go: what has been written is
// flushed soon after, so that a first row arrives while the next is still made.
//
// An encoded answer is another representation, so its strong ETag says so, "…;gzip"; a tag that comes back in If-Match
// or If-None-Match loses the ending again, so that a client may use what it was given. docs/adr/0015 says why this is
// not @fastify/compress.
import { Readable } from 'node:stream';
import { promisify } from 'node:util';
import { brotliCompress, constants, createBrotliCompress, createGzip, gzip } from 'node:zlib';
import type { FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { type ContentEncoding, preferredEncoding } from '../media-types.ts';

const thresholdBytes = 1024;
const writeBytes = 16 * 1024;
const flushAfterMs = 20;

// level 4 is about as fast as gzip's default, and smaller
const brotli = { params: { [constants.BROTLI_PARAM_QUALITY]: 4 } };
const [brotliWhole, gzipWhole] = [promisify(brotliCompress), promisify(gzip)];
const whole = {
  br: (content: string | Buffer) => brotliWhole(content, brotli),
  gzip: (content: string | Buffer) => gzipWhole(content),
};
const streaming = { br: () => createBrotliCompress(brotli), gzip: () => createGzip() };

/** Rows are gathered, as an encoder costs as much for each write as for many rows, and flushed soon after. */
function encodeStream(source: Readable, encoding: ContentEncoding): Readable {
  const encoder = streaming[encoding]();
  let gathered: Buffer[] = [];
  let bytes = 0;
  let flushing: NodeJS.Timeout | undefined;
  const write = (): void => {
    if (bytes === 0) return;
    const hasRoom = encoder.write(Buffer.concat(gathered));
    gathered = [];
    bytes = 0;
    if (hasRoom) return;
    source.pause();
    encoder.once('drain', () => source.resume());
  };
  const writeAndFlush = (): void => {
    flushing = undefined;
    write();
    encoder.flush();
  };
  source.on('data', (chunk: string | Buffer) => {
    gathered.push(Buffer.from(chunk as string));
    bytes += gathered.at(-1)!.length;
    if (bytes >= writeBytes) write();
    flushing ??= setTimeout(writeAndFlush, flushAfterMs);
  });
  source.once('end', () => {
    clearTimeout(flushing);
    write();
    encoder.end();
  });
  source.once('error', (error) => encoder.destroy(error));
  encoder.once('close', () => {
    clearTimeout(flushing);
    source.destroy();
  });
  return encoder;
}

const textual = /^(text\/|application\/(.+\+)?json\b|application\/(x-ndjson|javascript)\b|image\/svg)/;

/** Whether the answer may be encoded at all: then it depends on Accept-Encoding, whatever comes of it. */
function isEncodable(reply: FastifyReply): boolean {
  return (
    textual.test(String(reply.getHeader('content-type') ?? '')) &&
    !reply.hasHeader('content-encoding') &&
    !reply.hasHeader('content-range') &&
    !String(reply.getHeader('cache-control') ?? '').includes('no-transform')
  );
}

function setEncoding(reply: FastifyReply, encoding: ContentEncoding): void {
  reply.header('content-encoding', encoding);
  reply.removeHeader('content-length');
  reply.removeHeader('accept-ranges');
  const tag = reply.getHeader('etag');
  if (typeof tag === 'string' && tag.startsWith('"'))
    reply.header('etag', `${tag.slice(0, -1)};${encoding}"`);
}

const encodedTag = /;(?:br|gzip)"/g;

function addVary(reply: FastifyReply): void {
  const vary = reply.getHeader('vary');
  if (vary === undefined) reply.header('vary', 'Accept-Encoding');
  else if (!/\baccept-encoding\b/i.test(String(vary))) reply.header('vary', `${vary}, Accept-Encoding`);
}

export const compression = fp(async (app) => {
  app.decorateRequest('tagEnding', null);
  app.addHook('onRequest', (request, _reply, done) => {
    for (const name of ['if-match', 'if-none-match'] as const) {
      const tags = request.headers[name];
      const ending = tags?.match(encodedTag)?.[0];
      if (tags === undefined || ending === undefined) continue;
      request.tagEnding = ending;
      request.headers[name] = tags.replaceAll(encodedTag, '"');
    }
    done();
  });
  app.addHook('onSend', async (request, reply, payload: unknown) => {
    if (reply.statusCode === 304) return restoreTag(request, reply, payload);
    const isStream = payload instanceof Readable;
    if (!(isStream || typeof payload === 'string' || Buffer.isBuffer(payload)) || !isEncodable(reply))
      return payload;
    addVary(reply);
    const encoding = preferredEncoding(request.headers['accept-encoding'] as string | undefined);
    const isLong = isStream || Buffer.byteLength(payload) >= thresholdBytes;
    if (encoding === null || !isLong) return isStream ? unlessHead(request, payload) : payload;
    setEncoding(reply, encoding);
    if (!isStream) return whole[encoding](payload);
    return request.method === 'HEAD' ? unlessHead(request, payload) : encodeStream(payload, encoding);
  });
});

/** The answer to HEAD says what GET would, but nobody makes what nobody gets. */
function unlessHead(request: FastifyRequest, stream: Readable): Readable {
  if (request.method !== 'HEAD') return stream;
  stream.destroy();
  return Readable.from([]);
}

/** 304 names the representation that the client has. */
function restoreTag(request: FastifyRequest, reply: FastifyReply, payload: unknown): unknown {
  const tag = reply.getHeader('etag');
  if (request.tagEnding && typeof tag === 'string')
    reply.header('etag', `${tag.slice(0, -1)}${request.tagEnding}`);
  return payload;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** of the encoded ETags that came with the request */
    tagEnding: string | null;
  }
}
