// /v1/projects: tenants, made by the operator who holds the bootstrap key.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import * as keys from '../../services/keys.ts';
import { Id, Page, PageQuery, problemResponses, secured, Timestamp } from '../schemas.ts';
import { keyExample } from './keys.ts';

const Name = Type.String({ minLength: 1, maxLength: 200, examples: ['assistant-team'] });
const fields = { id: Id('proj_019356f0a1b27c3d8e4f5a6b7c8d9e0f'), name: Name, created_at: Timestamp };

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
      config: { scope: 'operator' },
      schema: {
        operationId: 'createProject',
        tags: ['keys'],
        summary: 'Create a project and its first key',
        ...secured('operator'),
        body: Type.Object({ name: Name }, { additionalProperties: false }),
        response: { 201: Type.Ref('NewProject'), ...problemResponses(413, 415) },
      },
    },
    async (request, reply) => reply.code(201).send(await keys.createProject(services, request.body)),
  );

  app.get(
    '/v1/projects',
    {
      config: { scope: 'operator' },
      schema: {
        operationId: 'listProjects',
        tags: ['keys'],
        summary: 'List projects',
        ...secured('operator'),
        querystring: Type.Object(PageQuery, { additionalProperties: false }),
        response: { 200: Page(Type.Ref('Project')), ...problemResponses() },
      },
    },
    (request) => keys.listProjects(services, request.query),
  );
};
