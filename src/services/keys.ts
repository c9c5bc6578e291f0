// API keys and projects. A key is 256 random bits, stored as its hash, shown once.
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { v7 as uuidv7 } from 'uuid';
import * as db from '../db/keys.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { notFound, Problem } from '../errors.ts';
import type { Caller, Services } from './context.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';

/** The project that the bootstrap key belongs to; migration 0001 makes it. */
export const defaultProjectId = '00000000-0000-7000-8000-000000000000';

const sha256 = (text: string): Buffer => createHash('sha256').update(text).digest();

export function generateKey(): string {
  return `fg_${randomBytes(32).toString('base64url')}`;
}

/** @throws Problem unauthenticated for an unknown or revoked key */
export async function authenticate(
  { db: database }: Services,
  key: string,
  bootstrapKey: string | null,
): Promise<Caller> {
  const hash = sha256(key);
  if (bootstrapKey !== null && timingSafeEqual(hash, sha256(bootstrapKey))) {
    return { projectId: defaultProjectId, keyId: null, scopes: ['admin', 'operator'] };
  }
  const found = await database.transaction(null, (tx) => db.authenticateKey(tx, hash));
  if (!found) throw new Problem('unauthenticated', 'The API key is unknown or revoked.');
  return { projectId: found.project_id, keyId: found.key_id, scopes: found.scopes };
}

export interface Key {
  id: string;
  name: string;
  scopes: string[];
  created_at: string;
  revoked_at: string | null;
}

function renderKey(row: db.KeyRow): Key {
  return {
    id: formatId('key', row.id),
    name: row.name,
    scopes: row.scopes,
    created_at: row.created_at.toISOString(),
    revoked_at: row.revoked_at?.toISOString() ?? null,
  };
}

/** The answer is the only place where the key itself is ever seen. */
export async function createKey(
  { db: database }: Services,
  caller: Caller,
  input: { name: string; scopes: string[] },
): Promise<Key & { key: string }> {
  const key = generateKey();
  const row = await database.transaction(caller.projectId, (tx) =>
    db.insertKey(tx, {
      projectId: caller.projectId,
      id: uuidv7(),
      name: input.name,
      keySha256: sha256(key),
      scopes: input.scopes,
    }),
  );
  return { ...renderKey(row), key };
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

export async function revokeKey({ db: database }: Services, caller: Caller, id: string): Promise<Key> {
  const uuid = parseId('key', id);
  const row = uuid ? await database.transaction(caller.projectId, (tx) => db.revokeKey(tx, uuid)) : undefined;
  if (!row) throw notFound('key', id);
  return renderKey(row);
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
export async function createProject(
  { db: database }: Services,
  input: { name: string },
): Promise<Project & { key: string }> {
  const key = generateKey();
  const row = await database.transaction(null, (tx) =>
    db.createProject(tx, { id: uuidv7(), name: input.name, keyId: uuidv7(), keySha256: sha256(key) }),
  );
  return { ...renderProject(row), key };
}

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
