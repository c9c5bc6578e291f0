// `Authorization: Bearer KEY` (RFC 6750) on every route whose config names a scope. The scope is declared there only: the
// document is made from the same declaration, so the two cannot differ.
import type { FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../errors.ts';
import {
  type Caller,
  type Identity,
  requireScope,
  type Scope,
  type Services,
} from '../../services/context.ts';
import { authenticate } from '../../services/keys.ts';
import type { RateLimits } from './rate-limits.ts';

declare module 'fastify' {
  interface FastifyRequest {
    caller: Caller;
  }
  interface FastifyContextConfig {
    /** `public`: no key is asked for; `any`: a valid key, whatever its scopes */
    scope?: Scope | 'public' | 'any';
    /** also `Basic`, whose password is the key: for a client that can be given a URL and nothing else */
    keyAsPassword?: true;
  }
}

interface Options {
  services: Services;
  bootstrapKey: string | null;
  limits: RateLimits;
}

export const authentication = fp<Options>(async (app, { services, bootstrapKey, limits }) => {
  if (bootstrapKey !== null) limits.worked(bootstrapKey); // no look-up is needed to know it

  /** What the request's key stands for; www-authenticate tells a refused client why. */
  async function identify(request: FastifyRequest, reply: FastifyReply): Promise<Identity> {
    const key = keyOf(request);
    if (!key) {
      challenge(reply);
      throw new Problem('unauthenticated', 'Send the API key as "Authorization: Bearer KEY".');
    }
    await limits.admit(request, reply, key);
    try {
      const identity = await authenticate(services, key, bootstrapKey);
      limits.worked(key);
      return identity;
    } catch (error) {
      if (error instanceof Problem && error.code === 'unauthenticated') {
        challenge(reply, 'error="invalid_token"');
        await limits.failed(request, key);
      }
      throw error;
    }
  }

  app.decorateRequest('caller');
  app.addHook('onRoute', (route) => {
    if (route.url.startsWith('/v1/') && route.config?.scope === undefined)
      throw new Error(`${route.method} ${route.url} declares no scope`);
  });
  app.addHook('onRequest', async (request, reply) => {
    const { scope } = request.routeOptions.config;
    if (scope === undefined || scope === 'public') return;
    const identity = await identify(request, reply);
    request.caller = { ...identity, requestId: request.id, address: request.ip };
    if (scope === 'any') return;
    try {
      requireScope(identity, scope);
    } catch (error) {
      challenge(reply, `error="insufficient_scope", scope="${scope}"`);
      throw error;
    }
  });
});

function keyOf({ headers: { authorization = '' }, routeOptions }: FastifyRequest): string | undefined {
  const bearer = /^Bearer +(\S+)$/i.exec(authorization)?.[1];
  if (bearer !== undefined || !routeOptions.config.keyAsPassword) return bearer;
  const basic = /^Basic +(\S+)$/i.exec(authorization)?.[1] ?? '';
  return /^[^:]*:(\S+)$/.exec(Buffer.from(basic, 'base64').toString())?.[1]; // RFC 7617, section 2
}

/** RFC 6750, section 3 */
function challenge(reply: FastifyReply, ...parameters: string[]): void {
  reply.header('www-authenticate', ['Bearer realm="finegrain"', ...parameters].join(', '));
}
