// The OpenAPI 3.1 document at /openapi.json and Swagger UI at /docs, both made from the routes' schemas.
import swagger, { type SwaggerTransformObject } from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import fp from 'fastify-plugin';
import { scopes } from '../../services/context.ts';
import { Problem } from '../schemas.ts';

export const tags = [
  { name: 'datasets', description: 'Named collections of preference pairs' },
  { name: 'pairs', description: 'A prompt, two responses `a` and `b`, and which of them is preferred' },
  { name: 'edits', description: 'Minimally edited versions of the less-preferred response' },
  {
    name: 'editing work',
    description: 'Edits that are wanted of pairs, given to people and programs as tasks under leases',
  },
  {
    name: 'snapshots',
    description: 'Immutable, digest-named selections of pairs and edits: what training reads',
  },
  { name: 'runs', description: 'Work for a runner: `sft`, `reward`, `ppo`, `generate`' },
  { name: 'models', description: 'Registered models and the aliases that name them' },
  { name: 'scoring', description: 'Rewards token by token' },
  { name: 'evaluation', description: 'Win rates with their uncertainty' },
  { name: 'artifacts', description: 'Content-addressed files: demonstrations in, generated responses out' },
  { name: 'webhooks', description: 'Be told what happens, at a URL of yours' },
  { name: 'secrets', description: 'Values that the service uses for the project and never shows' },
  { name: 'keys', description: 'Projects and their API keys' },
  { name: 'service', description: 'Health and documentation' },
];

const introduction = `Fine-grained supervision for language models (arXiv 2406.02756).

The loop: **pairs** of responses → minimal **edits** of the less-preferred one → a **snapshot** → a \`reward\` **run** that trains a
token-level reward model → **scores** token by token → a \`ppo\` run that gives each token its own reward → a **win rate** that says whether it helped.

Authorize with the key that the service printed at its start. Errors are \`application/problem+json\` (RFC 9457) with a stable \`code\`.

Scopes of a key: ${Object.entries(scopes)
  .map(([scope, meaning]) => `\`${scope}\` (${meaning})`)
  .join('; ')}.`;

// responses whose schema has no description of its own
const outcomes: Record<string, string> = { 200: 'Done', 201: 'Created', 202: 'Accepted', 503: 'Not ready' };

type DocumentObject = Parameters<SwaggerTransformObject>[0];

function describeResponses(source: DocumentObject) {
  if (!('openapiObject' in source)) throw new Error('the document is OpenAPI, not Swagger');
  const { openapiObject } = source;
  for (const methods of Object.values(openapiObject.paths ?? {})) {
    for (const operation of Object.values(methods ?? {})) {
      const { responses } = operation as { responses?: Record<string, { description: string }> };
      for (const [status, response] of Object.entries(responses ?? {})) {
        if (response.description === 'Default Response') response.description = outcomes[status] ?? 'Done';
      }
    }
  }
  return openapiObject;
}

export const documentation = fp(async (app) => {
  app.addSchema(Problem);
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'finegrain',
        version: '0.1.0',
        description: introduction,
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      },
      servers: [{ url: '/' }],
      tags,
      components: {
        securitySchemes: {
          key: { type: 'http', scheme: 'bearer', description: 'An API key of one project' },
        },
      },
    },
    transformObject: describeResponses,
    refResolver: {
      buildLocalReference: (json, _baseUri, _fragment, index) =>
        (json.$id as string | undefined) ?? `schema-${index}`,
    },
  });
  await app.register(swaggerUi, {
    routePrefix: '/docs',
    uiConfig: {
      persistAuthorization: true,
      tryItOutEnabled: true,
      displayRequestDuration: true,
      docExpansion: 'list',
      defaultModelsExpandDepth: -1,
    },
    theme: { title: 'finegrain API' },
  });
  app.get('/openapi.json', { schema: { hide: true }, config: { scope: 'public' } }, async () =>
    app.swagger(),
  );
});
