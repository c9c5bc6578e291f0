// Idempotency-Key (draft-ietf-httpapi-idempotency-key-header). A route that writes says in its config whether it takes
// the header; one that takes it answers through answerOnce. The document and the refusals are made from that word.
import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';
import type { FastifyReply, FastifyRequest, RouteOptions } from 'fastify';
import fp from 'fastify-plugin';
import { type TSchema, Type } from 'typebox';
import { Problem } from '../../errors.ts';
import type { Services } from '../../services/context.ts';
import { type KeyedRequest, keptHours, once, waitSeconds } from '../../services/idempotency.ts';
import { problemResponses } from '../schemas.ts';

/** Why a route does not take the header. */
const refusals = {
  stream: 'what it reads is a stream, which is not kept to be compared; sending it again adds nothing twice',
  nothing_stored: 'it stores nothing, so that it can be sent again without harm',
  repeatable: 'sending it again does nothing twice',
  secret: 'it carries a secret, of which no copy is kept',
} as const;

declare module 'fastify' {
  interface FastifyContextConfig {
    /** `accepted`: the handler answers through answerOnce. Anything else: why the header is refused. */
    idempotency?: 'accepted' | keyof typeof refusals;
  }
  interface FastifyRequest {
    /** null without an Idempotency-Key */
    keyed: KeyedRequest | null;
  }
}

/** What a handler answers; without a body for 204. */
export interface Answer {
  status: number;
  headers?: Record<string, string>;
  body?: unknown;
}

/**
 * Answers with what `work` makes of the request: once per Idempotency-Key, when there is one. `work` gets the services to
 * use; under a key their database joins the transaction that stores the answer.
 */
export async function answerOnce(
  services: Services,
  request: unknown, // of any route
  reply: unknown,
  work: (services: Services) => Promise<Answer>,
): Promise<never> {
  const { keyed, caller } = request as FastifyRequest;
  const written = async (using: Services) => {
    const { status, headers = {}, body } = await work(using);
    return { status, headers, body: body === undefined ? null : JSON.stringify(body) };
  };
  const { answer, replayed } =
    keyed === null
      ? { answer: await written(services), replayed: false }
      : await once(services, caller, keyed, written);
  const { status, headers, body } = answer;
  const answering = (reply as FastifyReply).code(status).headers(headers);
  if (replayed) answering.header('idempotency-replayed', 'true');
  if (body === null) answering.send();
  else answering.type('application/json; charset=utf-8').send(body);
  return reply as never; // as the handler of a route of any type
}

const visibleAscii = '^[!-~]{1,255}$';

const IdempotencyKey = Type.String({
  pattern: visibleAscii,
  description: `1 to 255 visible ASCII characters of your choice, such as a UUID, new for each piece of work; quotes, as in the IETF draft, are part of it. The same request sent again under its key has no second effect: for ${keptHours} hours it gets the stored answer, with \`Idempotency-Replayed: true\`. While the first is under way it waits for up to ${waitSeconds} s, then 409 \`idempotency_key_in_use\`. Another method, path, query or body under the key is 422 \`idempotency_key_reused\`. Errors are not stored. Keys are the project’s.`,
  examples: ['5f1d8d2e-6a0b-4c55-9d57-0e6c2f0f3a11'],
});

const Replayed = {
  type: 'string',
  enum: ['true'],
  description: 'There when this is the stored answer of an earlier request under the same Idempotency-Key',
};

/** Adds the header, its errors, and the mark of a replay to the schema of a route that takes it. */
function describeAccepted(schema: Record<string, unknown>): void {
  const { properties } = (schema.headers ?? {}) as { properties?: Record<string, TSchema> };
  schema.headers = Type.Object({ ...properties, 'Idempotency-Key': Type.Optional(IdempotencyKey) });
  const response = Object.assign(problemResponses(409, 422) as Record<string, object>, schema.response);
  for (const [status, answer] of Object.entries(response)) {
    if (Number(status) >= 300) continue;
    const headers = 'headers' in answer ? (answer.headers as object) : {};
    response[status] = { ...answer, headers: { ...headers, 'Idempotency-Replayed': Replayed } };
  }
  schema.response = response;
}

const writing = new Set(['POST', 'PUT', 'PATCH', 'DELETE']);

function describe(route: RouteOptions): void {
  const writes = [route.method].flat().some((method) => writing.has(method));
  if (!writes || !route.url.startsWith('/v1/')) return;
  const word = route.config?.idempotency;
  if (word === undefined)
    throw new Error(`${route.method} ${route.url} does not say whether it takes an Idempotency-Key`);
  const schema = route.schema as Record<string, unknown>;
  if (word === 'accepted') describeAccepted(schema);
  else schema.description = `${schema.description} Refuses an \`Idempotency-Key\`: ${refusals[word]}.`;
}

/** @throws Problem invalid_request for a key that is none, or that the route does not take */
function checkKey(request: FastifyRequest): void {
  const key = request.headers['idempotency-key'];
  const word = request.routeOptions.config.idempotency;
  if (key === undefined || word === undefined) return;
  const detail =
    word !== 'accepted'
      ? `is refused by this route: ${refusals[word]}. Send the request without it`
      : new RegExp(visibleAscii).test(String(key))
        ? null
        : 'must be 1 to 255 visible ASCII characters, sent once';
  if (detail !== null)
    throw new Problem('invalid_request', `The header Idempotency-Key ${detail}.`, {
      errors: [{ pointer: '/idempotency-key', detail, in: 'headers' }],
    });
}

export const idempotency = fp(async (app) => {
  app.decorateRequest('keyed', null);
  app.addHook('onRoute', describe);
  app.addHook('onRequest', async (request) => checkKey(request));
  // the body as it came: validation fills in defaults, which another version may have others of
  app.addHook('preValidation', async (request) => {
    const key = request.headers['idempotency-key'];
    if (key === undefined || request.routeOptions.config.idempotency !== 'accepted') return;
    const canonical = canonicalize([request.method, request.url, request.body ?? null])!;
    request.keyed = { key: String(key), requestSha256: createHash('sha256').update(canonical).digest() };
  });
});
