// Checks answers against the OpenAPI document that the server itself serves: status declared, body as its schema says,
// no field that the document does not name.
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';

interface Response {
  $ref?: string;
  content?: Record<string, { schema?: object }>;
}

interface Operation {
  responses: Record<string, Response>;
}

interface Document {
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, object>; responses: Record<string, Response> };
}

export interface Contract {
  /** What is wrong with an answer, or null. Paths that the document lacks are not its matter. */
  violation(method: string, path: string, status: number, mediaType: string, body: unknown): string | null;
}

const contracts = new Map<string, Contract>();

/** One for all servers with the same document: compiling its schemas takes longer than most tests. */
export function readContract(document: Document): Contract {
  const text = JSON.stringify(document);
  let contract = contracts.get(text);
  if (!contract) {
    contract = makeContract(document);
    contracts.set(text, contract);
  }
  return contract;
}

function makeContract(document: Document): Contract {
  const ajv = new Ajv2020({ strict: false, meta: false, validateSchema: false });
  // biome-ignore lint/suspicious/noExplicitAny: the package's types and its CommonJS export disagree
  (formats as any)(ajv);
  const components = JSON.parse(JSON.stringify(document.components));
  Object.values<Record<string, unknown>>(components.schemas).forEach(closeObjects);
  ajv.addSchema({ $id: 'document', components }); // what many answers share is compiled once
  const operations = Object.entries(document.paths).map(([template, methods]) => ({
    // a template matches segment by segment, the wildcard of a file path to the end
    pattern: new RegExp(`^${template.replaceAll(/\{[^}]+\}/g, '[^/]+')}$`),
    literal: !template.includes('{'),
    methods,
  }));
  const validators = new Map<object, ValidateFunction>();
  const validatorOf = (schema: object): ValidateFunction => {
    let validate = validators.get(schema);
    if (!validate) {
      const closed = JSON.parse(JSON.stringify(schema).replaceAll('"$ref":"#/', '"$ref":"document#/'));
      closeObjects(closed);
      validate = ajv.compile(closed);
      validators.set(schema, validate);
    }
    return validate;
  };
  return {
    violation(method, path, status, mediaType, body) {
      const name = `${method} ${path} answered ${status}`;
      const [bare] = path.split('?');
      const matching = operations.filter(({ pattern }) => pattern.test(bare!));
      const operation = (matching.find(({ literal }) => literal) ?? matching[0])?.methods[
        method.toLowerCase()
      ];
      if (!operation) return null;
      const declared = operation.responses[status];
      const response = declared?.$ref
        ? document.components.responses[declared.$ref.split('/').at(-1)!]
        : declared;
      if (!response) return `${name}, which the document does not list`;
      if (!response.content)
        return body === undefined ? null : `${name} with a body that the document does not have`;
      const schema = (
        response.content[mediaType] ?? (status < 300 ? Object.values(response.content)[0] : undefined)
      )?.schema;
      if (!schema) return `${name} as ${mediaType}, which the document does not list`;
      if (body === undefined) return null; // not JSON
      const validate = validatorOf(schema);
      if (validate(body)) return null;
      const [error] = validate.errors!;
      return `${name}: ${error!.instancePath || 'the body'} ${error!.message} ${JSON.stringify(error!.params)}`;
    },
  };
}

/** Objects of answers have no fields but the declared ones. Changes `schema` and what is below it. */
export function closeObjects(schema: Record<string, unknown>): void {
  if (
    schema.type === 'object' &&
    schema.properties &&
    schema.additionalProperties === undefined &&
    !schema.patternProperties
  ) {
    schema.additionalProperties = false;
  }
  for (const value of Object.values(schema)) {
    if (typeof value === 'object' && value !== null) closeObjects(value as Record<string, unknown>);
  }
}
