// One line for each request, at its end, however it ends. It names who asked and what became of it; never a key, a body
// or a query. 5xx is an error; what is asked all the time is logged at debug.
import { type FastifyRequest, LogController } from 'fastify';
import fp from 'fastify-plugin';
import { formatId } from '../../domain/ids.ts';
import type { Exchange } from './exchanges.ts';

const longest = 300;

function render(exchange: Exchange) {
  const { trace, caller, failure } = exchange;
  return {
    request_id: exchange.requestId,
    trace_id: trace?.traceId ?? null,
    span_id: trace?.spanId ?? null,
    parent_id: trace?.parentId ?? null,
    method: exchange.method,
    route: exchange.route,
    path: exchange.path?.slice(0, longest) ?? null,
    status: exchange.status,
    problem: exchange.problem,
    aborted: exchange.aborted,
    duration_ms: Math.round(exchange.seconds * 1e6) / 1e3,
    bytes_in: exchange.bytesIn,
    bytes_out: exchange.bytesOut,
    project_id: caller ? formatId('project', caller.projectId) : null,
    key_id: caller?.keyId ? formatId('key', caller.keyId) : null,
    address: exchange.address,
    user_agent: exchange.userAgent?.slice(0, longest) ?? null,
    ...(failure ? { err: renderFailure(failure) } : {}),
  };
}

/** Not all that it carries: Postgres puts whole rows into an error's detail. */
const renderFailure = ({ name, message, stack, code }: Error & { code?: string }) => ({
  type: name,
  code,
  message,
  stack,
});

export const requestLog = fp(async (app) => {
  app.exchanges.observe((exchange) => {
    const failed = exchange.failure !== null || (exchange.status ?? 0) >= 500;
    const level = exchange.quiet ? 'debug' : failed ? 'error' : 'info';
    app.log[level](render(exchange), 'request');
  });
});

/** Keeps Fastify from writing lines of its own; what breaks a stream goes into the line of its request. */
class QuietLogController extends LogController {
  constructor() {
    super({ disableRequestLogging: true, requestIdLogLabel: 'request_id' });
  }

  override streamError(error: Error & { code?: string }, request: FastifyRequest): void {
    if (error.code !== 'ERR_STREAM_PREMATURE_CLOSE') request.failure = error;
  }
}

export const quietLogController = new QuietLogController();
