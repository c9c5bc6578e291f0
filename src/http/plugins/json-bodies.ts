// JSON bodies: parsed strictly, with a pointer to what is wrong. They are the only bodies that a route reads unless it
// adds a parser of its own.
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../errors.ts';
import { parseJson } from '../../services/json-input.ts';

export const jsonBodies = fp(async (app) => {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(
    'application/json',
    { parseAs: 'buffer' },
    async (request: FastifyRequest, body: Buffer) => {
      const parsed = parseJson(body);
      if ('error' in parsed) {
        const { code, ...where } = parsed.error;
        throw new Problem(
          code === 'beyond_limits' ? 'unprocessable' : code,
          `${where.pointer || 'The body'} ${where.detail}.`,
          { errors: [{ ...where, in: 'body' }] },
        );
      }
      if (parsed.value === undefined && request.routeOptions.schema?.body)
        throw new Problem('malformed_json', 'The body is empty; this route needs a JSON object.');
      return parsed.value;
    },
  );
});
