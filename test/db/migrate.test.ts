import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import t from 'tap';
import { describeSchema } from '../../src/db/describe-schema.ts';
import { migrate, migrationDrift } from '../../src/db/migrate.ts';
import { openDatabase } from '../../src/db/pool.ts';
import { createTestDatabase, startTestPostgres } from '../support/database.ts';

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

t.test('a login that owns the database and may create roles is enough', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-test-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const server = await startTestPostgres(join(folder, 'postgres'));
  t.teardown(() => server.stop());
  const query = async (url: string, sql: string) => {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    await client.query(sql).finally(() => client.end());
  };
  const urlOf = (login: string): string =>
    Object.assign(new URL(server.superuserUrl), { username: login, password: 'secret', pathname: '/mine' })
      .href;
  await query(server.superuserUrl, "create role admin login createrole password 'secret'");
  await query(server.superuserUrl, 'create database mine owner admin');

  const applied = await Promise.all([1, 2, 3].map(() => migrate(urlOf('admin'))));
  t.same(
    applied.map(({ length }) => length > 0).sort(),
    [false, false, true],
    'once, by one of three at a time',
  );
  t.same(await migrate(urlOf('admin')), [], 'and once more');
  for (const role of ['finegrain_api', 'finegrain_system', 'finegrain_runner'] as const) {
    const login = `my_${role}`;
    await query(urlOf('admin'), `create role ${login} login password 'secret' in role ${role}`);
    const database = openDatabase(urlOf(login), role);
    t.teardown(() => database.close());
    const [row] = await database.transaction(null, (tx) => tx.query('select current_user::text as role'));
    t.equal(row?.role, role);
  }
});
