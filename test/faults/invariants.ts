// What must hold of an installation when all its runs have ended, whatever has happened to it: asked over HTTP as a user
// would, and of the tables, files and processes behind.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Run } from '../../src/services/runs.ts';
import { digestOf, trainersBelow, type World } from './world.ts';

/** A run and what it must have made: the digest of the model of an undisturbed run of the same spec. */
export interface Expected {
  id: string;
  what: string;
  modelDigest: string;
}

interface Event {
  sequence: number;
  type: string;
  attempt: number;
  data: Record<string, unknown>;
}

/** @returns what does not hold, in words; nothing when all does */
export async function violations(world: World, expected: Expected[]): Promise<string[]> {
  const found: string[] = [];
  for (const run of expected)
    found.push(...(await violationsOfRun(world, run)).map((text) => `${run.what} ${run.id}: ${text}`));
  return [
    ...found,
    ...(await violationsOfTables(world)),
    ...(await violationsOfStore(world)),
    ...(await violationsOfMachine(world)),
  ];
}

async function violationsOfRun(world: World, { id, modelDigest }: Expected): Promise<string[]> {
  const run: Run = (await world.call('GET', `/v1/runs/${id}`)).body;
  if (run.state !== 'succeeded') return [`it is ${run.state}: ${JSON.stringify(run.failure)}`];
  const found: string[] = [];
  const model = (await world.call('GET', `/v1/models/${run.model_id}`)).body;
  if (model.digest !== modelDigest)
    found.push(
      `its model is ${model.digest}, undisturbed it is ${modelDigest}; ${JSON.stringify(run.result)} ${JSON.stringify(model.files)}`,
    );
  for (const { path, digest } of model.files) {
    const { status, text } = await world.call('GET', `/v1/models/${run.model_id}/files/${path}`);
    if (status !== 200)
      found.push(`GET of its file ${path} (${digest}) answers ${status} ${text.slice(0, 200)}`);
  }

  const events = await allEvents(world, id);
  const gap = events.find(({ sequence }, index) => sequence !== index + 1);
  if (gap) found.push(`its events have a gap or a repetition at ${gap.sequence}`);
  if (events.length !== run.last_event) found.push(`last_event is ${run.last_event} of ${events.length}`);
  for (const [index, attempt] of run.attempts.entries()) {
    if (attempt.attempt !== index + 1) found.push(`attempt ${attempt.attempt} is number ${index + 1}`);
    const own = events.filter((event) => event.attempt === attempt.attempt);
    found.push(...violationsOfAttempt(attempt, own).map((text) => `attempt ${attempt.attempt}: ${text}`));
  }
  const succeeded = run.attempts.filter(({ outcome }) => outcome === 'succeeded');
  if (succeeded.length !== 1 || run.attempts.at(-1)!.outcome !== 'succeeded')
    found.push(`its attempts ended as ${run.attempts.map(({ outcome }) => outcome)}`);
  return found;
}

function violationsOfAttempt({ outcome, ended_at }: Run['attempts'][number], events: Event[]): string[] {
  const found: string[] = [];
  if (!outcome || !ended_at) found.push('it has not ended');
  const asked = (event: Event) => /_requested$/.test(event.type); // by a user, in whose time it may lie
  const own = events.filter((event) => !asked(event));
  if (own[0]?.type !== 'attempt_started') found.push(`it begins with ${own[0]?.type}`);
  const ends = own.filter(({ type }) => type === 'attempt_ended' || type === 'attempt_lost');
  const last = own.at(-1);
  if (ends.length !== 1 || ends[0] !== last)
    found.push(`its ends: ${JSON.stringify(ends)}, its last event: ${last?.type}`);
  const told = last?.type === 'attempt_lost' ? 'lost' : last?.data.outcome;
  if (told !== outcome) found.push(`it ended as ${outcome}, its events say ${told}`);

  // the trainers say the metrics of each step once, in order
  const steps = own.filter(({ type }) => type === 'metrics').map(({ data }) => JSON.stringify(data));
  const twice = steps.find((step, index) => steps.indexOf(step) !== index);
  if (twice) found.push(`an event twice: ${twice}`);
  const numbers = own.flatMap(({ type, data }) => (type === 'metrics' ? [Number(data.step)] : []));
  if (numbers.some((number, index) => index > 0 && number < numbers[index - 1]!))
    found.push(`metrics out of order: ${numbers}`);
  const checkpoints = own.flatMap(({ type, data }) => (type === 'checkpoint' ? [Number(data.step)] : []));
  if (new Set(checkpoints).size < checkpoints.length) found.push(`a checkpoint twice: ${checkpoints}`);
  return found;
}

