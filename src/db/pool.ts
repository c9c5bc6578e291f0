// Connections and transactions. Every transaction takes one of the four roles and, for the API, one project, in its
// first statement; nothing outlives the transaction, so a transaction pooler may stand in between (DESIGN 8, 9).
import pg from 'pg';

export type DatabaseRole = 'finegrain_api' | 'finegrain_system' | 'finegrain_runner';

/** One open transaction. Statements are unnamed and their parameters are never spliced into the text. */
export interface Transaction {
  query<Row extends pg.QueryResultRow>(text: string, values?: unknown[]): Promise<Row[]>;
}

export interface Database {
  /** Runs `work` in one transaction that sees `projectId` only; null: no project's rows at all. */
  transaction<T>(projectId: string | null, work: (tx: Transaction) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

export interface PooledDatabase extends Database {
  /** connections that are open, open and not in use, and what waits for one */
  connections(): { open: number; idle: number; waiting: number };
}

pg.types.setTypeParser(pg.types.builtins.INT8, Number); // counts and sequence numbers, far below 2^53

// A process that is frozen within a transaction would keep its locks, and so its run, for as long as it sleeps.
const idleLimit = '15s';

/** @param url a login that is, or is a member of, `role` */
export function openDatabase(
  url: string,
  role: DatabaseRole,
  options: { max?: number; onError?: (error: Error) => void } = {},
): PooledDatabase {
  const pool = new pg.Pool({
    connectionString: url,
    max: options.max ?? 10,
    connectionTimeoutMillis: 10_000,
    idleTimeoutMillis: 30_000,
    allowExitOnIdle: true,
    application_name: role,
  });
  // an idle connection that breaks (a restart of the server) is replaced by the pool; without a listener it ends the process
  pool.on('error', (error) => options.onError?.(error));
  // one that breaks between two statements of a transaction: its next statement fails
  pool.on('connect', (client) => client.on('error', () => {}));
  return {
    async transaction(projectId, work) {
      const client = await pool.connect();
      let broken: Error | undefined;
      try {
        await client.query('begin');
        await client.query(
          `select set_config('role', $1, true), set_config('finegrain.project', $2, true),
                  set_config('idle_in_transaction_session_timeout', $3, true)`,
          [role, projectId ?? '', idleLimit],
        );
        const result = await work({ query: async (text, values) => (await client.query(text, values)).rows });
        await client.query('commit');
        return result;
      } catch (error) {
        await client.query('rollback').catch((rollbackError: Error) => {
          broken = rollbackError; // the connection is gone: do not hand it out again
        });
        throw error;
      } finally {
        client.release(broken);
      }
    },
    connections: () => ({ open: pool.totalCount, idle: pool.idleCount, waiting: pool.waitingCount }),
    close: () => pool.end(),
  };
}

/** SQLSTATE of a database error, or undefined for any other error. */
export function sqlState(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined;
}
