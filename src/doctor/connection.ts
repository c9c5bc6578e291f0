// A connection to a database for one check, and what stands between it and Postgres.
import pg from 'pg';

const limitMs = 5_000;

/** @param url with its password: never in a message */
export async function withClient<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({
    connectionString: url,
    application_name: 'finegrain doctor',
    connectionTimeoutMillis: limitMs,
    query_timeout: limitMs,
  });
  client.on('error', () => {}); // the statement under way fails, or nobody waits any more
  try {
    await client.connect();
    return await work(client);
  } finally {
    void client.end().catch(() => {});
  }
}

export async function row(
  client: pg.Client,
  text: string,
  values: unknown[] = [],
): Promise<pg.QueryResultRow> {
  return (await client.query(text, values)).rows[0]!;
}

/** SQL that says whether the login may take the role on; false also where the role does not exist. */
export const mayActAs = (role: string): string =>
  `coalesce(pg_has_role(to_regrole('${role}'), case when current_setting('server_version_num')::int < 160000 then 'member' else 'set' end), false)`;

/** The URL without its password, for people. */
export function withoutPassword(url: string): string {
  const shown = new URL(url);
  if (shown.password) shown.password = '***';
  if (shown.searchParams.has('password')) shown.searchParams.set('password', '***');
  return shown.href;
}

export type Between = 'nothing' | 'a transaction pooler' | 'a session pooler';

const tries = 10;

/**
 * Postgres tells a client the process id of its server process at the start; a pooler makes up a number. One that pools
 * transactions gives the same server process to two clients that are both connected.
 */
export function whatIsBetween(url: string): Promise<Between> {
  return withClient(url, (one) =>
    withClient(url, async (other) => {
      const serverOf = async (client: pg.Client) => (await row(client, 'select pg_backend_pid() as pid')).pid;
      const told = (one as unknown as { processID: number | null }).processID;
      if ((await serverOf(one)) === told) return 'nothing';
      for (let i = 0; i < tries; i++)
        if ((await serverOf(one)) === (await serverOf(other))) return 'a transaction pooler';
      return 'a session pooler';
    }),
  );
}

/** Whether a notification reaches a client that listens for it, as runners need it. */
export function canListen(url: string): Promise<boolean> {
  const channel = `finegrain_doctor_${process.pid}`;
  return withClient(url, async (listener) => {
    const heard = new Promise<boolean>((resolve) => {
      listener.on('notification', () => resolve(true));
      setTimeout(resolve, limitMs / 2, false).unref();
    });
    await listener.query(`listen ${channel}`);
    await withClient(url, (other) => other.query('select pg_notify($1, $2)', [channel, '']));
    const answer = await heard;
    await listener.query(`unlisten ${channel}`);
    return answer;
  });
}
