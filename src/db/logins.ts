// Logins of the embedded Postgres: each process connects as its own role, with a password derived from the
// superuser's, so that a second start arrives at the same one.
import { createHmac } from 'node:crypto';
import pg from 'pg';
import type { DatabaseRole } from './pool.ts';

const roles: DatabaseRole[] = ['finegrain_api', 'finegrain_system', 'finegrain_runner'];

function passwordOf(role: DatabaseRole, superuserUrl: string): string {
  return createHmac('sha256', decodeURIComponent(new URL(superuserUrl).password))
    .update(role)
    .digest('hex');
}

/** The URL under which a role logs in, once `enableLogins` has run. */
export function loginUrl(superuserUrl: string, role: DatabaseRole): string {
  const url = new URL(superuserUrl);
  url.username = role;
  url.password = passwordOf(role, superuserUrl);
  return url.href;
}

/** Lets each role log in with its derived password. */
export async function enableLogins(superuserUrl: string): Promise<void> {
  const client = new pg.Client({ connectionString: superuserUrl });
  await client.connect();
  try {
    // hex needs no quoting; a statement of this kind takes no parameters
    for (const role of roles)
      await client.query(`alter role ${role} login password '${passwordOf(role, superuserUrl)}'`);
  } finally {
    await client.end();
  }
}
