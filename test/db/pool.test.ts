import { randomUUID } from 'node:crypto';
import pg from 'pg';
import t from 'tap';
import { v7 as uuidv7 } from 'uuid';
import { type Database, joinTransaction, type Transaction } from '../../src/db/pool.ts';
import { createTestDatabase } from '../support/database.ts';

const project = '00000000-0000-7000-8000-000000000000';

async function insertDataset(tx: Transaction, name: string): Promise<void> {
  await tx.query('insert into finegrain.datasets (project_id, id, name) values ($1, $2, $3)', [
    project,
    uuidv7(),
    name,
  ]);
}

const names = (db: Database): Promise<string[]> =>
  db.transaction(project, async (tx) =>
    (await tx.query<{ name: string }>('select name from finegrain.datasets order by id')).map(
      ({ name }) => name,
    ),
  );

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

t.test('a transaction with a failed statement never ends as if it were done', async (t) => {
  const database = await createTestDatabase(t);
  const db = database.open('finegrain_api');
  await t.rejects(
    db.transaction(project, async (tx) => {
      await insertDataset(tx, 'lost');
      await tx.query('select 1 / 0').catch(() => {});
    }),
    { message: /rolled back/ },
  );
  t.same(await names(db), []);
});

t.test('a joined transaction', async (t) => {
  const database = await createTestDatabase(t);
  const db = database.open('finegrain_api');

  t.test('lasts when the outer one commits, and only then', async (t) => {
    const work = async (tx: Transaction) => {
      const inner = joinTransaction(tx, project);
      await inner.transaction(project, (tx) => insertDataset(tx, 'one'));
      await inner.transaction(project, (tx) => insertDataset(tx, 'two'));
      t.same(await names(db), [], 'nobody else sees it yet');
    };
    const fail = async (tx: Transaction) => {
      await work(tx);
      throw new Error('changed my mind');
    };
    await t.rejects(db.transaction(project, fail), { message: 'changed my mind' });
    t.same(await names(db), []);
    await db.transaction(project, work);
    t.same(await names(db), ['one', 'two']);
  });

  t.test('that fails undoes its own work and leaves the outer one whole', async (t) => {
    await db.transaction(project, async (tx) => {
      const inner = joinTransaction(tx, project);
      await t.rejects(
        inner.transaction(project, async (tx) => {
          await insertDataset(tx, 'undone');
          await tx.query('select 1 / 0');
        }),
        { code: '22012' },
      );
      await inner.transaction(project, (tx) => insertDataset(tx, 'three'));
    });
    t.same(await names(db), ['one', 'two', 'three']);
  });

  t.test('is of one project, and one at a time', async (t) => {
    await db.transaction(project, async (tx) => {
      const inner = joinTransaction(tx, project);
      await t.rejects(
        inner.transaction(randomUUID(), async () => {}),
        { message: /was joined for/ },
      );
      await t.rejects(
        inner.transaction(null, async () => {}),
        { message: /was joined for/ },
      );
      await inner.transaction(project, () =>
        t.rejects(
          inner.transaction(project, async () => {}),
          { message: /one thing at a time/ },
        ),
      );
    });
  });
});
