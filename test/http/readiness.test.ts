// /readyz when the database is not this version's: 503, and what to do.
import pg from 'pg';
import t from 'tap';
import { migrate } from '../../src/db/migrate.ts';
import { startTestServer } from '../support/server.ts';

t.test('/readyz and `finegrain migrate` tell how the database differs, and what to do', async (t) => {
  const server = await startTestServer(t);
  const { superuserUrl } = server.database;
  const owner = new pg.Client({ connectionString: superuserUrl });
  await owner.connect();
  t.teardown(() => owner.end());
  const told = async () => {
    const { status, body } = await server.call('GET', '/readyz', { key: null });
    return { status, ready: body.ready, database: body.checks.database.ok, ...body.checks.migrations };
  };
  const notReady = (detail: RegExp) => ({ status: 503, ready: false, database: true, ok: false, detail });
  t.match(await told(), { status: 200, ready: true, ok: true });

  await owner.query("insert into finegrain_migrations.applied values (9999, '9999_future.sql', 'x')");
  const newer = /has migration 9999_future.sql, which this version .* does not know. Run a newer version/;
  t.match(await told(), notReady(newer), 'migrated by a newer version');
  await t.rejects(migrate(superuserUrl), { message: newer });
  await owner.query('delete from finegrain_migrations.applied where version = 9999');

  const { rows } = await owner.query('select sha256 from finegrain_migrations.applied where version = 2');
  await owner.query("update finegrain_migrations.applied set sha256 = 'other' where version = 2");
  const changed =
    /0002_\w+.sql was edited after it was applied. Restore the file; put changes into a new one/;
  t.match(await told(), notReady(changed), 'a file that was changed');
  await t.rejects(migrate(superuserUrl), { message: changed });
  await owner.query('update finegrain_migrations.applied set sha256 = $1 where version = 2', [
    rows[0].sha256,
  ]);

  await owner.query('delete from finegrain_migrations.applied where version > 3');
  t.match(
    await told(),
    notReady(/migration\(s\) are not applied: run "finegrain migrate"/),
    'an older version',
  );
  await owner.query('alter schema finegrain_migrations rename to elsewhere');
  t.match(await told(), notReady(/finegrain migrate/), 'no migration at all');
  await owner.query('alter schema elsewhere rename to finegrain_migrations');
});
