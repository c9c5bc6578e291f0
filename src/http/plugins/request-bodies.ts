// Request bodies before they are parsed: decoded (Content-Encoding gzip, deflate or br), held to a size after decoding,
// so that a small body cannot become a large one, and to a pace, so that none is waited for without end. What is left
// of a body after its answer is read away for a moment, so that the client gets to read the answer.
import type { IncomingMessage } from 'node:http';
import { Transform } from 'node:stream';
import { createBrotliDecompress, createGunzip, createInflate } from 'node:zlib';
import type { FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../errors.ts';
import type { ConnectionLimits } from '../limits.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Ends the reading of the body, now or when it begins. */
    failBody(problem: Problem): void;
    bodyFailure: Problem | null;
    /** what the parser reads */
    bodyStream: Transform | null;
  }
  interface FastifyContextConfig {
    /** the body is kept byte by byte, so an encoded one is refused */
    keepsBodyAsSent?: boolean;
  }
}

const decoders = {
  gzip: createGunzip,
  'x-gzip': createGunzip,
  deflate: createInflate,
  br: createBrotliDecompress,
};
type Encoding = keyof typeof decoders;

// Text of many equal rows shrinks to a 200th; what shrinks further than that was made to.
const mostExpansion = 200;
const freeExpansionBytes = 64 * 1024 * 1024;

/** @returns null for a body that is sent as it is. @throws Problem unsupported_media_type */
function encodingOf(request: FastifyRequest, reply: FastifyReply): Encoding | null {
  const named = request.headers['content-encoding']?.trim().toLowerCase() ?? 'identity';
  if (named === 'identity') return null;
  const known = request.routeOptions.config.keepsBodyAsSent ? [] : ['gzip', 'deflate', 'br'];
  if (Object.hasOwn(decoders, named) && known.length > 0) return named as Encoding;
  reply.header('accept-encoding', known.join(', ') || 'identity');
  throw new Problem(
    'unsupported_media_type',
    known.length > 0
      ? `The body may be encoded with one of ${known.join(', ')}, not with ${named}.`
      : 'The body is kept byte by byte: send it without a Content-Encoding.',
  );
}

const tooLarge = (limit: number): Problem =>
  new Problem('content_too_large', `The route reads bodies of at most ${limit} bytes, decoded ones too.`);

const cutOff = (): Problem =>
  new Problem('invalid_request', 'The connection ended before the body was complete.');

/** The body as the parser reads it. @param limit in bytes, decoded; null for a stream, which its reader bounds */
function openBody(raw: IncomingMessage, encoding: Encoding | null, limit: number | null): Transform {
  let encoded = 0;
  let decoded = 0;
  const body = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      decoded += chunk.length;
      if (limit !== null && decoded > limit) done(tooLarge(limit));
      else if (encoding !== null && decoded > freeExpansionBytes + mostExpansion * encoded)
        done(
          new Problem(
            'content_too_large',
            `The body grew to more than ${mostExpansion} times its size when it was decoded. Send it in several requests.`,
          ),
        );
      else done(null, chunk);
    },
  });
  // Fastify compares it with Content-Length
  Object.defineProperty(body, 'receivedEncodedLength', { get: () => encoded });
  body.on('error', () => {}); // the parser may have gone by then
  raw.on('data', (chunk: Buffer) => {
    encoded += chunk.length;
  });
  const gone = (): void => {
    if (!raw.complete) body.destroy(cutOff());
  };
  raw.once('aborted', gone).once('error', gone);
  if (encoding === null) raw.pipe(body);
  else {
    const decoder = decoders[encoding]();
    decoder.once('error', ({ message }) => {
      body.destroy(new Problem('invalid_request', `The body is not valid ${encoding}: ${message}.`));
    });
    body.once('close', () => {
      raw.unpipe(decoder);
      decoder.destroy();
    });
    raw.pipe(decoder).pipe(body);
  }
  return body;
}

const checksInGap = 5;

/** Fails a body that stops coming, or, when it is read as a whole, comes too slowly. */
function watchPace(request: FastifyRequest, limits: ConnectionLimits, isStreamed: boolean): NodeJS.Timeout {
  const { raw } = request;
  const startedAt = performance.now();
  const bytesBefore = raw.socket.bytesRead;
  let bytesSeen = bytesBefore;
  let checksInSilence = 0; // not a time: what came while this process was busy is seen after the next check only
  return setInterval(() => {
    if (raw.complete) return;
    const now = performance.now();
    const { bytesRead } = raw.socket;
    // while data wait for us, it is not the client who is slow
    checksInSilence = bytesRead > bytesSeen || raw.readableLength > 0 ? 0 : checksInSilence + 1;
    bytesSeen = bytesRead;
    const fairMs = limits.bodyGapMs + ((bytesRead - bytesBefore) / limits.bodyBytesPerSecond) * 1000;
    if (checksInSilence >= checksInGap)
      request.failBody(new Problem('request_timeout', 'The body stopped coming before it was complete.'));
    else if (!isStreamed && now - startedAt > fairMs)
      request.failBody(
        new Problem(
          'request_timeout',
          `The body came at less than ${limits.bodyBytesPerSecond} bytes a second.`,
        ),
      );
  }, limits.bodyGapMs / checksInGap).unref();
}

/** Takes what is left of a body from the connection, for a bounded time. */
function linger(raw: IncomingMessage, { lingerMs }: ConnectionLimits): void {
  if (raw.complete || raw.socket.destroyed) return;
  raw.unpipe();
  raw.resume();
  const end = setTimeout(() => raw.socket.destroy(), lingerMs).unref();
  raw.once('end', () => clearTimeout(end));
  raw.once('close', () => clearTimeout(end));
}

/** Of a route that reads its body as it comes (streamedBody). */
const isStream = (schema: unknown): boolean =>
  typeof schema === 'object' && schema !== null && 'content' in schema;

export const requestBodies = fp<{ limits: ConnectionLimits }>(async (app, { limits }) => {
  app.decorateRequest('bodyFailure', null);
  app.decorateRequest('bodyStream', null);
  app.decorateRequest('failBody', function (this: FastifyRequest, problem: Problem) {
    this.bodyFailure ??= problem;
    this.bodyStream?.destroy(problem);
  });
  app.addHook('onRequest', (request, reply, done) => {
    reply.raw.once('finish', () => linger(request.raw, limits));
    done();
  });
  app.addHook('preParsing', async (request, reply, payload) => {
    const { 'content-length': length, 'transfer-encoding': coding } = request.headers;
    const encoding = encodingOf(request, reply);
    if (coding === undefined && (length === undefined || length === '0')) return payload;
    if (request.raw.destroyed && !request.raw.complete) throw cutOff();
    if (request.bodyFailure) throw request.bodyFailure;
    const isStreamed = isStream(request.routeOptions.schema?.body);
    const { bodyLimit } = request.routeOptions;
    if (!isStreamed && Number(length) > bodyLimit) throw tooLarge(bodyLimit);
    const body = openBody(request.raw, encoding, isStreamed ? null : bodyLimit);
    request.bodyStream = body;
    const pace = watchPace(request, limits, isStreamed);
    body.once('close', () => clearInterval(pace));
    // nobody waits for the end of an import that a client has sent and left
    reply.raw.once('close', () => body.destroy(reply.raw.writableFinished ? undefined : cutOff()));
    return body;
  });
});