async function allEvents({ call }: World, id: string): Promise<Event[]> {
  const events: Event[] = [];
  for (let after = 0; ; ) {
    const { items, next_after } = (await call('GET', `/v1/runs/${id}/events?limit=1000&after=${after}`)).body;
    if (items.length === 0) return events;
    events.push(...items);
    after = next_after;
  }
}

async function violationsOfTables({ query }: World): Promise<string[]> {
  const found: string[] = [];
  const count = async (what: string, sql: string): Promise<void> => {
    const [row] = await query<{ count: number }>(`select count(*)::int as count from ${sql}`);
    if (row!.count > 0) found.push(`${row!.count} ${what}`);
  };
  await count(
    'live attempts without a live run',
    `finegrain.run_attempts a join finegrain.runs r on r.project_id = a.project_id and r.id = a.run_id
     where a.ended_at is null and (r.state not in ('starting', 'running', 'pausing') or r.fence <> a.fence)`,
  );
  await count(
    'runs that seem to be held without a live attempt',
    `finegrain.runs r where r.state in ('starting', 'running', 'pausing') and not exists (select from finegrain.run_attempts a
       where a.project_id = r.project_id and a.run_id = r.id and a.fence = r.fence and a.ended_at is null)`,
  );
  await count(
    'runs with more or fewer attempts than fences',
    `finegrain.runs r where r.fence <> (select count(*) from finegrain.run_attempts a
       where a.project_id = r.project_id and a.run_id = r.id)`,
  );
  await count(
    'models of runs that have not succeeded',
    `finegrain.models m join finegrain.runs r on r.project_id = m.project_id and r.id = m.run_id where r.state <> 'succeeded'`,
  );
  await count('runs that have not ended', 'finegrain.runs where finished_at is null');
  return found;
}

/** Every file is what its name says, and everything that the database names is there. */
async function violationsOfStore({ artifacts, query }: World): Promise<string[]> {
  const found: string[] = [];
  const whole = new Set<string>();
  const root = join(artifacts, 'sha256');
  for (const name of await readdir(root, { recursive: true })) {
    const hex = name.replaceAll('/', '');
    if (hex.length !== 64) continue;
    const digest = digestOf(await readFile(join(root, name)));
    if (digest === `sha256:${hex}`) whole.add(digest);
    else found.push(`an artifact that is not whole: ${hex} is ${digest}`);
  }
  const named = await query<{ digest: string }>(`select digest from finegrain.artifacts
    union select f ->> 'digest' from finegrain.models, jsonb_array_elements(files) f
    union select f ->> 'digest' from finegrain.run_checkpoints, jsonb_array_elements(files) f`);
  for (const { digest } of named) if (!whole.has(digest)) found.push(`${digest} is named, and is not there`);
  return found;
}

/** Trainers and work folders may take a moment to go. */
async function violationsOfMachine({ runners, installation }: World): Promise<string[]> {
  const left = async (): Promise<string[]> => {
    const folders = await Promise.all(
      runners.map(async ({ workFolders }) =>
        (await readdir(workFolders)).map((name) => join(workFolders, name)),
      ),
    );
    return [
      ...trainersBelow(installation.folder).map((pid) => `the trainer ${pid} still runs`),
      ...folders.flat().map((folder) => `the work folder ${folder} is left`),
    ];
  };
  for (const end = Date.now() + 40_000; Date.now() < end; await sleep(200))
    if ((await left()).length === 0) return [];
  return left();
}
