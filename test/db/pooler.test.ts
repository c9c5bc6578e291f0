// What a transaction pooler endangers, on a real pgbouncer before a Postgres of its own: what one client sets must never
// reach the next one on the same server connection, and restarts of either must pass by.
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import t, { type Test } from 'tap';
import { enableLogins, loginUrl } from '../../src/db/logins.ts';
import { migrate } from '../../src/db/migrate.ts';
import { openDatabase, type Transaction } from '../../src/db/pool.ts';
import { startTestPostgres } from '../support/database.ts';
import { pgbouncerProgram, startPgbouncer, throughPooler } from '../support/pgbouncer.ts';

const program = pgbouncerProgram();
const settings = `select pg_backend_pid() as server, current_setting('role') as role,
  coalesce(current_setting('finegrain.project', true), '') as project,
  current_setting('idle_in_transaction_session_timeout') as idle`;
const untouched = { role: 'none', project: '', idle: '0' };

t.test('transaction pooler', { skip: program === null && 'no pgbouncer' }, async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-test-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  let postgres = await startTestPostgres(join(folder, 'postgres'));
  t.teardown(() => postgres.stop());
  await migrate(postgres.superuserUrl);
  await enableLogins(postgres.superuserUrl);

  /** A pooler with this many server connections; answers the URL of the API through it. */
  const pool = async (t: Test, poolSize: number) => {
    const options = { superuserUrl: postgres.superuserUrl, folder: join(folder, randomUUID()), poolSize };
    const pooler = await startPgbouncer(program!, options);
    t.teardown(() => pooler.stop());
    return { pooler, url: throughPooler(loginUrl(postgres.superuserUrl, 'finegrain_api'), pooler.address) };
  };
  const open = (t: Test, url: string, max: number) => {
    const db = openDatabase(url, 'finegrain_api', { max });
    t.teardown(() => db.close());
    return db;
  };

  t.test('one server connection, many clients: nobody sees what another one set', async (t) => {
    const { url } = await pool(t, 1);
    const [first, second] = [open(t, url, 1), open(t, url, 1)];
    const stranger = new pg.Client({ connectionString: url });
    await stranger.connect();
    t.teardown(() => stranger.end());
    const seen = async () => (await stranger.query(settings)).rows[0];
    const { server, ...before } = await seen();
    t.same(before, untouched);

    const project = randomUUID();
    const inside = (tx: Transaction) => tx.query(settings);
    const own = { server, role: 'finegrain_api', project, idle: '15s' };
    t.same(await first.transaction(project, inside), [own]);
    t.same(await seen(), { server, ...untouched }, 'after a commit');
    t.same(await second.transaction(null, inside), [{ ...own, project: '' }], 'the next transaction');
    await t.rejects(first.transaction(project, (tx) => tx.query('select 1 / 0')));
    t.same(await seen(), { server, ...untouched }, 'after an error');
    await t.rejects(
      first.transaction(project, async (tx) => {
        await tx.query("set session statement_timeout = '1ms'");
        throw new Error('changed my mind');
      }),
      { message: 'changed my mind' },
    );
    t.equal((await stranger.query('show statement_timeout')).rows[0].statement_timeout, '0', 'rolled back');

    const leaver = new pg.Client({ connectionString: url });
    leaver.on('error', () => {});
    await leaver.connect();
    await leaver.query('begin');
    await leaver.query("select set_config('finegrain.project', $1, true)", [project]);
    (leaver as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
    t.match(await seen(), untouched, 'after a client that vanished within its transaction');
  });

  t.test('100 transactions at once share 5 server connections, each within its own project', async (t) => {
    const { url } = await pool(t, 5);
    const db = open(t, url, 100);
    const projects = Array.from({ length: 100 }, () => randomUUID());
    const servers = new Set<unknown>();
    await Promise.all(
      projects.map(async (project) => {
        await db.transaction(null, (tx) =>
          tx.query('select finegrain.create_project($1, $2, $3, $4)', [
            project,
            project,
            randomUUID(),
            randomBytes(32),
          ]),
        );
        const visible = await db.transaction(project, async (tx) => {
          servers.add((await tx.query(settings))[0]!.server);
          await tx.query('insert into finegrain.datasets (project_id, id, name) values ($1, $2, $3)', [
            project,
            randomUUID(),
            project,
          ]);
          return tx.query('select name from finegrain.datasets');
        });
        t.same(visible, [{ name: project }]);
      }),
    );
    t.ok(servers.size >= 2 && servers.size <= 5, `${servers.size} server connections`);
  });

  /** Transactions one after another in each of 20 clients while `trouble` goes on, and until all of them work again. */
  const workThrough = async (t: Test, url: string, trouble: () => Promise<void>) => {
    const db = open(t, url, 20);
    const failures: Error[] = [];
    const wrong: unknown[] = [];
    const waits: number[] = [];
    let done = 0;
    let over = false;
    const client = async (): Promise<void> => {
      const project = randomUUID();
      for (let afterwards = 0; afterwards < 5; ) {
        const started = performance.now();
        try {
          const [row] = await db.transaction(project, (tx) => tx.query(settings));
          if (row?.role !== 'finegrain_api' || row.project !== project) wrong.push(row);
          done += 1;
          if (over) afterwards += 1;
        } catch (error) {
          failures.push(error as Error);
          await sleep(50);
        }
        waits.push(performance.now() - started);
      }
    };
    const clients = Promise.all(Array.from({ length: 20 }, client));
    while (done < 100) await sleep(20);
    await trouble();
    over = true;
    await clients;
    t.same(wrong, [], 'each saw its own settings');
    t.ok(failures.length > 0, 'somebody noticed');
    t.ok(Math.max(...waits) < 10_000, `nobody waited longer than ${Math.round(Math.max(...waits))} ms`);
    return [...new Set(failures.map(({ message }) => message))];
  };

  t.test('a restart of Postgres under load: transactions fail, then all clients go on', async (t) => {
    const { url } = await pool(t, 5);
    t.comment(
      await workThrough(t, url, async () => {
        await postgres.stop();
        await sleep(500);
        postgres = await startTestPostgres(join(folder, 'postgres'), postgres.port);
      }),
    );
  });

  t.test('a restart of pgbouncer under load: transactions fail, then all clients go on', async (t) => {
    const { url, pooler } = await pool(t, 5);
    t.comment(await workThrough(t, url, pooler.restart));
  });
});
