// ETags of resources that can change, and the conditions that name them (RFC 9110, 8.8.3 and 13).
import type { FastifyReply, FastifyRequest } from 'fastify';
import { type TSchema, Type } from 'typebox';
import { entityTag, matchesWeakly, parseEntityTags } from '../domain/entity-tags.ts';
import type { Precondition } from '../services/preconditions.ts';
import type { Answer } from './plugins/idempotency.ts';

const example = '"q1J2rZkX0cT9aPpN3m7uV5hYwLs8eBdG"';
const header = (description: string) => Type.Optional(Type.String({ description, examples: [example] }));

/** Request headers of a route that changes or deletes a resource. */
export const IfMatch = {
  'If-Match': header(
    'An ETag of the resource, several, or `*`: the change is made only while the resource is still in that state, else 412. Without the header it is made whatever the state.',
  ),
};

/** Request headers of a route that may also create the resource. */
export const IfNoneMatch = {
  'If-None-Match': header('`*`: only when there is no such resource yet, else 412'),
};

/** Request headers of a route that answers a resource. */
export const ifNoneMatchHeaders = Type.Object({
  'If-None-Match': header(
    'An ETag of an earlier answer, several, or `*`: 304 without a body while the resource is still in that state',
  ),
});

/** The response of a route that answers a resource with its ETag. */
export const Tagged = <T extends TSchema>(schema: T): T => ({
  ...schema,
  headers: {
    ETag: {
      type: 'string',
      description: 'Strong: of this state of the resource; for `If-Match` and `If-None-Match`',
      examples: [example],
    },
  },
});

export const notModified = { 304: Type.Null({ description: 'As the ETag in `If-None-Match` says' }) };

/** An answer of answerOnce with the ETag of its body. */
export const tagged = (status: number, body: object): Answer => ({
  status,
  headers: { etag: entityTag(body) },
  body,
});

/** Answers a GET: the resource with its ETag, or 304 to a caller who has it already. */
export function sendTagged(request: unknown, reply: unknown, body: object): never {
  const known = (request as FastifyRequest).headers['if-none-match'];
  const etag = entityTag(body);
  const answer = (reply as FastifyReply).header('etag', etag);
  if (known !== undefined && matchesWeakly(parseEntityTags(known), etag)) answer.code(304).send();
  else answer.send(body);
  return reply as never; // as the handler of a route of any type
}

/** What the headers of a request demand of the resource that it changes. */
export function preconditionOf(request: unknown): Precondition {
  const { 'if-match': ifMatch, 'if-none-match': ifNoneMatch } = (request as FastifyRequest).headers;
  return {
    ...(ifMatch === undefined ? {} : { ifMatch: parseEntityTags(ifMatch) }),
    ...(ifNoneMatch === undefined ? {} : { ifNoneMatch: parseEntityTags(ifNoneMatch) }),
  };
}
