// What HTTP/1.1 (RFC 9112, 9110) asks of a request and Node's parser lets through: one Host, a transfer coding that is
// known, a version and an expectation that are known, a target that can be read; and the limits of its head.
import type { IncomingMessage } from 'node:http';
import fp from 'fastify-plugin';
import { Problem } from '../../errors.ts';
import type { ConnectionLimits } from '../limits.ts';
import { pathOfTarget } from '../request-target.ts';

const unreadable = new WeakSet<IncomingMessage>();

/** Fastify's `rewriteUrl`: a target that cannot be routed goes through the hooks all the same, which refuse it. */
export function routableUrl(request: IncomingMessage): string {
  const path = pathOfTarget(request.url!);
  if (path !== null) return path;
  if (request.url !== '*' || request.method !== 'OPTIONS') unreadable.add(request);
  return '/';
}

/** What is wrong with the head of a request, or null. */
function findFault(request: IncomingMessage, limits: ConnectionLimits): Problem | null {
  const { httpVersion, headers, rawHeaders } = request;
  const wrong = (detail: string): Problem => new Problem('invalid_request', detail);
  if (httpVersion !== '1.1' && httpVersion !== '1.0')
    return wrong(`The service speaks HTTP/1.1 and HTTP/1.0, not HTTP/${httpVersion}.`);
  if (rawHeaders.length / 2 > limits.headers)
    return new Problem('header_too_large', `A request may have ${limits.headers} headers at most.`);
  const hosts = rawHeaders.filter((name, index) => index % 2 === 0 && name.toLowerCase() === 'host').length;
  if (hosts > 1 || (hosts === 0 && httpVersion === '1.1'))
    return wrong(`A request has one Host header, not ${hosts}.`);
  if (headers.host !== undefined && !/^[^\s/\\?#@]*$/.test(headers.host))
    return wrong('The Host header is not a host with an optional port.');
  const coding = headers['transfer-encoding'];
  if (coding !== undefined && (coding.toLowerCase() !== 'chunked' || httpVersion === '1.0'))
    return wrong('The only transfer coding that the service reads is "chunked", in HTTP/1.1.');
  if (unreadable.has(request))
    return wrong('The request target is not a path, or its percent-encoding is not UTF-8.');
  return null;
}

export const messageChecks = fp<{ limits: ConnectionLimits }>(async (app, { limits }) => {
  app.addHook('onRequest', (request, reply, done) => {
    const fault = findFault(request.raw, limits);
    if (fault) {
      reply.raw.shouldKeepAlive = false; // where one message is not sound, the next may begin anywhere
      return done(fault);
    }
    if (request.originalUrl.length > limits.targetLength) {
      return done(
        new Problem('uri_too_long', `A request target may have ${limits.targetLength} characters at most.`),
      );
    }
    const { expect } = request.headers;
    if (expect !== undefined && expect.toLowerCase() !== '100-continue')
      return done(new Problem('expectation_failed', `Leave out the header "Expect: ${expect}".`));
    done();
  });
  // Node answers an unknown expectation by itself, without a body, unless somebody listens
  app.server.on('checkExpectation', (request, response) => app.server.emit('request', request, response));
});
