// The service's own editor at work on one edit request: claims tasks as every editor does, asks a chat endpoint for the
// smallest edit, submits it or gives the task up. Works for a slice of time under a lease (migration 0018), so that a job
// is short, a cancelled request stops within a heartbeat, and a worker that dies costs leases and nothing else.
import { setMaxListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { selectEditPolicies } from '../db/datasets.ts';
import * as db from '../db/llm-editors.ts';
import { type Fault, keptOutput, readEditAnswer } from '../domain/edit-answers.ts';
import { formatId } from '../domain/ids.ts';
import { Problem } from '../errors.ts';
import { type ChatCall, type ChatOutcome, callChat } from './chat-endpoint.ts';
import type { Services } from './context.ts';
import { completePolicy, type EditPolicy } from './edit-policy.ts';
import {
  type ChatMessage,
  type EditPrompt,
  type EditWork,
  promptVersion,
  readEditPrompt,
} from './edit-prompt.ts';
import {
  type ClaimedTask,
  claimTasks,
  failTask,
  heartbeatTask,
  releaseTask,
  submitTask,
} from './edit-tasks.ts';
import { type LlmSettings, type StopReason, sampleName } from './llm-editors.ts';
import { maxTextLength } from './pair-rows.ts';
import { readKey } from './secrets.ts';

export type LlmServices = Pick<Services, 'db' | 'secretKeys' | 'outgoing'>;

export interface Times {
  /** no task is begun after it; those under way are brought to their end */
  sliceMs: number;
  heartbeatMs: number;
  /** of the slice and of its tasks; renewed by each heartbeat */
  leaseSeconds: number;
  callTimeoutMs: number;
  /** before the second try of a call, doubled with each further one */
  firstDelayMs: number;
  /** a longer one is waited for by the next slice */
  longestWaitMs: number;
  /** until the next slice, when this one found nothing to do */
  idleSeconds: number;
  /** until the next slice after one that the endpoint did not serve, doubled with each further one */
  troubleSeconds: number;
}

const usualTimes: Times = {
  sliceMs: 30_000,
  heartbeatMs: 5000,
  leaseSeconds: 30,
  callTimeoutMs: 180_000,
  firstDelayMs: 1000,
  longestWaitMs: 30_000,
  idleSeconds: 60,
  troubleSeconds: 15,
};

const triesOfCall = 4;
const longestRestSeconds = 3600; // whatever an endpoint asks for
const longestTroubleSeconds = 900;
const troublesInRow = 8; // half an hour: then it is for a person
const suspectsInRow = 3; // calls that failed one after the other: it is the endpoint, not their tasks
const samplesBeyondRedundancy = 9; // other requests may have had the first ones
const keptOutputLength = 200_000;

/** Why the slice takes no further task. */
type Ending =
  | { kind: 'stopped'; reason: StopReason; detail: string }
  | { kind: 'trouble'; detail: string; restSeconds: number };

/** A task whose call failed: of its own fault if others succeed. */
interface Suspect {
  task: ClaimedTask;
  fault: Fault;
  lastOutput: string | null;
}

interface Held {
  task: ClaimedTask;
  /** its lease is lost: what is done for it is in vain */
  lost: AbortController;
}

interface Work {
  services: LlmServices;
  slice: db.Slice;
  settings: LlmSettings;
  redundancy: number;
  policy: EditPolicy;
  apiKey: string | null;
  promptOf: (work: EditWork) => EditPrompt;
  times: Times;
  /** the request was cancelled, the slice lost, or the worker is to stop: nothing is brought to its end */
  stop: AbortSignal;
  abort: AbortController;
  pace: Pace;
  held: Map<string, Held>;
  suspects: Suspect[];
  ending: Ending | null;
  answered: number;
  /** which sample of the model claims next; earlier ones can get nothing more */
  sample: number;
  limitName: ChatCall['limitName'];
  /** calls that hold a reservation; they never reject */
  underWay: Set<Promise<unknown>>;
  /** of the reservation before; one at a time */
  reserving: Promise<unknown>;
}

/**
 * Works for a slice of time on a request that is due. Safe to call at any time, by several workers at once.
 * @returns what to log, null when there is nothing
 */
export async function editSlice(
  services: LlmServices,
  key: db.LlmEditorKey,
  signal: AbortSignal,
  times: Times = usualTimes,
): Promise<string | null> {
  const begun = await services.db.transaction(key.projectId, async (tx) => {
    const row = await db.beginSlice(tx, key, times.leaseSeconds);
    if (!row) return null;
    const policies = await selectEditPolicies(tx, [row.dataset_id]);
    return { ...row, policy: completePolicy(policies.get(row.dataset_id)!) };
  });
  if (!begun) return null;
  const slice = { ...key, fence: begun.fence };
  const settings = begun.settings as LlmSettings;
  const { apiKey, ending } = await readApiKey(services, key.projectId, settings.secret);
  const abort = new AbortController();
  const work: Work = {
    services,
    slice,
    settings,
    redundancy: begun.redundancy,
    policy: begun.policy,
    apiKey,
    promptOf: await readEditPrompt(),
    times,
    stop: AbortSignal.any([abort.signal, signal]),
    abort,
    pace: paceOf(settings.requests_per_minute),
    held: new Map(),
    suspects: [],
    ending,
    answered: 0,
    sample: 1,
    limitName: 'max_tokens',
    underWay: new Set(),
    reserving: Promise.resolve(),
  };
  setMaxListeners(0, work.stop); // every lane listens while it waits
  if (ending === null) await workOff(work);
  return endSlice(work, begun.troubles, signal);
}

async function readApiKey(
  services: LlmServices,
  projectId: string,
  name: string | null,
): Promise<{ apiKey: string | null; ending: Ending | null }> {
  if (name === null) return { apiKey: null, ending: null };
  const read = await readKey(services, projectId, name);
  return 'key' in read
    ? { apiKey: read.key, ending: null }
    : { apiKey: null, ending: { kind: 'stopped', reason: 'credentials', detail: read.fault } };
}

/** As many lanes as calls are allowed at a time, beside a heartbeat. @throws what is nobody's fault but ours */
async function workOff(work: Work): Promise<void> {
  const done = new AbortController();
  let failure: unknown;
  const orFail = (part: Promise<void>): Promise<void> =>
    part.catch((error: unknown) => {
      failure ??= error;
      work.abort.abort();
    });
  const beating = orFail(heartbeats(work, done.signal));
  const endsAt = Date.now() + work.times.sliceMs;
  await Promise.all(Array.from({ length: work.settings.concurrency }, () => orFail(lane(work, endsAt))));
  if (failure === undefined) await orFail(settleSuspects(work));
  done.abort();
  await beating;
  if (failure !== undefined) throw failure;
}

async function heartbeats(work: Work, done: AbortSignal): Promise<void> {
  const { services, slice, times, held } = work;
  for (;;) {
    await sleep(times.heartbeatMs, undefined, { signal: done }).catch(() => {}); // done: there is nothing left to hold
    if (done.aborted || work.stop.aborted) return;
    if (!(await stillHeld(work))) return;
    for (const { task, lost } of held.values()) {
      const renewed = await unlessLost(heartbeatTask(services, slice, task.id, task));
      if (!renewed) lost.abort();
    }
  }
}

/** Renews the lease of the slice; where another has taken over, or the request is cancelled, all that is under way is broken off. */
async function stillHeld({ services, slice, times, abort }: Work): Promise<boolean> {
  const held = await services.db.transaction(slice.projectId, (tx) =>
    db.renewSlice(tx, slice, times.leaseSeconds),
  );
  if (!held) abort.abort();
  return held;
}

/** undefined when the lease was lost, the request cancelled or the pair deleted: the task is not ours any more. */
async function unlessLost<T>(act: Promise<T>): Promise<T | undefined> {
  try {
    return await act;
  } catch (error) {
    if (error instanceof Problem && ['conflict', 'not_found'].includes(error.code)) return undefined;
    throw error;
  }
}

async function lane(work: Work, endsAt: number): Promise<void> {
  // suspects wait for the next task to show whose fault it was
  const goesOn = () =>
    work.ending === null && !work.stop.aborted && (Date.now() < endsAt || work.suspects.length > 0);
  while (goesOn()) {
    const waitMs = work.pace.turn(work.suspects.length > 0 ? Number.POSITIVE_INFINITY : endsAt);
    if (waitMs === null) return;
    await sleep(waitMs, undefined, { signal: work.stop }).catch(() => {}); // looked at next
    if (work.ending !== null || work.stop.aborted) return;
    const task = await claimNext(work);
    if (task === null) return;
    await workOn(work, task);
  }
}

async function claimNext(work: Work): Promise<ClaimedTask | null> {
  const { services, slice, settings, times } = work;
  for (let sample = work.sample; sample <= work.redundancy + samplesBeyondRedundancy; sample++) {
    work.sample = Math.max(work.sample, sample); // other lanes move it, too
    const { items, open } = await claimTasks(
      services,
      slice,
      {
        editor: { kind: 'llm', name: sampleName(settings.model, sample) },
        edit_request_id: formatId('editRequest', slice.requestId),
        lease_seconds: times.leaseSeconds,
      },
      ['llm'],
    );
    if (items[0]) return items[0];
    if (open !== 0) return null; // what is left is held, and may be given back
  }
  return null;
}

async function workOn(work: Work, task: ClaimedTask): Promise<void> {
  const lost = new AbortController();
  const signal = AbortSignal.any([work.stop, lost.signal]);
  work.held.set(task.id, { task, lost });
  let end: 'done' | 'suspect' | 'open';
  try {
    end = await edit(work, task, signal);
  } catch (error) {
    if (!signal.aborted) throw error;
    end = 'open';
  }
  if (end === 'open') await giveBack(work, task);
  if (end !== 'suspect') work.held.delete(task.id);
}

const giveBack = ({ services, slice }: Work, task: ClaimedTask) =>
  unlessLost(releaseTask(services, slice, task.id, task));

/** One question, and where the answer is no edit a second with the reason. */
async function edit(
  work: Work,
  task: ClaimedTask,
  signal: AbortSignal,
): Promise<'done' | 'suspect' | 'open'> {
  const { services, slice } = work;
  const { pair, side } = task;
  const [original, preferred] =
    side === 'a' ? [pair.response_a, pair.response_b] : [pair.response_b, pair.response_a];
  const prompt = work.promptOf({
    prompt: pair.prompt,
    response: original,
    preferred,
    instructions: task.instructions,
  });
  const maxTokens = work.settings.max_tokens ?? usualMaxTokens(original);
  let { messages } = prompt;
  let lastOutput: string | null = null;
  for (let question = 1; ; question++) {
    const answeredBefore = work.answered;
    const outcome = await ask(work, messages, { maxTokens, hasTurn: question === 1, signal });
    if (outcome === null) return 'open';
    if (outcome.kind !== 'answer') {
      const failed = { task, fault: faultOf(outcome), lastOutput };
      if (work.answered === answeredBefore) return suspect(work, failed);
      await fail(work, failed); // others were served meanwhile
      return 'done';
    }
    lastOutput = keptOutput(outcome.choice.content, keptOutputLength);
    await clearSuspects(work);
    const read = readEditAnswer(outcome.choice, {
      original,
      mark: prompt.mark,
      maxLength: maxTextLength,
      policy: work.policy,
    });
    const fault = 'fault' in read ? read.fault : await submit(work, task, read.edited);
    if (fault === null) return 'done';
    await services.db.transaction(slice.projectId, (tx) => db.countRefused(tx, slice));
    if (question === 2) {
      await fail(work, { task, fault, lastOutput });
      return 'done';
    }
    messages = [
      ...messages,
      { role: 'assistant', content: lastOutput?.trim() ? lastOutput : '(nothing)' },
      { role: 'user', content: prompt.again(fault.detail) },
    ];
  }
}

/** A token has two bytes at the least, nearly always; and there is room for a few thoughts. */
const usualMaxTokens = (original: string): number => 1024 + Math.ceil(Buffer.byteLength(original) / 2);

/** null: taken, or the task is not ours any more. */
async function submit({ services, slice }: Work, task: ClaimedTask, edited: string): Promise<Fault | null> {
  const submission = {
    lease_token: task.lease_token,
    edited_response: edited,
    prompt_version: promptVersion,
  };
  try {
    await unlessLost(submitTask(services, slice, task.id, submission));
    return null;
  } catch (error) {
    if (!(error instanceof Problem && error.code === 'edit_refused')) throw error; // the policy has changed
    return { reason: 'not_accepted', detail: error.message };
  }
}

const fail = ({ services, slice }: Work, { task, fault, lastOutput }: Suspect) =>
  unlessLost(
    failTask(services, slice, task.id, {
      lease_token: task.lease_token,
      failure: { ...fault, last_output: lastOutput },
    }),
  );

const faultOf = ({ kind, detail }: Exclude<ChatOutcome, { kind: 'answer' | 'unusable' }>): Fault => ({
  reason: kind === 'refused' ? 'endpoint_refused' : 'endpoint_failed',
  detail,
});

/** Several in a row, and it is the endpoint: their tasks stay open. */
function suspect(work: Work, one: Suspect): 'suspect' {
  work.suspects.push(one);
  if (work.suspects.length >= suspectsInRow) blameEndpoint(work, one);
  return 'suspect';
}

function blameEndpoint(work: Work, { fault: { reason, detail } }: Suspect): void {
  work.ending ??=
    reason === 'endpoint_refused'
      ? { kind: 'stopped', reason: 'endpoint', detail }
      : { kind: 'trouble', detail, restSeconds: 0 };
}

/** The endpoint has answered: what failed before was the fault of its task. */
async function clearSuspects(work: Work): Promise<void> {
  work.answered++;
  for (const one of work.suspects.splice(0)) {
    await fail(work, one);
    work.held.delete(one.task.id);
  }
}

/** Nothing came after them to show whose fault it was: what the endpoint said no to fails, the others stay open. */
async function settleSuspects(work: Work): Promise<void> {
  for (const one of work.suspects.splice(0)) {
    const itsFault = work.ending === null && one.fault.reason === 'endpoint_refused';
    if (itsFault) await fail(work, one);
    else {
      blameEndpoint(work, one);
      await giveBack(work, one.task);
    }
    work.held.delete(one.task.id);
  }
}

interface Question {
  maxTokens: number;
  /** the lane has waited for its turn */
  hasTurn: boolean;
  signal: AbortSignal;
}

/**
 * Asks until there is an answer, four times at most. null: the slice ends, and the task is left to a later one.
 * @throws the reason of the signal
 */
async function ask(
  work: Work,
  messages: ChatMessage[],
  { maxTokens, hasTurn, signal }: Question,
): Promise<Exclude<ChatOutcome, { kind: 'unusable' }> | null> {
  const { pace, times } = work;
  for (let tries = 1; ; tries++) {
    if (tries > 1 || !hasTurn) await sleep(pace.turn(Number.POSITIVE_INFINITY)!, undefined, { signal });
    const outcome = await callWithinBudget(work, messages, { maxTokens, repeats: tries > 1, signal });
    if (outcome === null) return null;
    if (outcome.kind === 'answer') return outcome;
    if (outcome.kind === 'unusable') {
      work.ending ??= { kind: 'stopped', reason: outcome.reason, detail: outcome.detail };
      return null;
    }
    if (outcome.kind === 'refused') {
      if (!outcome.otherLimitName || work.limitName !== 'max_tokens') return outcome;
      work.limitName = 'max_completion_tokens';
      continue;
    }
    const askedForMs = (outcome.retryAfterSeconds ?? 0) * 1000;
    const waitMs = Math.max(askedForMs, times.firstDelayMs * 2 ** (tries - 1)) * (1 + Math.random() / 4);
    pace.pauseUntil(Date.now() + askedForMs); // for all lanes
    if (waitMs > times.longestWaitMs)
      work.ending ??= { kind: 'trouble', detail: outcome.detail, restSeconds: waitMs / 1000 };
    if (work.ending !== null) return null;
    if (tries === triesOfCall) return outcome;
    await sleep(waitMs, undefined, { signal });
  }
}

interface Call {
  maxTokens: number;
  repeats: boolean;
  signal: AbortSignal;
}

/** null: the limits leave no room for the call, and the slice ends. */
async function callWithinBudget(
  work: Work,
  messages: ChatMessage[],
  { maxTokens, repeats, signal }: Call,
): Promise<ChatOutcome | null> {
  // no tokenizer makes more tokens than bytes, and no template adds as many as this
  const bytes = messages.reduce((sum, { content }) => sum + Buffer.byteLength(content) + 16, 64);
  const most = { input: bytes, output: maxTokens };
  const begin = async (): Promise<{ calling: Promise<ChatOutcome> } | null> => {
    const { services, slice, underWay } = work;
    while (
      !(await services.db.transaction(slice.projectId, (tx) => db.reserveCall(tx, slice, { most, repeats })))
    ) {
      if (underWay.size === 0) return null;
      await Promise.race(underWay); // it may cost less than its most
    }
    const calling = callAndSettle(work, messages, most, signal);
    const settled: Promise<unknown> = calling.catch(() => {}).then(() => underWay.delete(settled));
    underWay.add(settled);
    return { calling };
  };
  const begun = work.reserving.then(begin);
  work.reserving = begun.catch(() => {}); // told to its own caller
  const call = await begun;
  if (call !== null) return call.calling;
  if (!(await stillHeld(work))) return null;
  work.ending ??= {
    kind: 'stopped',
    reason: 'budget',
    detail: `The next call may take up to ${most.input} input and ${most.output} output tokens, for which the limits leave no room.`,
  };
  return null;
}

async function callAndSettle(
  work: Work,
  messages: ChatMessage[],
  most: db.Tokens,
  signal: AbortSignal,
): Promise<ChatOutcome> {
  const { services, slice, settings, apiKey, limitName, times } = work;
  let spent = most; // what is broken off may be charged in full
  try {
    const outcome = await callChat(services.outgoing, {
      baseUrl: settings.base_url,
      key: apiKey,
      model: settings.model,
      messages,
      temperature: settings.temperature,
      maxTokens: most.output,
      limitName,
      timeoutMs: times.callTimeoutMs,
      signal,
    });
    if (outcome.kind === 'answer') spent = outcome.usage ?? most;
    else if (!(outcome.kind === 'trouble' && outcome.charged)) spent = { input: 0, output: 0 };
    return outcome;
  } finally {
    await services.db.transaction(slice.projectId, (tx) => db.settleCall(tx, slice, { most, spent }));
  }
}

/** Calls at even distances. */
interface Pace {
  /** Takes the next turn: milliseconds until it comes, or null, and none is taken, when it is not before `endsAt`. */
  turn(endsAt: number): number | null;
  pauseUntil(at: number): void;
  /** milliseconds until the next turn */
  restMs(): number;
}

function paceOf(perMinute: number | null): Pace {
  const distanceMs = perMinute === null ? 0 : 60_000 / perMinute;
  let nextAt = 0;
  return {
    turn(endsAt) {
      const now = Date.now();
      const at = Math.max(now, nextAt);
      if (at >= endsAt) return null;
      nextAt = at + distanceMs;
      return at - now;
    },
    pauseUntil(at) {
      nextAt = Math.max(nextAt, at);
    },
    restMs: () => Math.max(0, nextAt - Date.now()),
  };
}

/** @returns what to log */
async function endSlice(work: Work, troublesBefore: number, shutdown: AbortSignal): Promise<string | null> {
  const { services, slice, times, ending, answered, pace } = work;
  const troubles = ending?.kind === 'trouble' ? (answered > 0 ? 1 : troublesBefore + 1) : 0;
  const restSeconds =
    ending?.kind === 'trouble'
      ? Math.min(
          longestRestSeconds,
          Math.max(
            ending.restSeconds,
            Math.min(longestTroubleSeconds, times.troubleSeconds * 2 ** (troubles - 1)),
          ),
        )
      : answered > 0 || shutdown.aborted
        ? pace.restMs() / 1000
        : times.idleSeconds;
  const stopped =
    ending?.kind === 'stopped'
      ? { reason: ending.reason, detail: ending.detail }
      : troubles >= troublesInRow
        ? { reason: 'endpoint' as const, detail: ending!.detail }
        : null;
  await services.db.transaction(slice.projectId, (tx) =>
    db.endSlice(tx, slice, { restSeconds, troubles, stopped }),
  );
  if (ending === null) return null;
  const what = stopped ? `stopped (${stopped.reason})` : `the endpoint does not serve (${troubles})`;
  return `edit request ${formatId('editRequest', slice.requestId)}: ${what}: ${ending.detail}`;
}
