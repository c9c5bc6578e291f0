import { readFile } from 'node:fs/promises';
import { Ajv2020 } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import t from 'tap';
import { problems } from '../../src/errors.ts';
import { tags } from '../../src/http/plugins/documentation.ts';
import { openApiDocument } from '../../src/openapi.ts';
import { closeObjects } from '../support/contract.ts';

interface MediaType {
  schema: object;
  example?: unknown;
}

interface Operation {
  operationId: string;
  tags?: string[];
  summary?: string;
  description?: string;
  parameters?: { name: string; required?: boolean; description?: string; example?: unknown }[];
  requestBody?: { content: Record<string, MediaType> };
  responses: Record<string, { $ref?: string; description?: string; content?: Record<string, MediaType> }>;
}

const text = await openApiDocument();
const document = JSON.parse(text);
const operations = Object.entries<Record<string, Operation>>(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ name: `${method} ${path}`, path, operation })),
);

t.test('openapi/openapi.json is what the routes say', async (t) => {
  const committed = await readFile('openapi/openapi.json', 'utf8');
  t.ok(committed === text, 'run `npm run openapi` and commit the result');
});

// made from the config of every route, so they say nothing of one
const generated =
  /Needs the scope `[a-z:]+`\.|Needs a valid key, whatever its scopes\.|Refuses an `Idempotency-Key`: .*/g;

t.test('every operation has an id, a tag, a summary and a description; of /v1 its errors too', async (t) => {
  const ids = new Set<string>();
  const known = tags.map(({ name }) => name);
  for (const { name, path, operation } of operations) {
    t.ok(operation.operationId && !ids.has(operation.operationId), `${name} has an operationId of its own`);
    ids.add(operation.operationId);
    t.ok(operation.tags?.length === 1 && known.includes(operation.tags[0]!), `${name} has a known tag`);
    t.ok(operation.summary, `${name} says what it does`);
    const own = (operation.description ?? '').replaceAll(generated, '').trim();
    t.match(own, /^[A-Z\d`].+[.?]$/s, `${name} has a description of its own`);
    if (path.startsWith('/v1/'))
      t.match(Object.keys(operation.responses), /400|401/, `${name} lists its errors`);
    for (const parameter of operation.parameters ?? [])
      t.ok(parameter.description, `${name}: ${parameter.name} is described`);
  }
});

t.test('Swagger UI sends what it fills in: only where something must be sent', async (t) => {
  for (const { name, operation } of operations) {
    for (const { name: parameter, required, example } of operation.parameters ?? [])
      if (!required) t.equal(example, undefined, `${name}: ${parameter} is left empty`);
  }
});

t.test('every body of a request and of an answer has a name and an example that fits it', async (t) => {
  const ajv = new Ajv2020({ strict: false });
  // biome-ignore lint/suspicious/noExplicitAny: the package's types and its CommonJS export disagree
  (formats as any)(ajv);
  const answers = structuredClone(document.components);
  closeObjects(answers.schemas);
  const check = (name: string, type: string, { schema, example }: MediaType, components: object): void => {
    if (type === 'application/json') t.ok('$ref' in schema, `${name} is a named component`);
    if (!t.ok(example !== undefined, `${name} has an example`)) return;
    const validate = ajv.compile({ ...schema, components });
    t.ok(validate(example), `the example of ${name} fits`, {
      example,
      errors: validate.errors,
    });
  };
  for (const { name, operation } of operations) {
    for (const [type, media] of Object.entries(operation.requestBody?.content ?? {}))
      check(`the request of ${name}`, type, media, document.components);
    for (const [status, response] of Object.entries(operation.responses)) {
      if (response.$ref !== undefined) continue; // a problem, below
      for (const [type, media] of Object.entries(response.content ?? {}))
        check(`answer ${status} of ${name}`, type, media, answers);
    }
  }
});

t.test(
  'every problem code is an example of the answer of its status, and every such answer is a problem',
  async (t) => {
    const { responses } = document.components;
    const documented = new Set<string>();
    for (const [name, response] of Object.entries<{
      content: Record<string, { examples: Record<string, { value: Record<string, unknown> }> }>;
    }>(responses)) {
      const { examples } = response.content['application/problem+json']!;
      for (const [code, { value }] of Object.entries(examples)) {
        documented.add(code);
        t.match(value, { code, ...problems[code as keyof typeof problems] }, `${name} ${code}`);
      }
    }
    for (const { name, operation } of operations) {
      for (const [status, response] of Object.entries(operation.responses)) {
        if (Number(status) >= 400 && status !== '503')
          t.equal(response.$ref, `#/components/responses/Problem${status}`, `${name} ${status}`);
      }
    }
    for (const code of Object.keys(problems)) t.ok(documented.has(code), `${code} is documented`);
  },
);
