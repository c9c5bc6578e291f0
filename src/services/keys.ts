// API keys and projects. A key is 256 random bits, stored as its hash, shown once. Whether it still lives is decided by
// the clock of the database alone.
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { v7 as uuidv7 } from 'uuid';
import * as db from '../db/keys.ts';
import { sqlState, type Transaction } from '../db/pool.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { notFound, Problem } from '../errors.ts';
import { recordAct } from './audit.ts';
import { type Caller, type Identity, requireScope, type Scope, type Services } from './context.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { checkPrecondition, type Precondition } from './preconditions.ts';

/** The project that the bootstrap key belongs to; migration 0001 makes it. */
export const defaultProjectId = '00000000-0000-7000-8000-000000000000';

/** How long a key and its successor both work, unless the rotation says otherwise. */
export const defaultOverlapSeconds = 24 * 3600;
export const maxOverlapSeconds = 30 * 24 * 3600;

const sha256 = (text: string): Buffer => createHash('sha256').update(text).digest();

export function generateKey(): string {
  return `fg_${randomBytes(32).toString('base64url')}`;
}

/** @throws Problem unauthenticated for a key that is unknown, expired or revoked */
export async function authenticate(
  { db: database }: Services,
  key: string,
  bootstrapKey: string | null,
): Promise<Identity> {
  const hash = sha256(key);
  if (bootstrapKey !== null && timingSafeEqual(hash, sha256(bootstrapKey))) {
    return { projectId: defaultProjectId, keyId: null, scopes: ['admin', 'operator'] };
  }
  const found = await database.transaction(null, (tx) => db.authenticateKey(tx, hash));
  if (!found) throw new Problem('unauthenticated', 'The API key is unknown.');
  if (found.state !== 'active')
    throw new Problem(
      'unauthenticated',
      `The API key ${found.state === 'expired' ? 'expired' : 'was revoked'} at ${found.ended_at!.toISOString()}. Ask an admin of the project for another one.`,
    );
  return { projectId: found.project_id, keyId: found.key_id, scopes: found.scopes };
}

export interface Key {
  id: string;
  name: string;
  scopes: Scope[];
  state: db.KeyState;
  created_at: string;
  expires_at: string | null;
  revoked_at: string | null;
  last_used_at: string | null;
  rotated_from: string | null;
  rotated_to: string | null;
}

/** A key with its secret: the answer is the only place where that is ever seen. */
export type NewKey = Key & { key: string };

function renderKey(row: db.KeyRow): Key {
  return {
    id: formatId('key', row.id),
    name: row.name,
    scopes: row.scopes as Scope[],
    state: row.state,
    created_at: row.created_at.toISOString(),
    expires_at: row.expires_at?.toISOString() ?? null,
    revoked_at: row.revoked_at?.toISOString() ?? null,
    last_used_at: row.last_used_at?.toISOString() ?? null,
    rotated_from: row.rotated_from && formatId('key', row.rotated_from),
    rotated_to: row.rotated_to && formatId('key', row.rotated_to),
  };
}

export interface KeyInput {
  name: string;
  scopes: Scope[];
  /** RFC 3339; it must be in the future. A key may outlive the one that makes it: else none could be renewed in time. */
  expires_at?: string | null;
}

/** @throws Problem missing_scope for a scope that the caller lacks; unprocessable for a time that is over */
export function createKey({ db: database }: Services, caller: Caller, input: KeyInput): Promise<NewKey> {
  return database.transaction(caller.projectId, (tx) => insertKey(tx, caller, input));
}

async function insertKey(tx: Transaction, caller: Caller, input: KeyInput): Promise<NewKey> {
  for (const scope of input.scopes) requireScope(caller, scope);
  const key = generateKey();
  const row = await db.insertKey(tx, {
    projectId: caller.projectId,
    id: uuidv7(),
    name: input.name,
    keySha256: sha256(key),
    scopes: input.scopes,
    expiresAt: input.expires_at == null ? null : readTime(input.expires_at),
  });
  if (!row) throw badExpiry('is not in the future');
  const created = renderKey(row);
  await recordAct(tx, caller, {
    action: 'key.created',
    subject: created.id,
    detail: { name: created.name, scopes: created.scopes, expires_at: created.expires_at },
  });
  return { ...created, key };
}

function readTime(text: string): Date {
  const time = new Date(text);
  if (Number.isNaN(time.getTime())) throw badExpiry('is not a time'); // a leap second, for instance
  return time;
}

function badExpiry(what: string): Problem {
  return new Problem('unprocessable', `The expires_at ${what}. Give a time to come, or leave it out.`, {
    errors: [{ pointer: '/expires_at', detail: what, in: 'body' }],
  });
}

export interface RotatedKey extends NewKey {
  /** when the old key ends */
  previous_expires_at: string;
}

/**
 * Gives a key its successor: same name and scopes, and the same lifetime if it has one. The old key works on for the
 * overlap, and never longer than it would have.
 * @throws Problem not_found; conflict for a key that is expired, revoked or rotated already
 */
