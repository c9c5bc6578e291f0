import { readFile } from 'node:fs/promises';
import pg from 'pg';
import t from 'tap';
import { describeSchema } from '../../src/db/describe-schema.ts';
import { migrate, migrationDrift } from '../../src/db/migrate.ts';
import { createTestDatabase } from '../support/database.ts';

t.test('migrations', async (t) => {
  const database = await createTestDatabase(t);
  const system = database.open('finegrain_system');
  const drift = () => system.transaction(null, (tx) => migrationDrift((text) => tx.query(text)));

  t.test('are applied once, also by several processes at a time', async (t) => {
    t.same(await Promise.all([1, 2, 3].map(() => migrate(database.superuserUrl))), [[], [], []]);
    t.equal(await drift(), null);
  });

  t.test('migrations/schema.sql is what they make', async (t) => {
    const committed = await readFile('migrations/schema.sql', 'utf8');
    t.ok(
      committed === (await describeSchema(database.superuserUrl)),
      'run `npm run schema` and commit the result',
    );
  });

  t.test('an edited migration is refused, a missing one is reported', async (t) => {
    const owner = async (sql: string) => {
      const client = new pg.Client({ connectionString: database.superuserUrl });
      await client.connect();
      await client.query(sql).finally(() => client.end());
    };
    await owner("update finegrain_migrations.applied set sha256 = 'other' where version = 2");
    await t.rejects(migrate(database.superuserUrl), { message: /0002_preference_data.sql was edited/ });
    t.match(await drift(), /was edited/);
    await owner('delete from finegrain_migrations.applied where version = 3');
    await owner('delete from finegrain_migrations.applied where version = 2');
    t.match(await drift(), /2 migration\(s\) are not applied/);
    await owner("insert into finegrain_migrations.applied values (9999, '9999_future.sql', 'x')");
    await t.rejects(migrate(database.superuserUrl), { message: /does not know/ });
  });
});
