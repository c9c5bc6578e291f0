// /v1/keys: API keys of one project, with scopes, expiry and rotation.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import { type Scope, type Services, scopes } from '../../services/context.ts';
import * as keys from '../../services/keys.ts';
import {
  IfMatch,
  ifNoneMatchHeaders,
  notModified,
  preconditionOf,
  sendTagged,
  Tagged,
  tagged,
} from '../etags.ts';
import { answerOnce } from '../plugins/idempotency.ts';
import { Id, Nullable, Page, PageQuery, problemResponses, Timestamp } from '../schemas.ts';

const exampleId = 'key_019356f0a1b27c3d8e4f5a6b7c8d9e0f';
const successorExample = 'key_019356f0e7f87a9b8c2d3e4f5a6b7c8d';
export const keyExample = 'fg_4Jm0vSxXkqkqV7yq8y0n3w1ZrG5m2bX9e8cT6uHs0aE';
const Name = Type.String({ minLength: 1, maxLength: 200, examples: ['annotation pipeline'] });
const grantable = (Object.keys(scopes) as Scope[]).filter((scope) => scope !== 'operator');
const Scopes = Type.Array(Type.Enum(grantable), {
  minItems: 1,
  uniqueItems: true,
  description: 'What the key may do; `admin` includes the others',
  examples: [['read', 'edits:write']],
});
const fields = {
  id: Id(exampleId),
  name: Name,
  scopes: Scopes,
  state: Type.Enum(['active', 'expired', 'revoked'], {
    description: '`active` until its `expires_at` passes or it is revoked; neither is undone',
    examples: ['active'],
  }),
  created_at: Timestamp,
  expires_at: Nullable(Timestamp, {
    description: 'From then on the key is refused; null: never',
    examples: ['2099-11-23T09:00:00.000Z'],
  }),
  revoked_at: Nullable(Timestamp, { examples: [null] }),
  last_used_at: Nullable(Timestamp, {
    description: 'The last request with it, to the minute; null: never',
    examples: ['2026-11-24T07:31:12.000Z'],
  }),
  rotated_from: Nullable(Id(exampleId), { description: 'The key that it succeeds', examples: [null] }),
  rotated_to: Nullable(Id(successorExample), { description: 'Its successor', examples: [null] }),
};
const secret = { key: Type.String({ description: 'Shown once, here', examples: [keyExample] }) };

const Key = Type.Object(fields, { $id: 'Key' });
const NewKey = Type.Object({ ...fields, ...secret }, { $id: 'NewKey' });
const RotatedKey = Type.Object(
  {
    ...fields,
    id: Id(successorExample),
    rotated_from: Id(exampleId, 'The key that it succeeds'),
    ...secret,
    previous_expires_at: Type.String({
      format: 'date-time',
      description: 'When the old key ends',
      examples: ['2026-11-24T09:00:00.000Z'],
    }),
  },
  { $id: 'RotatedKey' },
);
const CurrentKey = Type.Object(
  {
    id: Nullable(Id(exampleId), { description: 'Null for the bootstrap key', examples: [exampleId] }),
    name: Name,
    scopes: Type.Array(Type.Enum(Object.keys(scopes) as Scope[]), { examples: [['read', 'edits:write']] }),
    expires_at: fields.expires_at,
    project: Type.Ref('Project'),
  },
  { $id: 'CurrentKey' },
);

/** For requests; the database decides whether it is still to come. */
export const ExpiresAt = Type.Optional(
  Nullable(Type.String({ format: 'date-time' }), {
    description: 'RFC 3339, in the future (422 otherwise); absent or null: never',
    examples: ['2099-11-23T09:00:00Z'],
  }),
);

const params = Type.Object({ key_id: Id(exampleId) });

