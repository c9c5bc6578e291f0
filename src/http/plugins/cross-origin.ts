// CORS, off by default. Requests carry their key in a header of their own and no cookie, so credentials never matter.
import cors from '@fastify/cors';
import fp from 'fastify-plugin';

/** What a script may read of an answer beyond the few headers that browsers always show. */
const exposedHeaders = [
  'ETag',
  'Idempotency-Replayed',
  'Location',
  'RateLimit',
  'RateLimit-Policy',
  'Retry-After',
  'X-Request-Id',
  'traceresponse',
];

/** @param origins exact ones, or `*` alone; none: no answer has a CORS header */
export const crossOrigin = fp<{ origins: string[] }>(async (app, { origins }) => {
  if (origins.length === 0) return;
  await app.register(cors, {
    origin: origins.includes('*') ? '*' : origins,
    methods: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'],
    exposedHeaders,
    maxAge: 600,
    // the preflight is answered as any OPTIONS (unknown-routes.ts): 404 for an unknown path
    preflightContinue: true,
    strictPreflight: false,
  });
});
