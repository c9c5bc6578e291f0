import pg from 'pg';
import t from 'tap';
import { createTestDatabase } from '../support/database.ts';

t.test('a connection that breaks within a transaction fails that transaction and nothing else', async (t) => {
  const database = await createTestDatabase(t);
  const db = database.open('finegrain_api');
  const other = new pg.Client({ connectionString: database.superuserUrl });
  await other.connect();
  await t.rejects(
    db.transaction(null, async (tx) => {
      const [own] = await tx.query<{ pid: number }>('select pg_backend_pid() as pid');
      await other.query('select pg_terminate_backend($1)', [own!.pid]);
      await new Promise((resolve) => setTimeout(resolve, 200)); // nobody waits for an answer when it breaks
      await tx.query('select 1');
    }),
    { message: /connection/i },
  );
  await other.end();
  t.same(await db.transaction(null, (tx) => tx.query('select 1 as one')), [{ one: 1 }]);
});

t.test('a process frozen within a transaction keeps its locks for a bounded time', async (t) => {
  const database = await createTestDatabase(t);
  const limit = "select current_setting('idle_in_transaction_session_timeout') as idle";
  t.same(await database.open('finegrain_runner').transaction(null, (tx) => tx.query(limit)), [
    { idle: '15s' },
  ]);
});
