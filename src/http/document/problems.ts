// The problem answers of the document: one response component for each status, with an example of each code.
import { type ProblemCode, problems } from '../../errors.ts';
import { problemType } from '../problem-details.ts';
import type { Operation, Response } from './components.ts';

// what each code says when it is met; `detail` of a real answer names the case
const details: Record<ProblemCode, string> = {
  invalid_request: '/name: is missing.',
  malformed_json: 'The body is not valid JSON: it ends too early.',
  ill_formed_text: '/name holds a lone surrogate at 3.',
  invalid_cursor: 'Use the next_cursor of an earlier page as it was given, or none to begin at the start.',
  unauthenticated: 'Send the API key as "Authorization: Bearer KEY".',
  missing_scope:
    'This needs the scope "pairs:write"; the key has: read. Ask an admin of the project for a key with it.',
  not_found: 'There is no dataset "ds_019356f0a1b27c3d8e4f5a6b7c8d9e0f" in this project.',
  method_not_allowed: '/v1/datasets has GET, HEAD, POST, OPTIONS, not DELETE.',
  not_acceptable: 'The route sends application/json; the Accept header takes neither it nor */*.',
  request_timeout: 'The body stopped coming before it was complete.',
  conflict: 'There is a pair "conversation-17" with other content.',
  idempotency_key_in_use: 'The first request with this key is still under way. Ask again in a second.',
  precondition_failed: 'The resource has changed. Read it again and repeat the change with its new ETag.',
  content_too_large: 'The route reads bodies of at most 8388608 bytes, decoded ones too.',
  uri_too_long: 'A request target may have 8192 characters at most.',
  unsupported_media_type: 'This route reads application/json.',
  range_not_satisfiable: 'The content has 48213 bytes; the range begins after them.',
  expectation_failed: 'Leave out the header "Expect: the-unexpected".',
  unprocessable: 'The pair of /edits/0 has no preference yet: say which side was edited.',
  edit_refused:
    'The edit exceeds what the dataset allows; nothing was stored. 7 places are changed, more than 5. Change only what is wrong.',
  digest_mismatch: 'The parts together have another digest. Begin a new upload.',
  deadline_exceeded: 'Not everything was scored within 200 ms. Give it more time, or send less at a time.',
  idempotency_key_reused: 'The key belongs to another request. Take a new key for each request.',
  overloaded: 'The scoring queue is full. Ask again in a second.',
  rate_limited: 'A key may send 60000 requests a minute. Try again in 12 s.',
  header_too_large: 'The request line and headers are too large together.',
  internal_error: 'The service failed; its log names this request.',
  unavailable: 'The database cannot be reached. Try again in a moment.',
};

const requestId = '0d1d6d2c-7a57-4c8e-9d0b-7f3f6f3c1f52';

function exampleProblem(code: ProblemCode): object {
  const { status, title } = problems[code];
  return {
    type: `urn:finegrain:problem:${code}`,
    title,
    status,
    code,
    detail: details[code],
    request_id: requestId,
  };
}

const nameOf = (status: number | string): string => `Problem${status}`;

/** A response component for every status of the table, those that no route declares (405, 431) too. */
export function problemComponents(): Record<string, Response> {
  const statuses = [...new Set(Object.values(problems).map(({ status }) => status))].sort((a, b) => a - b);
  return Object.fromEntries(
    statuses.map((status) => {
      const codes = (Object.keys(problems) as ProblemCode[]).filter(
        (code) => problems[code].status === status,
      );
      const examples = Object.fromEntries(codes.map((code) => [code, { value: exampleProblem(code) }]));
      const description = codes.map((code) => problems[code].title).join('; ');
      const schema = { $ref: '#/components/schemas/Problem' };
      return [nameOf(status), { description, content: { [problemType]: { schema, examples } } }];
    }),
  );
}

/** Replaces the problem answers of an operation by references to the components. */
export function shareProblemResponses({ responses }: Operation): void {
  for (const [status, { content }] of Object.entries(responses)) {
    if (content?.[problemType]) responses[status] = { $ref: `#/components/responses/${nameOf(status)}` };
  }
}
