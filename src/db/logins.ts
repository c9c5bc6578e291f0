// Logins: each process connects as its own role. On the embedded Postgres with a password derived from the superuser's, so
// that a second start arrives at the same one; elsewhere with what the URL of the process says.
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

const roleOf = {
  api: 'finegrain_api',
  worker: 'finegrain_system',
  runner: 'finegrain_runner',
  scaler: 'finegrain_scaler',
};

export type Process = keyof typeof roleOf;

export const processes = Object.keys(roleOf) as Process[];

/**
 * Makes the login of each URL a member of the role of its process, with the URL's password: a new login, or one that is
 * there. All or none.
 * @param adminUrl a login that may create roles and has run the migrations
 */
export async function makeLogins(adminUrl: string, urls: [process: Process, url: string][]): Promise<void> {
  const client = new pg.Client({ connectionString: adminUrl });
  await client.connect();
  try {
    await client.query('begin');
    for (const [process, url] of urls) {
      const { username, password } = new URL(url);
      if (username === '' || password === '')
        throw new Error(`The URL of the ${process} needs a login and a password.`);
      await makeLogin(client, decodeURIComponent(username), decodeURIComponent(password), roleOf[process]);
    }
    await client.query('commit');
  } finally {
    await client.end();
  }
}

async function makeLogin(client: pg.Client, name: string, password: string, role: string): Promise<void> {
  const { rows } = await client.query<{ privileged: boolean }>(
    `select rolsuper or rolcreaterole or rolcreatedb or rolbypassrls or rolreplication or rolname = current_user as privileged
     from pg_roles where rolname = $1`,
    [name],
  );
  if (rows[0]?.privileged)
    throw new Error(`${name} may do more than a process should: name another login for ${role}.`);
  const login = client.escapeIdentifier(name);
  await client.query(
    `${rows.length === 0 ? 'create' : 'alter'} role ${login} login password ${client.escapeLiteral(password)}`,
  );
  await client.query(`grant ${role} to ${login}`);
}
