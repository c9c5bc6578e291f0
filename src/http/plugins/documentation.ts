// The OpenAPI 3.1 document at /openapi.json and Swagger UI at /docs, both made from the routes' schemas.
import swagger, { type SwaggerTransformObject } from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import type { RouteOptions } from 'fastify';
import fp from 'fastify-plugin';
import { scopes } from '../../services/context.ts';
import { nameInlineObjects, type Operation, type Parameter, type Response } from '../document/components.ts';
import { exampleOf, type JsonSchema } from '../document/examples.ts';
import { problemComponents, shareProblemResponses } from '../document/problems.ts';
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
  { name: 'runs', description: 'Work for a runner: `sft`, `reward`, `dpo`, `ppo`, `generate`' },
  { name: 'models', description: 'Registered models and the aliases that name them' },
  { name: 'scoring', description: 'Rewards token by token' },
  {
    name: 'evaluation',
    description: 'Candidates against a baseline under a judge, and win rates with their uncertainty',
  },
  { name: 'artifacts', description: 'Content-addressed files: demonstrations in, generated responses out' },
  { name: 'webhooks', description: 'Be told what happens, at a URL of yours' },
  { name: 'secrets', description: 'Values that the service uses for the project and never shows' },
  { name: 'keys', description: 'Projects, their API keys and the log of administrative acts' },
  { name: 'service', description: 'Health and documentation' },
];

const introduction = `Fine-grained supervision for language models (arXiv 2406.02756).

The loop: **pairs** of responses → minimal **edits** of the less-preferred one → a **snapshot** → a \`reward\` **run** that trains a
token-level reward model → **scores** token by token → a \`ppo\` run that gives each token its own reward → a **win rate** that says whether it helped.

Authorize with the key that the service printed at its start. Errors are \`application/problem+json\` (RFC 9457) with a stable \`code\`.

A key may send so many requests a minute; the headers \`RateLimit-Policy\` and \`RateLimit\` say how many and how many are left. More than that, or too
many wrong keys from one address, are answered 429 with \`Retry-After\`.

Scopes of a key: ${Object.entries(scopes)
  .map(([scope, meaning]) => `\`${scope}\` (${meaning})`)
  .join('; ')}.`;

// responses whose schema has no description of its own
const outcomes: Record<string, string> = { 200: 'Done', 201: 'Created', 202: 'Accepted', 503: 'Not ready' };

interface Document {
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, JsonSchema>; responses?: Record<string, Response> };
}

/** What the routes' schemas leave to be said: descriptions of answers, names and examples. */
function complete(source: Parameters<SwaggerTransformObject>[0]) {
  if (!('openapiObject' in source)) throw new Error('the document is OpenAPI, not Swagger');
  const { paths, components } = source.openapiObject as unknown as Document;
  components.responses = problemComponents();
  for (const operation of Object.values(paths).flatMap((methods) => Object.values(methods))) {
    for (const [status, response] of Object.entries(operation.responses)) {
      if (response.description === 'Default Response') response.description = outcomes[status] ?? 'Done';
    }
    shareProblemResponses(operation);
    nameInlineObjects(operation, components.schemas);
    for (const parameter of operation.parameters ?? []) keepOutOfForms(parameter);
    for (const media of Object.values(operation.requestBody?.content ?? {}))
      media.example ??= exampleOf(media.schema, 'request', components.schemas);
    for (const { content = {} } of Object.values(operation.responses)) {
      for (const media of Object.values(content))
        media.example ??= exampleOf(media.schema, 'answer', components.schemas);
    }
  }
  return source.openapiObject;
}

/** Swagger UI fills an `example` in and sends it: one Idempotency-Key for all requests, ETags and ids that nothing has. */
function keepOutOfForms(parameter: Parameter): void {
  if (parameter.required || parameter.example === undefined) return;
  parameter.schema.examples = [parameter.example];
  delete parameter.example;
}

/** Says what a key needs, from the one declaration that is also checked: `config.scope` of the route. */
function describeSecurity(route: RouteOptions): void {
  const scope = route.config?.scope;
  if (scope === undefined || scope === 'public') {
    route.schema = { ...route.schema, security: [] };
    return;
  }
  const need = scope === 'any' ? 'Needs a valid key, whatever its scopes.' : `Needs the scope \`${scope}\`.`;
  route.schema = {
    ...route.schema,
    security: [{ key: scope === 'any' ? [] : [scope] }],
    description: [need, route.schema?.description].join(' ').trim(),
  };
}

/** Runs in the browser, hence on its own: Swagger UI offers NDJSON, as everything with "json" in its type, as a JSON string. */
function unquoteLines(request: { headers?: Record<string, string>; body?: unknown }): object {
  const { body, headers } = request;
  const type = headers?.['Content-Type'] ?? '';
  if (/ndjson|jsonl/.test(type) && typeof body === 'string' && body.startsWith('"'))
    request.body = JSON.parse(body);
  return request;
}

export const documentation = fp(async (app) => {
  app.addSchema(Problem);
  app.addHook('onRoute', describeSecurity);
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
    transformObject: complete,
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
      requestInterceptor: unquoteLines,
    },
    theme: { title: 'finegrain API' },
  });
  app.get('/openapi.json', { schema: { hide: true }, config: { scope: 'public' } }, async () =>
    app.swagger(),
  );
});
