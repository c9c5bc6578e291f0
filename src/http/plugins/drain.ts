// An orderly end: requests under way are answered, and their connections, kept alive for a next request that will not
// be served, are closed as soon as they are idle. Fastify closes only those that are idle at the start of the end.
import fp from 'fastify-plugin';

const everyMs = 100;

export const drain = fp(async (app) => {
  app.addHook('preClose', async () => {
    const closing = setInterval(() => app.server.closeIdleConnections(), everyMs);
    app.server.once('close', () => clearInterval(closing));
  });
});
