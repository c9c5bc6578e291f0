// /v1/audit-events: the log of administrative acts.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import * as audit from '../../services/audit.ts';
import type { Services } from '../../services/context.ts';
import { Id, Page, PageQuery, problemResponses, Timestamp } from '../schemas.ts';

const keyExample = 'key_019356f0a1b27c3d8e4f5a6b7c8d9e0f';
const eventExample = 'audit_019356f0b2c37d4e8f5a6b7c8d9e0f1a';

const Action = Type.Enum(Object.keys(audit.acts) as audit.Action[], {
  description: `What was done, and what \`subject\` names: ${Object.entries(audit.acts)
    .map(([action, subject]) => `\`${action}\` (${subject})`)
    .join('; ')}`,
  examples: ['key.revoked'],
});
const Subject = Type.String({ maxLength: 200, description: 'An id or a name', examples: [keyExample] });

const AuditEvent = Type.Object(
  {
    id: Id(eventExample),
    occurred_at: Timestamp,
    actor: Type.String({
      description: 'The key that did it, or `bootstrap` for the bootstrap key',
      examples: ['bootstrap'],
    }),
    request_id: Type.String({
      description: 'Of the request, as in the log of the service',
      examples: ['019356f0-b2c3-7d4e-8f5a-6b7c8d9e0f1a'],
    }),
    address: Type.String({ description: 'Where the request came from', examples: ['192.0.2.7'] }),
    action: Action,
    subject: Subject,
    detail: Type.Record(Type.String(), Type.Unknown(), {
      description: 'More of the act, by its kind; never a secret',
      examples: [{ name: 'annotation pipeline' }],
    }),
  },
  {
    $id: 'AuditEvent',
  },
);

export const auditEventRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (
  app,
  { services },
) => {
  app.addSchema(AuditEvent);

  app.get(
    '/v1/audit-events',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'listAuditEvents',
        tags: ['keys'],
        summary: 'List administrative acts, newest first',
        description:
          'Written in the transaction of the act and never changed or removed through the API. What runs do, an alias that they move for instance, is in their own events.',
        querystring: Type.Object(
          { ...PageQuery, action: Type.Optional(Action), subject: Type.Optional(Subject) },
          { additionalProperties: false },
        ),
        response: { 200: Page(Type.Ref('AuditEvent')), ...problemResponses() },
      },
    },
    (request) => audit.listAuditEvents(services, request.caller, request.query),
  );
};
