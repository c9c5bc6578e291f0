// Server-sent events (WHATWG HTML, 9.2). `id` is the sequence number of an event, which a client that was cut off sends back
// as Last-Event-ID.
import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Problem } from '../errors.ts';
import type { StreamItem } from '../services/run-stream.ts';
import { clientGone } from './disconnect.ts';

export const eventStreamType = 'text/event-stream';

/** before a client that was cut off connects again */
const retryMs = 1000;

/** The number in Last-Event-ID; null without the header. @throws Problem invalid_request for what is no such number */
export function lastEventId(request: unknown): number | null {
  const id = (request as FastifyRequest).headers['last-event-id'];
  if (id === undefined || id === '') return null;
  if (/^\d{1,15}$/.test(String(id))) return Number(id);
  const detail = 'must be the id of an event: its sequence number';
  throw new Problem('invalid_request', `The header Last-Event-ID ${detail}.`, {
    errors: [{ pointer: '/last-event-id', detail, in: 'headers' }],
  });
}

const comments = { heartbeat: ': still here', database: ': the database cannot be reached, waiting' };

async function* render(items: AsyncIterable<StreamItem>): AsyncGenerator<string> {
  yield `retry: ${retryMs}\n\n`;
  for await (const item of items) {
    if ('events' in item)
      yield item.events
        .map((event) => `id: ${event.sequence}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`)
        .join('');
    else if ('quiet' in item) yield `${comments[item.quiet]}\n\n`;
    else yield `event: end\ndata: ${JSON.stringify({ state: item.ended, last_event: item.lastEvent })}\n\n`;
  }
}

/**
 * Sends what comes, as it comes: nothing on the way may gather it.
 * @param follow opens the stream; `gone` is aborted when the client has left
 */
export function sendEventStream(
  request: unknown, // of any route
  reply: unknown,
  follow: (gone: AbortSignal) => AsyncIterable<StreamItem>,
): never {
  const answer = (reply as FastifyReply).type(eventStreamType);
  answer.headers({ 'cache-control': 'no-store, no-transform', 'x-accel-buffering': 'no' });
  const items = (request as FastifyRequest).method === 'HEAD' ? null : follow(clientGone(answer));
  answer.send(Readable.from(items ? render(items) : [], { highWaterMark: 1 }));
  return reply as never;
}
