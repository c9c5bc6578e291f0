// The life of each request on its connection: one at a time, and a report at its end, however it ends.
//
// Pipelined requests wait for the answer before them (RFC 9112, 9.3.2, asks that of unsafe ones): one connection never
// takes more than its share, however many requests it sends at once.
import type { Socket } from 'node:net';
import type { FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { TraceContext } from '../../domain/trace-context.ts';
import type { ProblemCode } from '../../errors.ts';
import type { Caller } from '../../services/context.ts';
import type { ConnectionLimits } from '../limits.ts';

/** What became of a request. Null is what is not known of one that was not even HTTP. */
export interface Exchange {
  requestId: string;
  trace: TraceContext | null;
  method: string | null;
  /** the pattern of its route; null when there is none */
  route: string | null;
  /** without the query */
  path: string | null;
  /** null when the client went before there was an answer */
  status: number | null;
  /** the client went before the answer was complete */
  aborted: boolean;
  problem: ProblemCode | null;
  failure: Error | null;
  caller: Caller | null;
  seconds: number;
  /** on the wire, heads included; 0 where pipelined requests shared a packet */
  bytesIn: number;
  bytesOut: number;
  address: string | null;
  userAgent: string | null;
  /** of a route that is asked all the time */
  quiet: boolean;
}

// no more than these are read from a connection, but for those that come in one packet with them
const mostWaiting = 100;

interface Connection {
  /** a request has its turn, or is about to */
  isBusy: boolean;
  /** whose answer is being made */
  current: { request: FastifyRequest; reply: FastifyReply } | null;
  /** what comes after it, in order */
  waiting: (() => void)[];
  bytesRead: number;
  bytesWritten: number;
}

declare module 'fastify' {
  interface FastifyInstance {
    exchanges: {
      underWay: number;
      /** Calls back at the end of each exchange. */
      observe(observer: (exchange: Exchange) => void): void;
      report(exchange: Exchange): void;
      connection(socket: Socket): Connection;
    };
  }
  interface FastifyContextConfig {
    /** asked all the time by machines: logged at debug */
    quiet?: boolean;
  }
}

export const exchanges = fp<{ limits: ConnectionLimits }>(async (app, { limits }) => {
  const connections = new WeakMap<Socket, Connection>();
  const observers: ((exchange: Exchange) => void)[] = [];
  app.decorate('exchanges', {
    underWay: 0,
    observe: (observer) => void observers.push(observer),
    report: (exchange) => {
      for (const observer of observers) observer(exchange);
    },
    connection(socket) {
      const known = connections.get(socket);
      if (known) return known;
      const connection: Connection = {
        isBusy: false,
        current: null,
        waiting: [],
        bytesRead: 0,
        bytesWritten: 0,
      };
      connections.set(socket, connection);
      return connection;
    },
  });

  // A connection on which nothing moves ends, unless it is the service that is at work.
  app.server.on('timeout', (socket) => {
    const { current } = app.exchanges.connection(socket);
    if (current && socket.writableLength === 0) socket.setTimeout(limits.silenceMs);
    else socket.destroy();
  });

  app.addHook('onRequest', (request, reply, done) => {
    const { socket } = request.raw;
    const connection = app.exchanges.connection(socket);
    const begin = (): void => {
      connection.current = { request, reply };
      app.exchanges.underWay++;
      const startedAt = performance.now();
      let ended = false;
      const end = (): void => {
        if (ended) return;
        ended = true;
        connection.current = null;
        app.exchanges.underWay--;
        app.exchanges.report(summarise(request, reply, connection, (performance.now() - startedAt) / 1000));
        if (socket.destroyed) connection.waiting = [];
        const next = connection.waiting.shift();
        if (next)
          setImmediate(next); // not at once: other connections have their turns too
        else connection.isBusy = false;
        if (socket.isPaused() && connection.waiting.length < mostWaiting / 2) socket.resume();
      };
      reply.raw.once('finish', end);
      reply.raw.once('close', end);
      done();
    };
    if (!connection.isBusy) {
      connection.isBusy = true;
      return begin();
    }
    connection.waiting.push(begin);
    if (connection.waiting.length >= mostWaiting) socket.pause();
  });
});

function summarise(
  request: FastifyRequest,
  reply: FastifyReply,
  connection: Connection,
  seconds: number,
): Exchange {
  const { socket } = request.raw;
  const { bytesRead, bytesWritten } = socket;
  const bytesIn = bytesRead - connection.bytesRead;
  const bytesOut = bytesWritten - connection.bytesWritten;
  Object.assign(connection, { bytesRead, bytesWritten });
  return {
    requestId: request.id,
    trace: request.trace,
    method: request.method,
    route: request.is404 ? null : request.routeOptions.url!,
    path: request.originalUrl.split('?', 1)[0]!,
    status: reply.raw.headersSent ? reply.raw.statusCode : null,
    aborted: !reply.raw.writableFinished,
    problem: request.problemCode,
    failure: request.failure,
    caller: request.caller ?? null,
    seconds,
    bytesIn,
    bytesOut,
    address: request.ip,
    userAgent: request.headers['user-agent'] ?? null,
    quiet: request.routeOptions.config.quiet === true,
  };
}
