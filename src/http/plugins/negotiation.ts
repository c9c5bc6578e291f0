// 406 where no representation of a route is acceptable. What a route can send is what its response schemas say, so that
// the document and the check cannot differ. Problems may always be sent.
import type { RouteOptions } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../errors.ts';
import { qualityOfType } from '../media-types.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** of its successful answers; `*` + `/*`: whatever was stored */
    mediaTypes?: string[];
  }
}

interface ResponseSchema {
  type?: string;
  content?: Record<string, unknown>;
}

/** Empty for a route whose answers have no content, or that says nothing of them. */
function successTypes({ schema }: RouteOptions): string[] {
  const responses = Object.entries((schema?.response ?? {}) as Record<string, ResponseSchema>);
  const types = responses
    .filter(([status]) => status.startsWith('2'))
    .flatMap(([, { type, content }]) =>
      content ? Object.keys(content) : type === 'null' ? [] : ['application/json'],
    );
  return [...new Set(types)];
}

export const negotiation = fp(async (app) => {
  app.addHook('onRoute', (route) => {
    route.config = { ...route.config, mediaTypes: successTypes(route) };
  });
  app.addHook('onRequest', (request, _reply, done) => {
    const { accept } = request.headers;
    const types = request.routeOptions.config.mediaTypes ?? [];
    if (accept === undefined || types.length === 0 || types.includes('*/*')) return done();
    if (types.some((type) => qualityOfType(accept, type) > 0)) return done();
    done(
      new Problem(
        'not_acceptable',
        `The route sends ${types.join(' or ')}; the Accept header takes neither it nor ${'*/*'}.`,
      ),
    );
  });
});
