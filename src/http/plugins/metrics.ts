// /metrics in the text format of Prometheus. What this process counts is always there; what the database counts is read
// for the answer, and left out, with finegrain_database_up 0, while the database cannot be reached. No label holds a
// path, an id or anything else that a caller may choose.
import type { FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Services } from '../../services/context.ts';
import type { OperatingFigures } from '../../services/operating-figures.ts';
import { runKinds } from '../../services/run-specs.ts';
import { hardwareClasses } from '../../services/runs.ts';

declare module 'fastify' {
  interface FastifyInstance {
    metrics: { contentType: string; text(): Promise<string> };
  }
}

export interface Measured {
  scoring: Services['scoring'];
  /** null while the database cannot be reached */
  readFigures(): Promise<OperatingFigures | null>;
  /** of the database pool */
  connections(): { open: number; idle: number; waiting: number };
}

/** Requests: how long they take by route, how many there are. */
function measureRequests(app: FastifyInstance, registers: Registry[]): void {
  const duration = new Histogram({
    name: 'finegrain_http_request_duration_seconds',
    help: 'From the head of a request to the end of its answer, by route pattern; status is a class, or "aborted" where the client went first',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120],
    registers,
  });
  const broken = new Counter({
    name: 'finegrain_http_broken_requests_total',
    help: 'What was not a request: not HTTP, a head too large or too slow, an unknown method',
    labelNames: ['status'],
    registers,
  });
  new Gauge({
    name: 'finegrain_http_requests_in_flight',
    help: 'Requests whose answers are being made or sent',
    registers,
    collect() {
      this.set(app.exchanges.underWay);
    },
  });
  app.exchanges.observe(({ method, route, status, aborted, seconds, trace }) => {
    if (trace === null) broken.inc({ status: String(status) });
    else {
      const outcome = aborted ? 'aborted' : `${Math.floor(status! / 100)}xx`;
      duration.observe({ method: method!, route: route ?? 'none', status: outcome }, seconds);
    }
  });
}

function measureScoring(scoring: Services['scoring'], registers: Registry[]): void {
  const counter = (name: string, help: string, read: () => number): void => {
    new Counter({
      name,
      help,
      registers,
      collect() {
        this.reset();
        this.inc(read());
      },
    });
  };
  const gauge = (name: string, help: string, read: () => number): void => {
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(read());
      },
    });
  };
  counter(
    'finegrain_scoring_tokens_total',
    'Tokens scored, of prompts and responses',
    () => scoring.figures().scoredTokens,
  );
  counter(
    'finegrain_scoring_refusals_total',
    'Requests turned away because too many tokens waited',
    () => scoring.figures().refusals,
  );
  counter(
    'finegrain_scoring_restarts_total',
    'Scorer processes that ended while they were needed',
    () => scoring.figures().restarts,
  );
  gauge(
    'finegrain_scoring_queued_tokens',
    'Tokens of requests that are not scored yet',
    () => scoring.figures().queuedTokens,
  );
  gauge(
    'finegrain_scoring_loaded_models',
    'Models in use: with scorer processes, or with a server elsewhere that answers',
    () => scoring.figures().loadedModels,
  );
}

function measurePool(connections: Measured['connections'], registers: Registry[]): void {
  new Gauge({
    name: 'finegrain_database_connections',
    help: 'Connections of this process to the database; "waiting": transactions that wait for one',
    labelNames: ['state'],
    registers,
    collect() {
      const { open, idle, waiting } = connections();
      this.set({ state: 'busy' }, open - idle);
      this.set({ state: 'idle' }, idle);
      this.set({ state: 'waiting' }, waiting);
    },
  });
}

/** What the database counts, for all processes alike. @returns what shows the figures, null for none */
function measureQueues(registers: Registry[]): (figures: OperatingFigures | null) => void {
  const up = new Gauge({
    name: 'finegrain_database_up',
    help: '1 while the database answers; without it the figures of runs and jobs are left out',
    registers,
  });
  const gauge = (name: string, help: string, labelNames: string[]) =>
    new Gauge({ name, help, labelNames, registers });
  const runs = gauge(
    'finegrain_runs',
    'Runs by state; "queued" is the depth of the queue, "waiting" are those that wait for other runs',
    ['kind', 'hardware', 'state'],
  );
  const oldestRun = gauge('finegrain_run_queue_oldest_seconds', 'Since the oldest queued run was made', [
    'kind',
    'hardware',
  ]);
  const runners = gauge(
    'finegrain_runners',
    'Runners that live, by all that they have, and whether they hold a run',
    ['hardware', 'state'],
  );
  const jobs = gauge('finegrain_jobs', 'Jobs of the worker by task and state', ['task', 'state']);
  const oldestJob = gauge('finegrain_job_queue_oldest_seconds', 'Since the oldest waiting job was due', [
    'task',
  ]);
  return (figures) => {
    up.set(figures ? 1 : 0);
    for (const each of [runs, oldestRun, runners, jobs, oldestJob]) each.reset();
    if (!figures) return;
    // an empty queue is a queue of depth 0, not an unknown one
    for (const kind of runKinds)
      for (const hardware of hardwareClasses) runs.set({ kind, hardware, state: 'queued' }, 0);
    for (const { kind, hardware, state, runs: count, oldest_seconds } of figures.runs) {
      runs.set({ kind, hardware, state }, count);
      if (oldest_seconds !== null) oldestRun.set({ kind, hardware }, oldest_seconds);
    }
    for (const { hardware, state, runners: count } of figures.runners)
      runners.set({ hardware, state }, count);
    for (const { task, state, jobs: count, oldest_seconds } of figures.jobs) {
      jobs.set({ task, state }, count);
      if (oldest_seconds !== null) oldestJob.set({ task }, oldest_seconds);
    }
  };
}

export const metrics = fp<Measured>(async (app, { scoring, readFigures, connections }) => {
  const register = new Registry();
  collectDefaultMetrics({ register });
  measureRequests(app, [register]);
  measureScoring(scoring, [register]);
  measurePool(connections, [register]);
  const showQueues = measureQueues([register]);
  app.decorate('metrics', {
    contentType: register.contentType,
    async text() {
      showQueues(await readFigures());
      const text = await register.metrics();
      return text.replaceAll(/ Nan$/gm, ' NaN'); // as the format spells it, and prom-client does not
    },
  });
});
