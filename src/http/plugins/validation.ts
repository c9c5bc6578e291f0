// Two compilers: bodies are taken as they are, unknown fields refused; query, params and headers arrive as text and
// are coerced. Nothing is ever removed from a body. Answers are written by JSON.stringify: fast-json-stringify is slower on
// the columns of scores, takes seconds of start-up for all routes, and drops undeclared fields in silence; that answers fit
// the document is the tests' to prove (test/support/contract.ts).
import AjvCompiler from '@fastify/ajv-compiler';
import type { FastifySchemaCompiler, FastifySchemaValidationError, FastifyServerOptions } from 'fastify';

const common = {
  removeAdditional: false,
  useDefaults: true,
  strict: false,
  discriminator: true, // a union by kind tells the errors of one branch
  // the schemas are the document's, which is linted; compiling the schema of schemas takes two seconds of each start
  meta: false,
  validateSchema: false,
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

interface Validate {
  (data: unknown): boolean;
  errors?: FastifySchemaValidationError[] | null;
}
type Compile = (route: { schema: unknown }) => Validate;

// A list of every error of a body of millions of wrong values would take seconds and gigabytes.
const mostValuesToListErrorsOf = 10_000;

/** Finds the first error; then, unless the value is very large, all of them. Compiles at first use. */
function compileBoth(first: Compile, all: Compile): Compile {
  return (route) => {
    let validate: Validate | undefined;
    let validateAll: Validate | undefined;
    const check: Validate = (data) => {
      validate ??= first(route);
      if (validate(data)) return true;
      check.errors = validate.errors ?? null;
      if (hasMoreValues(data, mostValuesToListErrorsOf)) return false;
      validateAll ??= all(route);
      if (!validateAll(data)) check.errors = validateAll.errors ?? null;
      return false;
    };
    return check;
  };
}

function hasMoreValues(data: unknown, limit: number): boolean {
  let seen = 0;
  const isMore = (value: unknown): boolean => {
    if (++seen > limit) return true;
    if (typeof value !== 'object' || value === null) return false;
    return (Array.isArray(value) ? value : Object.values(value)).some(isMore);
  };
  return isMore(data);
}

export const validation: FastifyServerOptions['schemaController'] = {
  compilersFactory: {
    buildValidator: (externalSchemas: unknown) => {
      // made at first use, as all that a start needs of validation: compilers and routes would take .8 s of it
      const compiler = (coerceTypes: boolean, allErrors: boolean): Compile => {
        let compile: Compile | undefined;
        return (route) => {
          compile ??= factory(
            externalSchemas as never,
            { customOptions: { ...common, coerceTypes, allErrors } } as never,
          ) as never as Compile;
          return compile(route);
        };
      };
      const compilers = (coerceTypes: boolean): Compile =>
        compileBoth(compiler(coerceTypes, false), compiler(coerceTypes, true));
      const strict = compilers(false);
      const coercing = compilers(true);
      const compile: FastifySchemaCompiler<unknown> = (route) => {
        const schema =
          route.httpPart === 'headers' ? inLowerCase(route.schema as HeaderSchema) : route.schema;
        return (route.httpPart === 'body' ? strict : coercing)({ ...route, schema });
      };
      return compile as never;
    },
    buildSerializer: () => () => JSON.stringify,
  },
};
