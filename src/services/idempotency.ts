// Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): a request that is sent again under its key has no second
// effect and gets the answer of the first. The answer is stored by the transaction of the effect, so that there is one
// exactly when the effect is there, whenever a process dies. What failed had no effect and stores nothing.
import { setTimeout as sleep } from 'node:timers/promises';
import * as db from '../db/idempotency.ts';
import { type Database, joinTransaction, type Transaction } from '../db/pool.ts';
import { Problem } from '../errors.ts';
import type { Caller, Services } from './context.ts';

export type StoredAnswer = db.StoredAnswer;

/** How long an answer is kept at least. */
export const keptHours = 24;

/** How long an equal request waits for the first one. */
export const waitSeconds = 10;

export interface KeyedRequest {
  key: string;
  /** of method, path, query and canonical body */
  requestSha256: Buffer;
}

interface Done {
  requestSha256: Buffer;
  answer: StoredAnswer;
  replayed: boolean;
}

// Of equal requests to this process one goes to the database; the others wait here for what it finds.
const underWay = new WeakMap<Database, Map<string, Promise<Done>>>();

/**
 * Does the work under the key once per project. `work` must do everything through the services that it is given: their
 * `db` joins the transaction that also stores the answer.
 * @throws Problem idempotency_key_reused when the key belongs to another request; idempotency_key_in_use after
 *   `waitSeconds` of waiting for the first request; and whatever `work` throws
 */
export async function once(
  services: Services,
  caller: Caller,
  request: KeyedRequest,
  work: (services: Services) => Promise<StoredAnswer>,
): Promise<{ answer: StoredAnswer; replayed: boolean }> {
  const deadline = Date.now() + waitSeconds * 1000;
  const here = underWay.get(services.db) ?? new Map<string, Promise<Done>>();
  underWay.set(services.db, here);
  const name = `${caller.projectId} ${request.key}`;
  for (let other = here.get(name); other !== undefined; other = here.get(name)) {
    const late = sleep(Math.max(0, deadline - Date.now()), null, { ref: false });
    const done = await Promise.race([other.catch(() => null), late]); // what failed may be tried again
    if (done) return { answer: sameRequest(done, request).answer, replayed: true };
    if (Date.now() >= deadline) throw keyInUse();
  }
  const doing = askUntil(deadline, services, caller, request, work).finally(() => here.delete(name));
  here.set(name, doing);
  return doing;
}

/** Does the work, or waits while another process does: it asks in short transactions and holds no connection in between. */
async function askUntil(
  deadline: number,
  services: Services,
  caller: Caller,
  request: KeyedRequest,
  work: (services: Services) => Promise<StoredAnswer>,
): Promise<Done> {
  for (let pauseMs = 20; ; pauseMs = Math.min(pauseMs * 1.5, 500)) {
    const done = await services.db.transaction(caller.projectId, async (tx): Promise<Done | null> => {
      const locked = await db.tryLockKey(tx, caller.projectId, request.key);
      const stored = await db.selectAnswer(tx, request.key);
      if (stored) {
        const { request_sha256: requestSha256, ...answer } = stored;
        return sameRequest({ requestSha256, answer, replayed: true }, request);
      }
      if (!locked) return null;
      const answer = await awake(tx, () => work({ ...services, db: joinTransaction(tx, caller.projectId) }));
      await db.insertAnswer(tx, { projectId: caller.projectId, ...request, ...answer });
      return { requestSha256: request.requestSha256, answer, replayed: false };
    });
    if (done) return done;
    if (Date.now() + pauseMs > deadline) throw keyInUse();
    await sleep(pauseMs * (0.5 + Math.random())); // processes apart from each other
  }
}

function sameRequest(done: Done, { requestSha256 }: KeyedRequest): Done {
  if (done.requestSha256.equals(requestSha256)) return done;
  throw new Problem(
    'idempotency_key_reused',
    'This Idempotency-Key was used for a request with another method, path, query or body. Send a new request under a new key.',
  );
}

const keyInUse = (): Problem =>
  new Problem(
    'idempotency_key_in_use',
    `A request with this Idempotency-Key has been under way for more than ${waitSeconds} s. Send yours again later: it gets that answer then.`,
    { retryAfterSeconds: waitSeconds },
  );

const awakeMs = 5000;

/** Work may be long between two statements; the server ends transactions that idle, as those of a frozen process do. */
async function awake<T>(tx: Transaction, work: () => Promise<T>): Promise<T> {
  // a connection that is gone fails the next statement of the work
  const timer = setInterval(() => db.keepAwake(tx).catch(() => {}), awakeMs);
  try {
    return await work();
  } finally {
    clearInterval(timer);
  }
}

/** Forgets answers that have been kept long enough, of all projects; answers how many. @param database of the system role */
export function forgetAnswers(database: Database): Promise<number> {
  return database.transaction(null, (tx) => db.deleteAnswersOlderThan(tx, keptHours));
}
