// Scores as they come, in either form: NDJSON with an object a line, or server-sent events with the same objects. The name
// of an event is the field `event` of its object, so that a reader of one form can read the other.
import { Readable } from 'node:stream';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import type { ScoreEvent } from '../services/score-stream.ts';
import { eventStreamType } from './event-stream.ts';
import { problemOf } from './plugins/problems.ts';
import { problemBody } from './problem-details.ts';
import { ndjsonType } from './streams.ts';

export const scoreStreamTypes = [ndjsonType, eventStreamType] as const;
export type ScoreStreamType = (typeof scoreStreamTypes)[number];

/** @throws what comes in the place of the first event: then there is no stream, and the answer is the problem itself */
export async function sendScores(
  request: FastifyRequest,
  reply: FastifyReply,
  mediaType: ScoreStreamType,
  events: AsyncGenerator<ScoreEvent>,
): Promise<FastifyReply> {
  const first = await events.next();
  async function* texts(): AsyncGenerator<string> {
    try {
      for (let next = first; !next.done; next = await events.next()) {
        const object = withProblem(next.value, request);
        const json = JSON.stringify(object);
        yield mediaType === ndjsonType ? `${json}\n` : `event: ${object.event}\ndata: ${json}\n\n`;
      }
    } finally {
      await events.return(undefined);
    }
  }
  reply.headers({ 'cache-control': 'no-store', 'x-accel-buffering': 'no' }); // nothing on the way may gather what comes
  return reply.type(mediaType).send(Readable.from(texts(), { highWaterMark: 1 }));
}

function withProblem(event: ScoreEvent, request: FastifyRequest) {
  if (event.event !== 'problem') return event;
  const { error, ...counts } = event;
  const problem = problemOf(error as FastifyError, request);
  request.problemCode = problem.code;
  return { ...counts, problem: problemBody(problem, request.id, request.originalUrl) };
}