export const keyRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  for (const schema of [Key, NewKey, RotatedKey, CurrentKey]) app.addSchema(schema);

  app.post(
    '/v1/keys',
    {
      config: { scope: 'admin', idempotency: 'secret' },
      schema: {
        operationId: 'createKey',
        tags: ['keys'],
        summary: 'Create an API key',
        description:
          'It may do what its scopes say and nothing that its maker may not. It may outlive its maker, so give no `admin` key to whom a time limit is meant for.',
        body: Type.Object(
          { name: Name, scopes: Scopes, expires_at: ExpiresAt },
          { additionalProperties: false },
        ),
        response: { 201: Type.Ref('NewKey'), ...problemResponses(413, 415, 422) },
      },
    },
    async (request, reply) =>
      reply.code(201).send(await keys.createKey(services, request.caller, request.body)),
  );

  app.get(
    '/v1/keys',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'listKeys',
        tags: ['keys'],
        summary: 'List API keys, expired and revoked ones too',
        description:
          'Those of the project, oldest first, with scopes, state, expiry and last use; never the key itself.',
        querystring: Type.Object(PageQuery, { additionalProperties: false }),
        response: { 200: Page(Type.Ref('Key')), ...problemResponses() },
      },
    },
    (request) => keys.listKeys(services, request.caller, request.query),
  );

  app.get(
    '/v1/keys/current',
    {
      config: { scope: 'any' },
      schema: {
        operationId: 'getCurrentKey',
        tags: ['keys'],
        summary: 'What the key of this request is: its project, scopes and expiry',
        description: 'For a client that wants to know what it may do before it does it.',
        response: { 200: Type.Ref('CurrentKey'), ...problemResponses() },
      },
    },
    (request) => keys.getCurrentKey(services, request.caller),
  );

  app.get(
    '/v1/keys/:key_id',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'getKey',
        tags: ['keys'],
        summary: 'Get an API key',
        description:
          'What it may do, until when, when it was last used and which keys it was rotated from and to; never the key itself.',
        params,
        headers: ifNoneMatchHeaders,
        response: { 200: Tagged(Type.Ref('Key')), ...notModified, ...problemResponses(404) },
      },
    },
    async (request, reply) =>
      sendTagged(request, reply, await keys.getKey(services, request.caller, request.params.key_id)),
  );

  app.post(
    '/v1/keys/:key_id/rotate',
    {
      config: { scope: 'admin', idempotency: 'secret' },
      schema: {
        operationId: 'rotateKey',
        tags: ['keys'],
        summary: 'Replace an API key by a successor; both work for a while',
        description:
          'The successor has the same name and scopes, and the same lifetime if the old key has one. The old key works on for `overlap_seconds`, but never longer than it would have; 0 ends it now. 409: the key is expired or revoked, or has a successor already, which can be rotated itself: that is what to do when this answer, the only place of the new key, is lost.',
        params,
        body: Type.Object(
          {
            overlap_seconds: Type.Optional(
              Type.Integer({
                minimum: 0,
                maximum: keys.maxOverlapSeconds,
                default: keys.defaultOverlapSeconds,
                examples: [3600],
              }),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 201: Type.Ref('RotatedKey'), ...problemResponses(404, 409, 413, 415) },
      },
    },
    async (request, reply) =>
      reply
        .code(201)
        .send(
          await keys.rotateKey(services, request.caller, request.params.key_id, request.body.overlap_seconds),
        ),
  );

  app.delete(
    '/v1/keys/:key_id',
    {
      config: { scope: 'admin', idempotency: 'accepted' },
      schema: {
        operationId: 'revokeKey',
        tags: ['keys'],
        summary: 'Revoke an API key, at once and for good',
        description:
          'Also the last `admin` key of a project: whoever holds the bootstrap key then makes another one with `POST /v1/projects/{project_id}/keys`. The bootstrap key itself is no stored key and cannot be revoked here.',
        params,
        headers: Type.Object(IfMatch),
        response: { 200: Tagged(Type.Ref('Key')), ...problemResponses(404, 412) },
      },
    },
    (request, reply) =>
      answerOnce(services, request, reply, async (services) =>
        tagged(
          200,
          await keys.revokeKey(services, request.caller, request.params.key_id, preconditionOf(request)),
        ),
      ),
  );
};
