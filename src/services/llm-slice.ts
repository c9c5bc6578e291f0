// A language model behind a chat endpoint at work, item by item, for a slice of time under a lease (migration 0018): so that a
// job is short, what is cancelled stops within a heartbeat, and a worker that dies costs leases and nothing else. Calls keep
// to a pace and a budget; whose fault a failed one was, its item's or the endpoint's, shows when the others are served.
import { setMaxListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import * as db from '../db/llm-work.ts';
import type { Transaction } from '../db/pool.ts';
import { type ChatChoice, type Fault, keptOutput } from '../domain/chat-answers.ts';
import { type ChatCall, type ChatMessage, type ChatOutcome, callChat } from './chat-endpoint.ts';
import type { Services } from './context.ts';
import type { LlmSettings, StopReason } from './llm-work.ts';
import { readKey } from './secrets.ts';

export type LlmServices = Pick<Services, 'db' | 'secretKeys' | 'outgoing'>;

export interface Times {
  /** no item is begun after it; those under way are brought to their end */
  sliceMs: number;
  heartbeatMs: number;
  /** of the slice and of its items; renewed by each heartbeat */
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

/** What there is to do, item by item. */
export interface Workload {
  /** for the log */
  name: string;
  /** The next item, under a lease of `leaseSeconds`; null when there is none to have now. */
  claim(): Promise<Item | null>;
  /** Whether a further slice has something to do. */
  isLeft(tx: Transaction): Promise<boolean>;
}

/** An item under a lease, and what is asked for it. Where the lease was lost, whatever is told here changes nothing. */
export interface Item {
  messages: ChatMessage[];
  maxTokens: number;
  topLogprobs: number | null;
  /** Takes the answer, or says why it cannot be taken. */
  take(choice: ChatChoice): Promise<Fault | null>;
  /** What is said after an answer that cannot be taken. */
  again(fault: string): string;
  /** False: the lease is lost, and what is done for the item is in vain. */
  renew(): Promise<boolean>;
  giveBack(): Promise<unknown>;
  /** Gives the item up. */
  fail(failure: Failure): Promise<unknown>;
}

export interface Failure {
  fault: Fault;
  /** the model's last answer; null when it gave none */
  lastOutput: string | null;
}

export const usualTimes: Times = {
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
const suspectsInRow = 3; // calls that failed one after the other: it is the endpoint, not their items
const keptOutputLength = 200_000;

/** Why the slice takes no further item. */
type Ending =
  | { kind: 'stopped'; reason: StopReason; detail: string }
  | { kind: 'trouble'; detail: string; restSeconds: number };

/** An item whose call failed: of its own fault if others succeed. */
interface Suspect extends Failure {
  item: Item;
}

interface Work {
  services: LlmServices;
  slice: db.Slice;
  settings: LlmSettings;
  load: Workload;
  apiKey: string | null;
  times: Times;
  /** the work was cancelled, the slice lost, or the worker is to stop: nothing is brought to its end */
  stop: AbortSignal;
  abort: AbortController;
  pace: Pace;
  /** what is aborted when its lease is lost */
  held: Map<Item, AbortController>;
  suspects: Suspect[];
  ending: Ending | null;
  answered: number;
  limitName: ChatCall['limitName'];
  /** calls that hold a reservation; they never reject */
  underWay: Set<Promise<unknown>>;
  /** of the reservation before; one at a time */
  reserving: Promise<unknown>;
}

export interface Begun<Settings extends LlmSettings = LlmSettings> {
  slice: db.Slice;
  settings: Settings;
  times: Times;
}

/**
 * Works for a slice of time on what is due. Safe to call at any time, by several workers at once.
 * @param open what there is to do
 * @returns what to log, null when there is nothing
 */
export async function workSlice<Settings extends LlmSettings>(
  services: LlmServices,
  key: db.LlmWorkKey,
  open: (begun: Begun<Settings>) => Promise<Workload>,
  signal: AbortSignal,
  times: Times,
): Promise<string | null> {
  const begun = await services.db.transaction(key.projectId, (tx) =>
    db.beginSlice(tx, key, times.leaseSeconds),
  );
  if (!begun) return null;
  const slice = { ...key, fence: begun.fence };
  const settings = begun.settings as Settings;
  const load = await open({ slice, settings, times });
  const { apiKey, ending } = await readApiKey(services, key.projectId, settings.secret);
  const abort = new AbortController();
  const work: Work = {
    services,
    slice,
    settings,
    load,
    apiKey,
    times,
    stop: AbortSignal.any([abort.signal, signal]),
    abort,
    pace: paceOf(settings.requests_per_minute),
    held: new Map(),
    suspects: [],
    ending,
    answered: 0,
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
  const { times, held } = work;
  for (;;) {
    await sleep(times.heartbeatMs, undefined, { signal: done }).catch(() => {}); // done: there is nothing left to hold
    if (done.aborted || work.stop.aborted) return;
    if (!(await stillHeld(work))) return;
    for (const [item, lost] of held) if (!(await item.renew())) lost.abort();
  }
}

/** Renews the lease of the slice; where another has taken over, or the work is cancelled, all that is under way is broken off. */
async function stillHeld({ services, slice, times, abort }: Work): Promise<boolean> {
  const held = await services.db.transaction(slice.projectId, (tx) =>
    db.renewSlice(tx, slice, times.leaseSeconds),
  );
  if (!held) abort.abort();
  return held;
}

async function lane(work: Work, endsAt: number): Promise<void> {
  // suspects wait for the next item to show whose fault it was
  const goesOn = () =>
    work.ending === null && !work.stop.aborted && (Date.now() < endsAt || work.suspects.length > 0);
  while (goesOn()) {
    const waitMs = work.pace.turn(work.suspects.length > 0 ? Number.POSITIVE_INFINITY : endsAt);
    if (waitMs === null) return;
    await sleep(waitMs, undefined, { signal: work.stop }).catch(() => {}); // looked at next
    if (work.ending !== null || work.stop.aborted) return;
    const item = await work.load.claim();
    if (item === null) return;
    await workOn(work, item);
  }
}

async function workOn(work: Work, item: Item): Promise<void> {
  const lost = new AbortController();
  const signal = AbortSignal.any([work.stop, lost.signal]);
  work.held.set(item, lost);
  let end: 'done' | 'suspect' | 'open';
  try {
    end = await askAndTake(work, item, signal);
  } catch (error) {
    if (!signal.aborted) throw error;
    end = 'open';
  }
  if (end === 'open') await item.giveBack();
  if (end !== 'suspect') work.held.delete(item);
}

/** One question, and where the answer cannot be taken a second with the reason. */
async function askAndTake(work: Work, item: Item, signal: AbortSignal): Promise<'done' | 'suspect' | 'open'> {
  const { services, slice } = work;
  let { messages } = item;
  let lastOutput: string | null = null;
  for (let round = 1; ; round++) {
    const answeredBefore = work.answered;
    const outcome = await ask(work, { ...item, messages }, { hasTurn: round === 1, signal });
    if (outcome === null) return 'open';
    if (outcome.kind !== 'answer') {
      const failure = { fault: endpointFault(outcome), lastOutput };
      if (work.answered === answeredBefore) return suspect(work, { item, ...failure });
      await item.fail(failure); // others were served meanwhile
      return 'done';
    }
    lastOutput = keptOutput(outcome.choice.content, keptOutputLength);
    await clearSuspects(work);
    const fault = await item.take(outcome.choice);
    if (fault === null) return 'done';
    await services.db.transaction(slice.projectId, (tx) => db.countRefused(tx, slice));
    if (round === 2) {
      await item.fail({ fault, lastOutput });
      return 'done';
    }
    messages = [
      ...messages,
      { role: 'assistant', content: lastOutput?.trim() ? lastOutput : '(nothing)' },
      { role: 'user', content: item.again(fault.detail) },
    ];
  }
}

/** Why an item is given up whose call did not come to an answer. */
const endpointReasons = { refused: 'endpoint_refused', trouble: 'endpoint_failed' } as const;

export const isEndpointReason = (reason: string): boolean =>
  Object.values<string>(endpointReasons).includes(reason);

const endpointFault = ({ kind, detail }: { kind: 'trouble' | 'refused'; detail: string }): Fault => ({
  reason: endpointReasons[kind],
  detail,
});

/** Several in a row, and it is the endpoint: their items stay open. */
function suspect(work: Work, one: Suspect): 'suspect' {
  work.suspects.push(one);
  if (work.suspects.length >= suspectsInRow) blameEndpoint(work, one);
  return 'suspect';
}

function blameEndpoint(work: Work, { fault: { reason, detail } }: Failure): void {
  work.ending ??=
    reason === 'endpoint_refused'
      ? { kind: 'stopped', reason: 'endpoint', detail }
      : { kind: 'trouble', detail, restSeconds: 0 };
}

/** The endpoint has answered: what failed before was the fault of its item. */
async function clearSuspects(work: Work): Promise<void> {
  work.answered++;
  for (const one of work.suspects.splice(0)) {
    await one.item.fail(one);
    work.held.delete(one.item);
  }
}

/** Nothing came after them to show whose fault it was: what the endpoint said no to fails, the others stay open. */
async function settleSuspects(work: Work): Promise<void> {
  for (const one of work.suspects.splice(0)) {
    const itsFault = work.ending === null && one.fault.reason === 'endpoint_refused';
    if (itsFault) await one.item.fail(one);
    else {
      blameEndpoint(work, one);
      await one.item.giveBack();
    }
    work.held.delete(one.item);
  }
}

type Asked = Pick<Item, 'messages' | 'maxTokens' | 'topLogprobs'>;

interface Trying {
  /** the lane has waited for its turn */
  hasTurn: boolean;
  signal: AbortSignal;
}

/**
 * Asks until there is an answer, four times at most. null: the slice ends, and the item is left to a later one.
 * @throws the reason of the signal
 */
async function ask(
  work: Work,
  asked: Asked,
  { hasTurn, signal }: Trying,
): Promise<Exclude<ChatOutcome, { kind: 'unusable' }> | null> {
  const { pace, times } = work;
  for (let tries = 1; ; tries++) {
    if (tries > 1 || !hasTurn) await sleep(pace.turn(Number.POSITIVE_INFINITY)!, undefined, { signal });
    const outcome = await callWithinBudget(work, asked, { repeats: tries > 1, signal });
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
  repeats: boolean;
  signal: AbortSignal;
}

/** null: the limits leave no room for the call, and the slice ends. */
async function callWithinBudget(
  work: Work,
  asked: Asked,
  { repeats, signal }: Call,
): Promise<ChatOutcome | null> {
  // no tokenizer makes more tokens than bytes, and no template adds as many as this
  const bytes = asked.messages.reduce((sum, { content }) => sum + Buffer.byteLength(content) + 16, 64);
  const most = { input: bytes, output: asked.maxTokens };
  const begin = async (): Promise<{ calling: Promise<ChatOutcome> } | null> => {
    const { services, slice, underWay } = work;
    while (
      !(await services.db.transaction(slice.projectId, (tx) => db.reserveCall(tx, slice, { most, repeats })))
    ) {
      if (underWay.size === 0) return null;
      await Promise.race(underWay); // it may cost less than its most
    }
    const calling = callAndSettle(work, asked, most, signal);
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
  { messages, topLogprobs }: Asked,
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
      topLogprobs,
      limitName,
      timeoutMs: times.callTimeoutMs,
      signal,
    });
    if (outcome.kind === 'answer') spent = outcome.usage ?? most;
    else if (!('charged' in outcome && outcome.charged)) spent = { input: 0, output: 0 };
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
  const { services, slice, load, times, ending, answered, pace } = work;
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
  await services.db.transaction(slice.projectId, async (tx) => {
    if (!(await db.lockSlice(tx, slice))) return;
    const goesOn = stopped === null && (await load.isLeft(tx));
    await db.endSlice(tx, slice, { restSeconds: goesOn ? restSeconds : null, troubles, stopped });
  });
  if (ending === null) return null;
  const what = stopped ? `stopped (${stopped.reason})` : `the endpoint does not serve (${troubles})`;
  return `${load.name}: ${what}: ${ending.detail}`;
}
