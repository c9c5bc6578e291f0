// The one table of what can go wrong, and how it is answered: RFC 9457 problem details with a stable `code`.
// test/http/openapi.test.ts walks it against the OpenAPI document.

export const problems = {
  invalid_request: { status: 400, title: 'The request does not fit its schema' },
  malformed_json: { status: 400, title: 'The body is not valid JSON' },
  ill_formed_text: { status: 422, title: 'A text contains NUL or a lone surrogate' },
  invalid_cursor: { status: 422, title: 'The cursor was not made by this list' },
  unauthenticated: { status: 401, title: 'No valid API key was given' },
  missing_scope: { status: 403, title: 'The API key lacks the scope of this route' },
  not_found: { status: 404, title: 'There is no such resource' },
  method_not_allowed: { status: 405, title: 'The resource does not have this method' },
  not_acceptable: { status: 406, title: 'The route cannot answer in a type that the Accept header takes' },
  request_timeout: { status: 408, title: 'The request took too long to arrive' },
  conflict: { status: 409, title: 'The request contradicts what is stored' },
  idempotency_key_in_use: { status: 409, title: 'A request with this Idempotency-Key is still under way' },
  precondition_failed: { status: 412, title: 'The resource has changed since its ETag was read' },
  content_too_large: { status: 413, title: 'The body is larger than the route allows' },
  uri_too_long: { status: 414, title: 'The request target is too long' },
  unsupported_media_type: { status: 415, title: 'The route does not read this content type or encoding' },
  range_not_satisfiable: { status: 416, title: 'The content has no such range' },
  expectation_failed: { status: 417, title: 'The service knows no other expectation than 100-continue' },
  unprocessable: { status: 422, title: 'The request is well formed but cannot be done' },
  edit_refused: { status: 422, title: 'The edit exceeds what the policy of its dataset allows' },
  digest_mismatch: { status: 422, title: 'The content is not what was announced' },
  deadline_exceeded: { status: 422, title: 'The work cannot be done within the deadline of the request' },
  idempotency_key_reused: { status: 422, title: 'The Idempotency-Key belongs to another request' },
  overloaded: { status: 429, title: 'More work is queued than the service accepts' },
  rate_limited: { status: 429, title: 'More requests came than the limit allows' },
  header_too_large: { status: 431, title: 'The request headers are too large' },
  internal_error: { status: 500, title: 'The service failed' },
  unavailable: { status: 503, title: 'The service cannot do this right now' },
} as const satisfies Record<string, { status: number; title: string }>;

export type ProblemCode = keyof typeof problems;

/** One thing that is wrong with a request. `pointer` is a JSON pointer (RFC 6901) into the part named by `in`. */
export interface ProblemDetail {
  pointer: string;
  detail: string;
  in?: 'body' | 'query' | 'params' | 'headers';
}

/** Thrown anywhere below a handler; the HTTP layer renders it. `detail` says what happened and what to do. */
export class Problem extends Error {
  readonly code: ProblemCode;
  readonly errors: ProblemDetail[] | undefined;
  readonly retryAfterSeconds: number | undefined;

  constructor(
    code: ProblemCode,
    detail: string,
    extra: { errors?: ProblemDetail[]; retryAfterSeconds?: number } = {},
  ) {
    super(detail);
    this.name = 'Problem';
    this.code = code;
    this.errors = extra.errors;
    this.retryAfterSeconds = extra.retryAfterSeconds;
  }
}

/** 404 for an id that does not exist, is of another kind, or belongs to another project: the answers do not differ. */
export function notFound(what: string, id: string, pointer?: string): Problem {
  return new Problem(
    'not_found',
    `There is no ${what} ${JSON.stringify(id)} in this project.`,
    pointer === undefined ? {} : { errors: [{ pointer, detail: `no such ${what}` }] },
  );
}

/** 422 for one thing that is wrong. @param detail begins with a verb; a full stop is put behind it unless it has one */
export function unprocessable(
  pointer: string,
  detail: string,
  place: NonNullable<ProblemDetail['in']> = 'body',
): Problem {
  const sentence = `${pointer} ${detail}${detail.endsWith('.') ? '' : '.'}`;
  return new Problem('unprocessable', sentence, { errors: [{ pointer, detail, in: place }] });
}

/** RFC 6901 escaping of one reference token. */
export function pointerToken(token: string | number): string {
  return String(token).replaceAll('~', '~0').replaceAll('/', '~1');
}
