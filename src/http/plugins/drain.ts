// An orderly end. From `beginDrain` on, /readyz says 503 and answers close their connections, so that a balancer sends
// its requests elsewhere while they are still served here. Then, from `app.close()` on, nothing new is accepted,
// requests under way are answered, and connections that were kept alive are closed as soon as they are idle: Fastify
// closes only those that are idle at the start of the end.
import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyInstance {
    isDraining: boolean;
    beginDrain(): void;
  }
}

const everyMs = 100;

export const drain = fp(async (app) => {
  app.decorate('isDraining', false);
  app.decorate('beginDrain', () => {
    app.isDraining = true;
  });
  app.addHook('onRequest', (_request, reply, done) => {
    if (app.isDraining) reply.raw.shouldKeepAlive = false;
    done();
  });
  app.addHook('preClose', async () => {
    app.beginDrain();
    const closing = setInterval(() => app.server.closeIdleConnections(), everyMs);
    app.server.once('close', () => clearInterval(closing));
  });
});
