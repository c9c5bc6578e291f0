// /v1/runners: which runners there are, and what they can take.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { Services } from '../../services/context.ts';
import { listRunners, runnerStates } from '../../services/runners.ts';
import { Id, Nullable, Page, PageQuery, problemResponses, Timestamp } from '../schemas.ts';

const Runner = Type.Object(
  {
    id: Id('runner_019356f0a1b27c3d8e4f5a6b7c8d9e0f', 'A new one for each start of the process'),
    name: Type.String({ description: 'As the attempts of a run name it', examples: ['gpu-7'] }),
    state: Type.Enum([...runnerStates], {
      description:
        'idle, busy: it lives; silent: it has missed three signs of life, and a run that it held is taken by another; stopped: it said that it ends',
    }),
    hardware: Type.Array(Type.String(), { examples: [['cpu', 'cuda']] }),
    labels: Type.Array(Type.String(), { examples: [['h100']] }),
    devices: Type.Array(Type.Record(Type.String(), Type.Unknown()), {
      description: 'The accelerators that it has found',
      examples: [[{ name: 'NVIDIA H100 80GB HBM3', memory_bytes: 85_017_755_648 }]],
    }),
    version: Type.String({ examples: ['0.1.0'] }),
    started_at: Timestamp,
    seen_at: Timestamp,
    busy_since: Nullable(Timestamp, { description: 'Since when it holds a run, of whichever project' }),
  },
  { $id: 'Runner' },
);

export const runnerRoutes: FastifyPluginAsyncTypebox<{ services: Services }> = async (app, { services }) => {
  app.addSchema(Runner);

  app.get(
    '/v1/runners',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listRunners',
        tags: ['runs'],
        summary: 'List runners, newest first',
        description:
          'Runners serve all projects. One takes a run whose `hardware` it has, and all of whose `labels`; `waiting` of a queued run says when none does. Those that were last seen more than a week ago are forgotten.',
        querystring: Type.Object(
          {
            ...PageQuery,
            live: Type.Optional(
              Type.Boolean({ description: 'Only those that live, or only those that do not' }),
            ),
          },
          { additionalProperties: false },
        ),
        response: { 200: Page(Type.Ref('Runner')), ...problemResponses() },
      },
    },
    (request) => listRunners(services, request.caller, request.query),
  );
};
