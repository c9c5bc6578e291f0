// A database of its own for each test file, cloned from a migrated template on the test run's Postgres.
// FINEGRAIN_TEST_POOLER (host:port): the API reaches it through that transaction pooler, everything else directly.
import { createHash, randomUUID } from 'node:crypto';
import { chmod, readdir, readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import pg from 'pg';
import type { Test } from 'tap';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/db/embedded-postgres.ts';
import { enableLogins, loginUrl } from '../../src/db/logins.ts';
import { migrate } from '../../src/db/migrate.ts';
import { type DatabaseRole, openDatabase, type PooledDatabase } from '../../src/db/pool.ts';
import { throughPooler } from './pgbouncer.ts';

export interface TestDatabase {
  /** never through the pooler */
  superuserUrl: string;
  urlOf(role: DatabaseRole): string;
  /** Opened once per role and closed after the test. */
  open(role: DatabaseRole): PooledDatabase;
}

/** Clones the template; the clone is dropped when the test ends. */
export async function createTestDatabase(t: Test): Promise<TestDatabase> {
  const server = await testServerUrl(t);
  const template = await ensureTemplate(server);
  const name = `test_${randomUUID().replaceAll('-', '')}`;
  await administer(server, (client) => client.query(`create database ${name} template ${template}`));
  const superuserUrl = databaseUrl(server, name);
  const opened: PooledDatabase[] = [];
  const urlOf = (role: DatabaseRole): string => {
    const direct = loginUrl(superuserUrl, role);
    const pooler = process.env.FINEGRAIN_TEST_POOLER;
    return pooler && role === 'finegrain_api' ? throughPooler(direct, pooler) : direct;
  };
  t.teardown(async () => {
    await Promise.all(opened.map((database) => database.close()));
    await administer(server, (client) => client.query(`drop database ${name} with (force)`));
  });
  return {
    superuserUrl,
    urlOf,
    open(role) {
      const database = openDatabase(urlOf(role), role, { max: 5 });
      opened.push(database);
      return database;
    },
  };
}

// test/run.ts starts one server for all files; a file that is run alone brings its own
async function testServerUrl(t: Test): Promise<string> {
  const given = process.env.FINEGRAIN_TEST_DATABASE_URL;
  if (given) return given;
  const postgres = await startTestPostgres(resolve('.finegrain/test-single'));
  t.teardown(() => postgres.stop());
  return postgres.superuserUrl;
}

/**
 * A Postgres of the version that the test run is about (FINEGRAIN_TEST_POSTGRES: a folder of programs), fast and careless.
 * @param dataDir a new folder in one that the test has made
 */
export async function startTestPostgres(
  dataDir: string,
  port?: number,
  settings: Record<string, string> = {},
): Promise<EmbeddedPostgres> {
  if (process.env.FINEGRAIN_TEST_POSTGRES) await chmod(dirname(dataDir), 0o711); // see startedIn
  return startEmbeddedPostgres({
    dataDir,
    log: () => {},
    settings: { fsync: 'off', synchronous_commit: 'off', ...settings },
    binaries: process.env.FINEGRAIN_TEST_POSTGRES,
    ...(port === undefined ? {} : { port }),
  });
}

async function ensureTemplate(server: string): Promise<string> {
  const folder = new URL('../../migrations/', import.meta.url);
  const hash = createHash('sha256');
  for (const file of (await readdir(folder)).filter((name) => /^\d{4}/.test(name)).sort())
    hash.update(await readFile(new URL(file, folder)));
  const template = `template_${hash.digest('hex').slice(0, 16)}`;
  await administer(server, async (client) => {
    await client.query('select pg_advisory_lock(240602756)'); // test files run at the same time
    const { rowCount } = await client.query('select from pg_database where datname = $1 and datistemplate', [
      template,
    ]);
    if (rowCount === 1) return;
    await client.query(`drop database if exists ${template}`);
    await client.query(`create database ${template}`);
    await migrate(databaseUrl(server, template));
    await enableLogins(server);
    await client.query(`alter database ${template} is_template true`);
  });
  return template;
}

async function administer(server: string, work: (client: pg.Client) => Promise<unknown>): Promise<void> {
  const client = new pg.Client({ connectionString: server });
  await client.connect();
  await work(client).finally(() => client.end());
}

function databaseUrl(server: string, name: string): string {
  const url = new URL(server);
  url.pathname = `/${name}`;
  return url.href;
}
