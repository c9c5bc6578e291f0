// Which methods a path has: for Allow, in answers to OPTIONS and to methods that it has not.
import type { FastifyInstance, HTTPMethods } from 'fastify';
import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyInstance {
    /** Empty for an unknown path. @param path readable (request-target.ts), without a query */
    methodsOf(path: string): string[];
  }
}

const emptySegment = /\/(?:\/|$)/;
const methods: HTTPMethods[] = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'];

/** Of the service as a whole: `OPTIONS *`. */
export const allMethods = [...methods, 'OPTIONS'];

export const routeMethods = fp(async (app: FastifyInstance) => {
  // A path such as /v1/edits/preview is that resource and no other, though GET /v1/edits/:edit_id would take it too.
  const literal = new Map<string, Set<string>>();
  app.addHook('onRoute', ({ url, method }) => {
    if (/[:*]/.test(url)) return;
    const known = literal.get(url) ?? new Set();
    literal.set(url, new Set([...known, ...[method].flat()]));
  });
  app.decorate('methodsOf', (path) => {
    const named = literal.get(path);
    if (!named && emptySegment.test(path)) return []; // the router takes nothing for a value too
    const own = methods.filter((method) =>
      named ? named.has(method) : app.findRoute({ method, url: path }) !== null,
    );
    return own.length === 0 ? [] : [...own, 'OPTIONS'];
  });
});
