// Postgres refuses to run as root. This says under whose name the embedded one runs: our own as a normal user;
// as root the owner of the existing database, else `postgres`, else `nobody`.
import { execFileSync } from 'node:child_process';
import { chownSync, statSync } from 'node:fs';

export interface ServiceUser {
  uid: number;
  gid: number;
}

/**
 * The user to switch to, or null when this process runs Postgres under its own name.
 * Throws when root owns the database: Postgres cannot run on such a folder.
 */
export function serviceUser(pgdata: string): ServiceUser | null {
  if (process.getuid?.() !== 0) return null;
  const owner = statSync(pgdata, { throwIfNoEntry: false });
  if (owner?.uid === 0) {
    throw new Error(
      `The database folder ${pgdata} belongs to root, and Postgres does not run as root. ` +
        `Give it to another user: chown -R postgres '${pgdata}' (or: chown -R nobody '${pgdata}').`,
    );
  }
  if (owner) return { uid: owner.uid, gid: owner.gid };
  const user = lookUp('postgres') ?? lookUp('nobody');
  if (!user) {
    throw new Error(
      'Postgres does not run as root, and this machine has neither a user `postgres` nor `nobody`. ' +
        'Start finegrain as a normal user, or set DATABASE_URL.',
    );
  }
  return user;
}

/** Hands a file that we made to the user who runs Postgres. */
export function giveTo(user: ServiceUser | null, path: string): void {
  if (user) chownSync(path, user.uid, user.gid);
}

function lookUp(name: string): ServiceUser | null {
  const id = (flag: string) =>
    Number(execFileSync('id', [flag, name], { stdio: ['ignore', 'pipe', 'ignore'], encoding: 'utf8' }));
  try {
    return { uid: id('-u'), gid: id('-g') };
  } catch {
    return null; // `id` answers 1 for an unknown name
  }
}
