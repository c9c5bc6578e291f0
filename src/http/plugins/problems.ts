// Every error leaves as application/problem+json (RFC 9457): those of services, of validation, of Fastify itself,
// unknown paths (404), unknown methods (405 with Allow) and requests that are not even HTTP.

import type { Socket } from 'node:net';
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest, HTTPMethods } from 'fastify';
import fp from 'fastify-plugin';
import { Problem, type ProblemCode, type ProblemDetail, pointerToken, problems } from '../../errors.ts';

const contentType = 'application/problem+json';
const maxListedErrors = 50;

export interface ProblemBody {
  type: string;
  title: string;
  status: number;
  code: ProblemCode;
  detail: string;
  instance?: string;
  errors?: ProblemDetail[];
}

function body(code: ProblemCode, detail: string, errors?: ProblemDetail[], instance?: string): ProblemBody {
  const { status, title } = problems[code];
  return {
    type: `urn:finegrain:problem:${code}`,
    title,
    status,
    code,
    detail,
    ...(instance === undefined ? {} : { instance }),
    ...(errors === undefined ? {} : { errors: errors.slice(0, maxListedErrors) }),
  };
}

function send(request: FastifyRequest, reply: FastifyReply, problem: Problem): FastifyReply {
  const content = body(problem.code, problem.message, problem.errors, request.url);
  if (problem.retryAfterSeconds !== undefined)
    reply.header('retry-after', Math.ceil(problem.retryAfterSeconds));
  // a serializer of the route belongs to its success
  return reply
    .code(content.status)
    .type(contentType)
    .serializer((value: string) => value)
    .send(JSON.stringify(content));
}

// Fastify's own errors, by their code; what is not listed and below 500 is an invalid request
const frameworkErrors: Record<string, { code: ProblemCode; detail?: string }> = {
  FST_ERR_CTP_INVALID_JSON_BODY: { code: 'malformed_json' },
  FST_ERR_CTP_EMPTY_JSON_BODY: {
    code: 'malformed_json',
    detail: 'The body is empty; this route needs a JSON object.',
  },
  FST_ERR_CTP_BODY_TOO_LARGE: { code: 'content_too_large' },
  FST_ERR_CTP_INVALID_MEDIA_TYPE: { code: 'unsupported_media_type' },
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: { code: 'invalid_request' },
};

function toProblem(error: FastifyError): Problem | null {
  if (error instanceof Problem) return error;
  if (error.validation) return validationProblem(error);
  const known = frameworkErrors[error.code];
  if (known) return new Problem(known.code, known.detail ?? error.message);
  if (error instanceof SyntaxError && error.statusCode === 400)
    return new Problem('malformed_json', error.message);
  if (error.statusCode !== undefined && error.statusCode >= 400 && error.statusCode < 500)
    return new Problem('invalid_request', error.message);
  return null;
}

function validationProblem(error: FastifyError): Problem {
  const part =
    error.validationContext === 'querystring' ? 'query' : (error.validationContext as ProblemDetail['in']);
  const seen = new Set<string>();
  const errors: ProblemDetail[] = [];
  for (const { instancePath, keyword, params, message } of error.validation!) {
    if (keyword === 'if' || keyword === 'anyOf' || keyword === 'oneOf' || keyword === 'discriminator') {
      if (error.validation!.length > 1) continue; // the branches say it better
    }
    const property = params.missingProperty ?? params.additionalProperty ?? params.unevaluatedProperty;
    const pointer =
      property === undefined ? instancePath : `${instancePath}/${pointerToken(String(property))}`;
    const detail = explain(keyword, params, message);
    if (seen.has(`${pointer} ${detail}`)) continue;
    seen.add(`${pointer} ${detail}`);
    errors.push({ pointer, detail, ...(part ? { in: part } : {}) });
  }
  const first = errors[0]!;
  const where = first.pointer === '' ? `the ${part ?? 'request'}` : first.pointer;
  const more = errors.length > 1 ? ` (and ${errors.length - 1} more)` : '';
  return new Problem('invalid_request', `${where}: ${first.detail}${more}.`, { errors });
}

