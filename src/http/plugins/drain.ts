// An orderly end. From `beginDrain` on, /readyz says 503 and answers close their connections, so that a balancer sends
// its requests elsewhere while they are still served here. Then, from `app.close()` on, nothing new is accepted,
// requests under way are answered, and connections that were kept alive are closed as soon as they are idle: Fastify
// closes only those that are idle at the start of the end. So are those that have never sent anything, as browsers open
// them for later: to Node they are not idle.
import type { Socket } from 'node:net';
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
  const connections = new Set<Socket>();
  app.server.on('connection', (socket) => {
    connections.add(socket);
    socket.once('close', () => connections.delete(socket));
  });
  app.addHook('preClose', async () => {
    app.beginDrain();
    const closing = setInterval(() => {
      app.server.closeIdleConnections();
      for (const socket of connections) if (socket.bytesRead === 0) socket.destroy();
    }, everyMs);
    app.server.once('close', () => clearInterval(closing));
  });
});
