// Schemas that several routes share, and the helper that gives every route its error responses.
import { type TSchema, Type } from 'typebox';
import { type ProblemCode, problems } from '../errors.ts';
import { problemType } from './problem-details.ts';

/** Optional in requests, null allowed. */
export const Nullable = <T extends TSchema>(schema: T, options: Record<string, unknown> = {}) =>
  Type.Union([schema, Type.Null()], options);

export const Id = (example: string, description = 'Id') => Type.String({ description, examples: [example] });

/** The description of an enum of codes, from a table of what they mean. */
export const describeCodes = (table: Record<string, string>): string =>
  Object.entries(table)
    .map(([code, meaning]) => `\`${code}\`: ${meaning}.`)
    .join(' ');

export const Timestamp = Type.String({
  format: 'date-time',
  description: 'RFC 3339, UTC',
  examples: ['2026-11-23T09:00:00.000Z'],
});

export const Digest = Type.String({
  pattern: '^sha256:[0-9a-f]{64}$',
  description: 'SHA-256 of the content',
  examples: [`sha256:${'3f'.repeat(32)}`],
});

/** A tuple; OpenAPI 3.1 and the validator's draft 7 spell tuples differently, so its length is what is stated. */
export const Span = Type.Array(Type.Integer({ minimum: 0 }), {
  minItems: 2,
  maxItems: 2,
  description: 'Half-open: start, end',
  examples: [[4, 7]],
});

export const Metadata = Type.Record(Type.String(), Type.Unknown(), {
  description: 'Any JSON object of yours; comes out equal',
  examples: [{ source: 'chat-2026' }],
});

export const Problem = Type.Object(
  {
    type: Type.String({ format: 'uri' }),
    title: Type.String(),
    status: Type.Integer(),
    code: Type.Enum(Object.keys(problems) as ProblemCode[], { description: 'Stable; decide on this' }),
    detail: Type.String({ description: 'What happened and what to do' }),
    instance: Type.Optional(Type.String()),
    request_id: Type.String({
      description: 'As in the header X-Request-Id: how the log of the service names the request',
    }),
    errors: Type.Optional(
      Type.Array(
        Type.Object({
          pointer: Type.String({ description: 'JSON pointer (RFC 6901)' }),
          detail: Type.String(),
          in: Type.Optional(Type.Enum(['body', 'query', 'params', 'headers'])),
        }),
      ),
    ),
  },
  {
    $id: 'Problem',
    description: 'Problem details (RFC 9457)',
    examples: [
      {
        type: 'urn:finegrain:problem:invalid_request',
        title: problems.invalid_request.title,
        status: 400,
        code: 'invalid_request',
        detail: '/name: is missing.',
        instance: '/v1/datasets',
        request_id: '0d1d6d2c-7a57-4c8e-9d0b-7f3f6f3c1f52',
        errors: [{ pointer: '/name', detail: 'is missing', in: 'body' }],
      },
    ],
  },
);

export const Page = <T extends TSchema>(item: T) =>
  Type.Object({
    items: Type.Array(item),
    next_cursor: Nullable(Type.String(), {
      examples: [null],
      description: 'Give it as `cursor` for the next page; null on the last',
    }),
  });

export const PageQuery = {
  cursor: Type.Optional(Type.String({ description: '`next_cursor` of the page before' })),
  limit: Type.Optional(
    Type.Integer({ minimum: 1, maximum: 500, default: 50, description: 'Items of a page' }),
  ),
};

type ProblemStatus = (typeof problems)[ProblemCode]['status'];

/** The error responses of a route: those every route can give, and the ones named. */
export function problemResponses(...statuses: ProblemStatus[]) {
  const ofBodies: ProblemStatus[] = statuses.includes(413) ? [408] : [];
  const all = [...new Set<ProblemStatus>([400, 401, 403, 406, ...ofBodies, 422, ...statuses, 429, 500, 503])];
  const content = { [problemType]: { schema: Type.Ref('Problem') } };
  return Object.fromEntries(all.map((status) => [status, { content }]));
}
