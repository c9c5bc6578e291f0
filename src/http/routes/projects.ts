// /v1/projects: tenants, made by the operator who holds the bootstrap key.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import * as keys from '../../services/keys.ts';
import { Id, Page, PageQuery, problemResponses, Timestamp } from '../schemas.ts';
import { ExpiresAt, keyExample } from './keys.ts';

const Name = Type.String({ minLength: 1, maxLength: 200, examples: ['assistant-team'] });
const KeyName = Type.String({ minLength: 1, maxLength: 200, examples: ['recovery'] });
const exampleId = 'proj_019356f0a1b27c3d8e4f5a6b7c8d9e0f';
const fields = { id: Id(exampleId), name: Name, created_at: Timestamp };

const Project = Type.Object(fields, { $id: 'Project' });
const NewProject = Type.Object(
  {
    ...fields,
    key: Type.String({
      description: 'The first, admin, key of the project; shown once, here',
      examples: [keyExample],
    }),
  },
  { $id: 'NewProject' },
);

export const projectRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  app.addSchema(Project);
  app.addSchema(NewProject);

  app.post(
    '/v1/projects',
    {
      config: { scope: 'operator', idempotency: 'secret' },
      schema: {
        operationId: 'createProject',
        tags: ['keys'],
        summary: 'Create a project and its first key',
        description:
          'A project holds data, models and keys of its own and sees nothing of others. The key in the answer has the scope `admin`, is shown only here, and makes all further ones.',
        body: Type.Object({ name: Name }, { additionalProperties: false }),
        response: { 201: Type.Ref('NewProject'), ...problemResponses(413, 415) },
      },
    },
    async (request, reply) =>
      reply.code(201).send(await keys.createProject(services, request.caller, request.body)),
  );

  app.get(
    '/v1/projects',
    {
      config: { scope: 'operator' },
      schema: {
        operationId: 'listProjects',
        tags: ['keys'],
        summary: 'List projects',
        description: 'Of the whole service, oldest first, without their keys.',
        querystring: Type.Object(PageQuery, { additionalProperties: false }),
        response: { 200: Page(Type.Ref('Project')), ...problemResponses() },
      },
    },
    (request) => keys.listProjects(services, request.query),
  );

  app.post(
    '/v1/projects/:project_id/keys',
    {
      config: { scope: 'operator', idempotency: 'secret' },
      schema: {
        operationId: 'createProjectKey',
        tags: ['keys'],
        summary: 'Create an admin key of any project',
        description:
          'The way back into a project whose `admin` keys are all expired, revoked or lost. It is recorded in the log of that project.',
        params: Type.Object({ project_id: Id(exampleId) }),
        body: Type.Object({ name: KeyName, expires_at: ExpiresAt }, { additionalProperties: false }),
        response: { 201: Type.Ref('NewKey'), ...problemResponses(404, 413, 415, 422) },
      },
    },
    async (request, reply) =>
      reply
        .code(201)
        .send(await keys.createProjectKey(services, request.caller, request.params.project_id, request.body)),
  );
};
