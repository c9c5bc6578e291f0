// Goes around the services: what row-level security alone lets each role see and do.
import { randomBytes, randomUUID } from 'node:crypto';
import pg from 'pg';
import t from 'tap';
import { loginUrl } from '../../src/db/logins.ts';
import { openDatabase, sqlState } from '../../src/db/pool.ts';
import { createTestDatabase } from '../support/database.ts';

t.test('tenancy', async (t) => {
  const database = await createTestDatabase(t);
  const api = database.open('finegrain_api');
  const system = database.open('finegrain_system');
  const runner = database.open('finegrain_runner');
  const [one, two] = [randomUUID(), randomUUID()];
  for (const id of [one, two]) {
    await api.transaction(null, (tx) =>
      tx.query('select finegrain.create_project($1, $2, $3, $4)', [id, 'p', randomUUID(), randomBytes(32)]),
    );
  }
  const dataset = randomUUID();
  await api.transaction(one, (tx) =>
    tx.query('insert into finegrain.datasets (project_id, id, name) values ($1, $2, $3)', [
      one,
      dataset,
      'd',
    ]),
  );

  const tables = await system.transaction(null, (tx) =>
    tx.query<{ name: string; enabled: boolean; forced: boolean }>(
      `select relname as name, relrowsecurity as enabled, relforcerowsecurity as forced from pg_class
       where relnamespace = 'finegrain'::regnamespace and relkind = 'r' order by 1`,
    ),
  );

  t.test('every table has forced row-level security, and keys that lead with the project', async (t) => {
    t.ok(tables.length >= 12);
    for (const { name, enabled, forced } of tables) t.ok(enabled && forced, name);
    // of no project: the one row with the secret of cursors, and what the collector of artifacts reads, both hidden from
    // every project; the runners, which serve all of them
    const keys = await system.transaction(null, (tx) =>
      tx.query<{ name: string; definition: string }>(
        `select c.conrelid::regclass::text || '.' || conname as name, pg_get_constraintdef(c.oid) as definition from pg_constraint c
         where connamespace = 'finegrain'::regnamespace and contype in ('p', 'f')
           and conrelid <> all ('{finegrain.projects,finegrain.installation,finegrain.digest_columns,finegrain.runners}'::regclass[])`,
      ),
    );
    for (const { name, definition } of keys) t.match(definition, /KEY \(project_id/, name);
  });

  t.test('without a project nothing is visible, with another one nothing of this one', async (t) => {
    for (const project of [null, two]) {
      for (const { name } of tables) {
        const ofNone = ['installation', 'digest_columns', 'runners'];
        const own =
          name === 'projects'
            ? 'id = $1'
            : ofNone.includes(name)
              ? '$1::uuid is not null'
              : 'project_id = $1';
        const rows = await api
          .transaction(project, (tx) => tx.query(`select from finegrain.${name} where ${own}`, [one]))
          .catch((error) => (sqlState(error) === '42501' ? [] : Promise.reject(error)));
        t.same(rows, [], `${name} seen from ${project ?? 'nowhere'}`);
      }
    }
    const back = await api.transaction(one, (tx) => tx.query('select name from finegrain.datasets'));
    t.same(back, [{ name: 'd' }]);
  });

  t.test('a project cannot write into another, nor point at its rows', async (t) => {
    const refused = async (project: string, sql: string, values: unknown[]) =>
      api
        .transaction(project, (tx) => tx.query(sql, values))
        .then(
          () => 'done',
          (error) => sqlState(error),
        );
    t.equal(
      await refused(two, 'insert into finegrain.datasets (project_id, id, name) values ($1, $2, $3)', [
        one,
        randomUUID(),
        'x',
      ]),
      '42501',
    );
    t.equal(
      await refused(two, "update finegrain.datasets set name = 'stolen' where id = $1", [dataset]),
      'done',
    );
    t.same(
      await api.transaction(one, (tx) => tx.query('select name from finegrain.datasets')),
      [{ name: 'd' }],
      'the update met no row',
    );
    const pair = `insert into finegrain.pairs (project_id, id, dataset_id, prompt, response_a, response_b, identity_sha256, content_sha256)
                  values ($1, $2, $3, '"p"', 'a', 'b', '\\x00', '\\x00')`;
    t.equal(
      await refused(two, pair, [two, randomUUID(), dataset]),
      '23503',
      'foreign keys carry the project',
    );
  });

  t.test('the setting ends with its transaction, so a pooled connection remembers nothing', async (t) => {
    const single = openDatabase(database.urlOf('finegrain_api'), 'finegrain_api', { max: 1 });
    t.teardown(() => single.close());
    t.equal((await single.transaction(one, (tx) => tx.query('select from finegrain.datasets'))).length, 1);
    t.equal((await single.transaction(null, (tx) => tx.query('select from finegrain.datasets'))).length, 0);
    await t.rejects(single.transaction(one, (tx) => tx.query('select 1 / 0')));
    t.equal((await single.transaction(null, (tx) => tx.query('select from finegrain.datasets'))).length, 0);
  });

  t.test('the runner reads no table; the API cannot call what is the runner’s', async (t) => {
    for (const { name } of tables) {
      await t.rejects(
        runner.transaction(one, (tx) => tx.query(`select from finegrain.${name}`)),
        { code: '42501' },
        name,
      );
    }
    const claim = 'select * from finegrain.runner_claim(gen_random_uuid())';
    await t.rejects(
      runner.transaction(null, (tx) => tx.query(claim)),
      { code: 'P0002' },
      'it may call, but nobody has registered it',
    );
    await t.rejects(
      api.transaction(one, (tx) => tx.query(claim)),
      { code: '42501' },
    );
    await t.rejects(
      api.transaction(one, (tx) => tx.query('select finegrain.reap_lost_attempts()')),
      { code: '42501' },
    );
  });

  t.test('each role logs in with a password of its own', async (t) => {
    const url = new URL(loginUrl(database.superuserUrl, 'finegrain_api'));
    url.password = 'wrong';
    const client = new pg.Client({ connectionString: url.href });
    await t.rejects(client.connect(), { code: '28P01' });
  });
});
