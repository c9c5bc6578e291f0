// What no route answers: OPTIONS (204 with Allow, without a key), unknown methods (405 with Allow), unknown paths (404).
// Paths are taken literally: neither a slash at the end nor a double one is overlooked.
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../errors.ts';
import { allMethods } from './route-methods.ts';

function pathNotFound(app: FastifyInstance, path: string): Problem {
  const plain = `/${path.split('/').filter(Boolean).join('/')}`;
  const meant = plain !== path && app.methodsOf(plain).length > 0 ? ` Did you mean ${plain}?` : '';
  return new Problem('not_found', `There is no route ${path}.${meant} The routes are listed at /docs.`);
}

/** Answers OPTIONS. @throws Problem for what else has no route */
function answer(app: FastifyInstance, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const path = request.url.split('?', 1)[0]!;
  const isOptions = request.method === 'OPTIONS';
  const allowed = isOptions && request.originalUrl === '*' ? allMethods : app.methodsOf(path);
  if (allowed.length === 0) throw pathNotFound(app, path);
  reply.header('allow', allowed.join(', '));
  if (isOptions) return reply.code(204).send();
  throw new Problem('method_not_allowed', `${path} has ${allowed.join(', ')}, not ${request.method}.`);
}

export const unknownRoutes = fp(async (app) => {
  app.addHook('onRequest', async (request, reply) => {
    const { method, is404, routeOptions } = request;
    const isUnknown =
      is404 ||
      method === 'OPTIONS' ||
      // a route with parameters took it for a value of one
      (routeOptions.url!.includes(':') && !app.methodsOf(request.url.split('?', 1)[0]!).includes(method));
    if (isUnknown) return answer(app, request, reply);
  });
  // a file below /docs that does not exist
  app.setNotFoundHandler((request) => {
    throw pathNotFound(app, request.url.split('?', 1)[0]!);
  });
});
