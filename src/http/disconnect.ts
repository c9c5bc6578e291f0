// Tells a handler that its client has gone. Fastify's request.signal cannot: it aborts once a body has been read.
import type { FastifyReply } from 'fastify';
import { Problem } from '../errors.ts';

/** Aborts when the connection closes before the answer is complete; the reason is a Problem that nobody will read. */
export function clientGone(reply: FastifyReply): AbortSignal {
  const gone = new AbortController();
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished)
      gone.abort(new Problem('unavailable', 'The client closed the connection.'));
  });
  return gone.signal;
}
