// Names every request for logs and people, `X-Request-Id`, and for tracing, `traceparent` in and `traceresponse` out.
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import fp from 'fastify-plugin';
import { continueTrace, formatTrace, type TraceContext } from '../../domain/trace-context.ts';

declare module 'fastify' {
  interface FastifyRequest {
    trace: TraceContext;
  }
}

/** The caller's id where it has 1 to 128 visible ASCII characters, else a new one. */
export function requestId(request: Pick<IncomingMessage, 'headers'>): string {
  const given = request.headers['x-request-id'];
  return typeof given === 'string' && /^[\x21-\x7e]{1,128}$/.test(given) ? given : randomUUID();
}

export const requestIdentity = fp(async (app) => {
  app.decorateRequest('trace');
  app.addHook('onRequest', (request, reply, done) => {
    const { traceparent } = request.headers;
    request.trace = continueTrace(typeof traceparent === 'string' ? traceparent : undefined);
    reply.headers({ 'x-request-id': request.id, traceresponse: formatTrace(request.trace) });
    done();
  });
});