export function rotateKey(
  { db: database }: Services,
  caller: Caller,
  id: string,
  overlapSeconds: number = defaultOverlapSeconds,
): Promise<RotatedKey> {
  return database.transaction(caller.projectId, async (tx) => {
    const uuid = parseId('key', id);
    const locked = uuid !== null && (await db.lockKey(tx, uuid));
    const old = locked ? await db.selectKey(tx, uuid) : undefined;
    if (!old) throw notFound('key', id);
    if (old.state !== 'active')
      throw new Problem('conflict', `The key is ${old.state}, so it has no successor. Create a new key.`);
    if (old.rotated_to !== null)
      throw new Problem(
        'conflict',
        `The key was rotated already; its successor is ${formatId('key', old.rotated_to)}. Rotate that one.`,
      );
    for (const scope of old.scopes) requireScope(caller, scope as Scope);
    const key = generateKey();
    const successor = renderKey(
      await db.insertSuccessor(tx, { id: uuidv7(), rotatedFrom: old.id, keySha256: sha256(key) }),
    );
    const previousExpiresAt = (await db.expireKeyIn(tx, old.id, overlapSeconds)).toISOString();
    await recordAct(tx, caller, {
      action: 'key.rotated',
      subject: id,
      detail: { successor: successor.id, expires_at: previousExpiresAt },
    });
    return { ...successor, key, previous_expires_at: previousExpiresAt };
  });
}

export function listKeys(
  { db: database, cursors }: Services,
  caller: Caller,
  request: PageRequest,
): Promise<Page<Key>> {
  return database.transaction(caller.projectId, (tx) =>
    readPage(
      { cursors, tx, projectId: caller.projectId, list: 'keys' },
      request,
      (page) => db.selectKeys(tx, page),
      renderKey,
    ),
  );
}

/** @throws Problem not_found */
export function getKey({ db: database }: Services, caller: Caller, id: string): Promise<Key> {
  return database.transaction(caller.projectId, (tx) => findKey(tx, id));
}

async function findKey(tx: Transaction, id: string): Promise<Key> {
  const uuid = parseId('key', id);
  const row = uuid ? await db.selectKey(tx, uuid) : undefined;
  if (!row) throw notFound('key', id);
  return renderKey(row);
}

export interface CurrentKey {
  /** null for the bootstrap key */
  id: string | null;
  name: string;
  scopes: readonly string[];
  expires_at: string | null;
  project: Project;
}

/** What the caller's own key is and may do. */
export function getCurrentKey({ db: database }: Services, caller: Caller): Promise<CurrentKey> {
  return database.transaction(caller.projectId, async (tx) => {
    const project = renderProject(await db.selectOwnProject(tx));
    if (caller.keyId === null)
      return { id: null, name: 'bootstrap key', scopes: caller.scopes, expires_at: null, project };
    const { id, name, scopes, expires_at } = await findKey(tx, formatId('key', caller.keyId));
    return { id, name, scopes, expires_at, project };
  });
}

/**
 * Revokes a key at once; repeated it changes nothing. The last admin key of a project may go too, as a key that leaked
 * must never stay: the operator then makes another one (createProjectKey).
 * @throws Problem not_found, precondition_failed
 */
export function revokeKey(
  { db: database }: Services,
  caller: Caller,
  id: string,
  condition: Precondition,
): Promise<Key> {
  return database.transaction(caller.projectId, async (tx) => {
    const uuid = parseId('key', id);
    if (uuid !== null) await db.lockKey(tx, uuid);
    checkPrecondition(condition, await findKey(tx, id));
    const revoked = uuid !== null && (await db.revokeKey(tx, uuid));
    const key = await findKey(tx, id);
    if (revoked)
      await recordAct(tx, caller, { action: 'key.revoked', subject: id, detail: { name: key.name } });
    return key;
  });
}

export interface Project {
  id: string;
  name: string;
  created_at: string;
}

const renderProject = (row: db.ProjectRow): Project => ({
  id: formatId('project', row.id),
  name: row.name,
  created_at: row.created_at.toISOString(),
});

/** Makes a project with its first, admin, key. */
export function createProject(
  { db: database }: Services,
  caller: Caller,
  input: { name: string },
): Promise<Project & { key: string }> {
  const key = generateKey();
  return database.transaction(caller.projectId, async (tx) => {
    const project = renderProject(
      await db.createProject(tx, { id: uuidv7(), name: input.name, keyId: uuidv7(), keySha256: sha256(key) }),
    );
    await recordAct(tx, caller, {
      action: 'project.created',
      subject: project.id,
      detail: { name: project.name },
    });
    return { ...project, key };
  });
}

/**
 * An admin key of any project, from the operator: the way back into a project that has none left. The act is recorded
 * in that project's log.
 * @throws Problem not_found
 */
export function createProjectKey(
  { db: database }: Services,
  operator: Caller,
  projectId: string,
  input: { name: string; expires_at?: string | null },
): Promise<NewKey> {
  const missing = new Problem('not_found', `There is no project ${JSON.stringify(projectId)}.`);
  const uuid = parseId('project', projectId);
  if (!uuid) throw missing;
  const caller = { ...operator, projectId: uuid };
  return database
    .transaction(uuid, (tx) => insertKey(tx, caller, { ...input, scopes: ['admin'] }))
    .catch((error) => {
      throw sqlState(error) === foreignKeyViolation ? missing : error;
    });
}

const foreignKeyViolation = '23503';

export function listProjects(
  { db: database, cursors }: Services,
  request: PageRequest,
): Promise<Page<Project>> {
  return database.transaction(null, (tx) =>
    readPage(
      { cursors, tx, projectId: null, list: 'projects' },
      request,
      (page) => db.selectProjects(tx, page),
      renderProject,
    ),
  );
}
