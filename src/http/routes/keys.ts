// /v1/keys: API keys of one project, with scopes.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import { type Scope, type Services, scopes } from '../../services/context.ts';
import * as keys from '../../services/keys.ts';
import { Id, Nullable, Page, PageQuery, problemResponses, secured, Timestamp } from '../schemas.ts';

const exampleId = 'key_019356f0a1b27c3d8e4f5a6b7c8d9e0f';
export const keyExample = 'fg_4Jm0vSxXkqkqV7yq8y0n3w1ZrG5m2bX9e8cT6uHs0aE';
const Name = Type.String({ minLength: 1, maxLength: 200, examples: ['annotation pipeline'] });
const grantable = (Object.keys(scopes) as Scope[]).filter((scope) => scope !== 'operator');
const Scopes = Type.Array(Type.Enum(grantable), {
  minItems: 1,
  uniqueItems: true,
  examples: [['read', 'edits:write']],
});
const fields = {
  id: Id(exampleId),
  name: Name,
  scopes: Scopes,
  created_at: Timestamp,
  revoked_at: Nullable(Timestamp),
};

const Key = Type.Object(fields, { $id: 'Key' });
const NewKey = Type.Object(
  { ...fields, key: Type.String({ description: 'Shown once, here', examples: [keyExample] }) },
  { $id: 'NewKey' },
);

export const keyRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  app.addSchema(Key);
  app.addSchema(NewKey);

  app.post(
    '/v1/keys',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'createKey',
        tags: ['keys'],
        summary: 'Create an API key',
        ...secured('admin'),
        body: Type.Object({ name: Name, scopes: Scopes }, { additionalProperties: false }),
        response: { 201: Type.Ref('NewKey'), ...problemResponses(413, 415) },
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
        summary: 'List API keys, revoked ones too',
        ...secured('admin'),
        querystring: Type.Object(PageQuery, { additionalProperties: false }),
        response: { 200: Page(Type.Ref('Key')), ...problemResponses() },
      },
    },
    (request) => keys.listKeys(services, request.caller, request.query),
  );

  app.delete(
    '/v1/keys/:key_id',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'revokeKey',
        tags: ['keys'],
        summary: 'Revoke an API key, at once and for good',
        ...secured('admin'),
        params: Type.Object({ key_id: Id(exampleId) }),
        response: { 200: Type.Ref('Key'), ...problemResponses(404) },
      },
    },
    (request) => keys.revokeKey(services, request.caller, request.params.key_id),
  );
};
