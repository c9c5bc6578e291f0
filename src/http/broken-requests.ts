// What never becomes a request, answered on the bare socket: bytes that are not HTTP, heads that are too large or never
// end, methods that the parser does not know, CONNECT. The answer is a problem like any other, and then the connection
// ends, as nobody knows where a next request would begin.
import { randomUUID } from 'node:crypto';
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyInstance, FastifyServerOptions } from 'fastify';
import fp from 'fastify-plugin';
import { Problem, problems } from '../errors.ts';
import type { ConnectionLimits } from './limits.ts';
import { allMethods } from './plugins/route-methods.ts';
import { problemBody, problemType } from './problem-details.ts';
import { pathOfTarget } from './request-target.ts';

interface ParserError extends NodeJS.ErrnoException {
  /** what the parser found */
  reason?: string;
  bytesParsed?: number;
  /** what came last, which need not be where the request begins */
  rawPacket?: Buffer;
}

interface Refusal {
  problem: Problem;
  method?: string;
  path?: string;
  allow?: string[];
}

const refused = new WeakSet<Socket>();

/** Fastify's `clientErrorHandler`, which is called on the instance. */
export function brokenRequestHandler(limits: ConnectionLimits): FastifyServerOptions['clientErrorHandler'] {
  return function (this: FastifyInstance, error, socket) {
    answerBroken(this, limits, error as unknown as ParserError, socket);
  };
}

function answerBroken(
  app: FastifyInstance,
  limits: ConnectionLimits,
  error: ParserError,
  socket: Socket,
): void {
  if (error.code === 'ECONNRESET' || socket.destroyed) {
    socket.destroy();
    return;
  }
  if (refused.has(socket)) return; // the rest of what was refused still arrives
  refused.add(socket);
  const { isBusy, current, waiting } = app.exchanges.connection(socket);
  const refusal = explain(app, error);
  if (!isBusy) refuse(app, limits, socket, refusal);
  else if (!current || waiting.length > 0 || current.request.raw.complete) {
    waiting.push(() => refuse(app, limits, socket, refusal)); // after the answers to what came before
  } else {
    const { request, reply } = current; // it is its body that is broken
    reply.raw.shouldKeepAlive = false;
    if (reply.raw.headersSent) socket.destroy();
    else request.failBody(refusal.problem);
  }
}

/** CONNECT never becomes a request either: Node hands over its socket. */
export const answerConnect = fp<{ limits: ConnectionLimits }>(async (app, { limits }) => {
  app.server.on('connect', (request, socket) => {
    socket.on('error', () => {});
    refuse(app, limits, socket as Socket, unknownMethod(app, 'CONNECT', request.url!));
    socket.resume();
  });
});

function explain(app: FastifyInstance, error: ParserError): Refusal {
  const { code, reason, bytesParsed = 0, rawPacket = Buffer.alloc(0) } = error;
  const invalid = (detail: string): Refusal => ({ problem: new Problem('invalid_request', detail) });
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return { problem: new Problem('request_timeout', 'The head of the request did not arrive in time.') };
  }
  if (code === 'HPE_HEADER_OVERFLOW') {
    const inTarget = /^[A-Z]+ \S*$/.test(rawPacket.toString('latin1', 0, bytesParsed));
    return { problem: inTarget ? targetTooLong : headTooLarge };
  }
  if (code === 'HPE_INVALID_METHOD') {
    const start = rawPacket.lastIndexOf('\n', bytesParsed) + 1;
    const line = rawPacket.toString('latin1', start, start + 8192);
    const [, method, target] = /^([!#$%&'*+.^_`|~\w-]+) (\S+) HTTP\/1\.[01]\r\n/.exec(line) ?? [];
    if (method !== undefined && target !== undefined) return unknownMethod(app, method, target);
    if (rawPacket[start] === 0x16) return invalid('This port speaks HTTP, not HTTPS.');
  }
  if (code === 'HPE_PAUSED_H2_UPGRADE') return invalid('The service speaks HTTP/1.1, not HTTP/2.');
  return invalid(`The request is not valid HTTP/1.1${reason ? `: ${reason}` : ''}.`);
}

const targetTooLong = new Problem('uri_too_long', 'The request target is too long.');
const headTooLarge = new Problem('header_too_large', 'The request line and headers are too large together.');

function unknownMethod(app: FastifyInstance, method: string, target: string): Refusal {
  const path = pathOfTarget(target)?.split('?', 1)[0];
  const allow = path === undefined ? allMethods : app.methodsOf(path);
  const problem =
    allow.length === 0
      ? new Problem('not_found', `There is no route ${path}. The routes are listed at /docs.`)
      : new Problem('method_not_allowed', `${target} has ${allow.join(', ')}, not ${method}.`);
  return { problem, method, path: path ?? target, ...(allow.length > 0 ? { allow } : {}) };
}

function refuse(
  app: FastifyInstance,
  { lingerMs }: ConnectionLimits,
  socket: Socket,
  { problem, method, path, allow }: Refusal,
): void {
  if (!socket.writable) return;
  const requestId = randomUUID();
  const content = JSON.stringify(problemBody(problem, requestId, path));
  const { status } = problems[problem.code];
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    `date: ${new Date().toUTCString()}`,
    `content-type: ${problemType}`,
    `content-length: ${Buffer.byteLength(content)}`,
    `x-request-id: ${requestId}`,
    ...(allow ? [`allow: ${allow.join(', ')}`] : []),
    'connection: close',
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${content}`);
  // to destroy it at once could take the answer from a client that still sends
  setTimeout(() => socket.destroy(), lingerMs).unref();
  app.exchanges.report({
    requestId,
    trace: null,
    method: method ?? null,
    route: null,
    path: path ?? null,
    status,
    aborted: false,
    problem: problem.code,
    failure: null,
    caller: null,
    seconds: 0,
    bytesIn: socket.bytesRead,
    bytesOut: socket.bytesWritten,
    address: socket.remoteAddress ?? null,
    userAgent: null,
    quiet: false,
  });
}
