// `Authorization: Bearer KEY` on every route whose config names a scope. The scope is declared beside the schema, so
// that the document and the check cannot differ.
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../errors.ts';
import { type Caller, requireScope, type Scope, type Services } from '../../services/context.ts';
import { authenticate } from '../../services/keys.ts';

declare module 'fastify' {
  interface FastifyRequest {
    caller: Caller;
  }
  interface FastifyContextConfig {
    /** `public`: no key is asked for */
    scope?: Scope | 'public';
  }
}

function bearerToken(request: FastifyRequest): string {
  const token = /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? '')?.[1];
  if (!token) throw new Problem('unauthenticated', 'Send the API key as "Authorization: Bearer KEY".');
  return token;
}

export const authentication = fp<{ services: Services; bootstrapKey: string | null }>(
  async (app, { services, bootstrapKey }) => {
    app.decorateRequest('caller');
    app.addHook('onRoute', (route) => {
      if (route.url.startsWith('/v1/') && route.config?.scope === undefined)
        throw new Error(`${route.method} ${route.url} declares no scope`);
    });
    app.addHook('onRequest', async (request) => {
      const scope = request.routeOptions.config.scope;
      if (scope === undefined || scope === 'public') return;
      request.caller = await authenticate(services, bearerToken(request), bootstrapKey);
      requireScope(request.caller, scope);
    });
  },
);
