// Two compilers: bodies are taken as they are, unknown fields refused; query, params and headers arrive as text and
// are coerced. Nothing is ever removed from a body. Answers are written by JSON.stringify: fast-json-stringify is slower on
// the columns of scores, takes seconds of start-up for all routes, and drops undeclared fields in silence; that answers fit
// the document is the tests' to prove (test/support/contract.ts).
import AjvCompiler from '@fastify/ajv-compiler';
import type { FastifySchemaCompiler, FastifyServerOptions } from 'fastify';

const common = {
  removeAdditional: false,
  useDefaults: true,
  allErrors: true,
  strict: false,
  discriminator: true, // a union by kind tells the errors of one branch
} as const;
const factory = AjvCompiler();

interface HeaderSchema {
  properties: Record<string, unknown>;
  required?: string[];
}

/** The document writes the names of headers as people do; Node hands them over in lower case. */
function inLowerCase({ properties, required = [], ...schema }: HeaderSchema) {
  return {
    ...schema,
    properties: Object.fromEntries(
      Object.entries(properties).map(([name, value]) => [name.toLowerCase(), value]),
    ),
    required: required.map((name) => name.toLowerCase()),
  };
}

export const validation: FastifyServerOptions['schemaController'] = {
  compilersFactory: {
    buildValidator: (externalSchemas: unknown) => {
      const strict = factory(
        externalSchemas as never,
        { customOptions: { ...common, coerceTypes: false } } as never,
      );
      const coercing = factory(
        externalSchemas as never,
        { customOptions: { ...common, coerceTypes: true } } as never,
      );
      const compile: FastifySchemaCompiler<unknown> = (route) => {
        const schema =
          route.httpPart === 'headers' ? inLowerCase(route.schema as HeaderSchema) : route.schema;
        return (route.httpPart === 'body' ? strict : coercing)({ ...route, schema } as never) as never;
      };
      return compile as never;
    },
    buildSerializer: () => () => JSON.stringify,
  },
};
