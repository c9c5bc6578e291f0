// Problem details (RFC 9457) as they are sent.
import type { FastifyReply, FastifyRequest } from 'fastify';
import { type Problem, type ProblemCode, type ProblemDetail, problems } from '../errors.ts';

export const problemType = 'application/problem+json';
const maxListedErrors = 50;

export interface ProblemBody {
  type: string;
  title: string;
  status: number;
  code: ProblemCode;
  detail: string;
  /** the request target; absent when there was none */
  instance?: string;
  request_id: string;
  errors?: ProblemDetail[];
}

export function problemBody(
  { code, message, errors }: Problem,
  requestId: string,
  instance?: string,
): ProblemBody {
  const { status, title } = problems[code];
  return {
    type: `urn:finegrain:problem:${code}`,
    title,
    status,
    code,
    detail: message,
    ...(instance === undefined ? {} : { instance }),
    request_id: requestId,
    ...(errors === undefined ? {} : { errors: errors.slice(0, maxListedErrors) }),
  };
}

// what was meant for the answer that did not come about
const ofAnotherAnswer = ['content-encoding', 'content-disposition', 'cache-control', 'etag'];

export function sendProblem(request: FastifyRequest, reply: FastifyReply, problem: Problem): FastifyReply {
  request.problemCode = problem.code;
  const content = problemBody(problem, request.id, request.originalUrl);
  if (problem.retryAfterSeconds !== undefined)
    reply.header('retry-after', Math.ceil(problem.retryAfterSeconds));
  for (const name of ofAnotherAnswer) if (reply.hasHeader(name)) reply.removeHeader(name);
  // Fastify closes after a body that it could not read; the rest of one is read away instead (plugins/request-bodies.ts),
  // but what never comes cannot be
  if (problem.code === 'request_timeout') reply.raw.shouldKeepAlive = false;
  if (reply.raw.shouldKeepAlive && reply.hasHeader('connection')) reply.removeHeader('connection');
  // a serializer of the route belongs to its success
  return reply
    .code(content.status)
    .type(problemType)
    .serializer((value: string) => value)
    .send(JSON.stringify(content));
}
