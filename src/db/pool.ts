// Connections and transactions. Every transaction takes one of the four roles and, for the API, one project, in its
// first statement; nothing outlives the transaction, so a transaction pooler may stand in between (DESIGN 8, 9).
import pg from 'pg';

export type DatabaseRole = 'finegrain_api' | 'finegrain_system' | 'finegrain_runner';

/** One open transaction. Statements are unnamed, and their parameters no part of the text. */
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

/** In one message, a quarter less of what a transaction of one statement costs; so the values stand in the text. */
const beginAs = (role: DatabaseRole, projectId: string | null): string =>
  `begin; select set_config('role', ${pg.escapeLiteral(role)}, true),
                 set_config('finegrain.project', ${pg.escapeLiteral(projectId ?? '')}, true),
                 set_config('idle_in_transaction_session_timeout', '${idleLimit}', true)`;

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
        await client.query(beginAs(role, projectId));
        const result = await work({ query: async (text, values) => (await client.query(text, values)).rows });
        // after a failed statement Postgres answers a commit with a rollback, and calls that no error
        const { command } = await client.query('commit');
        if (command !== 'COMMIT') throw new Error('The transaction had failed and was rolled back.');
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

/**
 * A `Database` within an open transaction: what is done through it lasts when that one commits, and only then. Its
 * transactions are savepoints of the same project, one at a time; closing it does nothing.
 */
export function joinTransaction(tx: Transaction, projectId: string): Database {
  let busy = false;
  return {
    async transaction(innerProjectId, work) {
      if (innerProjectId !== projectId)
        throw new Error(`A transaction of the project ${projectId} was joined for ${innerProjectId}.`);
      if (busy) throw new Error('A joined transaction does one thing at a time.');
      busy = true;
      try {
        await tx.query('savepoint joined');
        const result = await work(tx);
        await tx.query('release savepoint joined');
        return result;
      } catch (error) {
        // where even this fails, every later statement does, and with them the outer transaction
        await tx.query('rollback to savepoint joined').catch(() => {});
        throw error;
      } finally {
        busy = false;
      }
    },
    close: async () => {},
  };
}

/** SQLSTATE of a database error, or undefined for any other error. */
export function sqlState(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined;
}