function explain(keyword: string, params: Record<string, unknown>, message?: string): string {
  if (keyword === 'required') return 'is missing';
  if (keyword === 'additionalProperties' || keyword === 'unevaluatedProperties')
    return 'is not a field of this request';
  if (keyword === 'enum')
    return `must be one of ${(params.allowedValues as unknown[]).map((value) => JSON.stringify(value)).join(', ')}`;
  return message ?? keyword;
}

const methods: HTTPMethods[] = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];

function unknownRoute(app: FastifyInstance, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const path = request.url.split('?', 1)[0]!;
  const allowed = methods.filter(
    (method) => app.findRoute({ method, url: path }) !== null || matches(app, method, path),
  );
  if (allowed.length === 0)
    return send(
      request,
      reply,
      new Problem('not_found', `There is no route ${path}. The routes are listed at /docs.`),
    );
  reply.header('allow', allowed.join(', '));
  return send(
    request,
    reply,
    new Problem('method_not_allowed', `${path} has ${allowed.join(', ')}, not ${request.method}.`),
  );
}

// findRoute compares patterns; this asks the router about a concrete path
function matches(app: FastifyInstance, method: HTTPMethods, path: string): boolean {
  const router = (app as unknown as { router?: { find(method: string, path: string): unknown } }).router;
  return router?.find(method, path) != null;
}

export const problemRendering = fp(async (app) => {
  app.setErrorHandler((error: FastifyError, request, reply) => {
    if (error.code === 'FST_ERR_ROUTE_MISSING_CONTENT_TYPE') return unknownRoute(app, request, reply);
    const problem = toProblem(error);
    if (problem) return send(request, reply, problem);
    request.log.error({ err: error }, 'request failed');
    const passing = passingTrouble(error);
    if (passing) return send(request, reply, passing);
    return send(
      request,
      reply,
      new Problem('internal_error', `The service failed; its log names this request as ${request.id}.`),
    );
  });
  app.setNotFoundHandler((request, reply) => unknownRoute(app, request, reply));
});

// what an operator mends, or what mends itself: a full disk, and a database that cannot be reached (PostgreSQL's classes
// 08, connection, 57P0x, shutdown, and 25P03, a transaction that idled)
function passingTrouble(error: Error & { code?: string }): Problem | null {
  if (/^(ENOSPC|EDQUOT|53100)$/.test(error.code ?? '')) {
    return new Problem('unavailable', 'The disk of the service is full. Try again when there is room.', {
      retryAfterSeconds: 60,
    });
  }
  if (
    /^(ECONNREFUSED|ECONNRESET|08\w{3}|57P0\w|25P03)$/.test(error.code ?? '') ||
    /Connection terminated|timeout exceeded when trying to connect|connection error and is not queryable/.test(
      error.message,
    )
  ) {
    return new Problem('unavailable', 'The database cannot be reached. Try again in a moment.', {
      retryAfterSeconds: 1,
    });
  }
  return null;
}

const socketErrors: Record<string, ProblemCode> = {
  HPE_HEADER_OVERFLOW: 'header_too_large',
  ERR_HTTP_REQUEST_TIMEOUT: 'request_timeout',
};

/** For what never became a request: malformed HTTP, headers too large, a request that never ended. */
export function renderClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  const content = body(
    socketErrors[error.code ?? ''] ?? 'invalid_request',
    'The request is not valid HTTP/1.1.',
  );
  const text = JSON.stringify(content);
  socket.end(
    `HTTP/1.1 ${content.status} Bad Request\r\ncontent-type: ${contentType}\r\ncontent-length: ${Buffer.byteLength(text)}\r\nconnection: close\r\n\r\n${text}`,
  );
}
