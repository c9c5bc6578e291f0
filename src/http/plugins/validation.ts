// Two compilers: bodies are taken as they are, unknown fields refused; query, params and headers arrive as text and
// are coerced. Nothing is ever removed from a body.
import AjvCompiler from '@fastify/ajv-compiler';
import type { FastifySchemaCompiler, FastifyServerOptions } from 'fastify';

const common = { removeAdditional: false, useDefaults: true, allErrors: true, strict: false } as const;

export const validation: FastifyServerOptions['schemaController'] = {
  compilersFactory: {
    buildValidator: (externalSchemas: unknown) => {
      const factory = AjvCompiler();
      const strict = factory(
        externalSchemas as never,
        { customOptions: { ...common, coerceTypes: false } } as never,
      );
      const coercing = factory(
        externalSchemas as never,
        { customOptions: { ...common, coerceTypes: true } } as never,
      );
      const compile: FastifySchemaCompiler<unknown> = (route) =>
        (route.httpPart === 'body' ? strict : coercing)(route as never) as never;
      return compile as never;
    },
  },
};
