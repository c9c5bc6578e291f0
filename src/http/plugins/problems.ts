// Every error leaves as application/problem+json: those of services, of validation and of Fastify itself.
import type { FastifyError, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem, type ProblemCode, type ProblemDetail, pointerToken } from '../../errors.ts';
import { isDatabaseUnreachable } from '../../services/database-errors.ts';
import { isStoreUnavailable } from '../../services/named-artifacts.ts';
import { sendProblem } from '../problem-details.ts';

// Fastify's own errors, by their code; what is not listed and below 500 is an invalid request
const frameworkErrors: Record<string, ProblemCode> = {
  FST_ERR_CTP_BODY_TOO_LARGE: 'content_too_large',
};

function toProblem(error: FastifyError, request: FastifyRequest): Problem | null {
  if (error instanceof Problem) return error;
  if (error.validation) return validationProblem(error);
  if (error.code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE') return wrongMediaType(request);
  const known = frameworkErrors[error.code];
  if (known) return new Problem(known, error.message);
  if (error.statusCode !== undefined && error.statusCode >= 400 && error.statusCode < 500)
    return new Problem('invalid_request', error.message);
  return passingTrouble(error);
}

/** What a route reads is what its schema says; JSON, unless it says otherwise. */
function wrongMediaType({ headers, routeOptions }: FastifyRequest): Problem {
  const { content } = (routeOptions.schema?.body ?? {}) as { content?: object };
  const types = content ? Object.keys(content) : ['application/json'];
  const sent = headers['content-type'] ?? 'a body without a Content-Type';
  return new Problem('unsupported_media_type', `The route reads ${types.join(' or ')}, not ${sent}.`);
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

/** What an operator mends, or what mends itself. */
function passingTrouble(error: Error & { code?: string }): Problem | null {
  const { code = '' } = isStoreUnavailable(error) ? (error.cause as { code?: string }) : error;
  if (/^(ENOSPC|EDQUOT|53100)$/.test(code)) {
    return new Problem('unavailable', 'The disk of the service is full. Try again when there is room.', {
      retryAfterSeconds: 60,
    });
  }
  if (isStoreUnavailable(error)) {
    return new Problem('unavailable', 'The artifact store cannot be reached. Try again in a moment.', {
      retryAfterSeconds: 5,
    });
  }
  if (isDatabaseUnreachable(error)) {
    return new Problem('unavailable', 'The database cannot be reached. Try again in a moment.', {
      retryAfterSeconds: 1,
    });
  }
  return null;
}

/** What a client is told of anything that was thrown; what failed within the service goes to the log. */
export function problemOf(error: FastifyError, request: FastifyRequest): Problem {
  const problem = toProblem(error, request);
  if (problem === null || (problem.code === 'unavailable' && problem !== error)) request.failure = error;
  return (
    problem ??
    new Problem('internal_error', `The service failed; its log names this request as ${request.id}.`)
  );
}

export const problemRendering = fp(async (app) => {
  app.decorateRequest('problemCode', null);
  app.decorateRequest('failure', null);
  app.setErrorHandler((error: FastifyError, request, reply) =>
    sendProblem(request, reply, problemOf(error, request)),
  );
});

declare module 'fastify' {
  interface FastifyRequest {
    /** of the problem that was answered */
    problemCode: ProblemCode | null;
    /** what failed within the service: for the log only */
    failure: Error | null;
  }
}
