// Migrations: numbered SQL files, forward only, each applied once in one transaction under an advisory lock; an
// applied file that was edited afterwards is refused. Also creates the roles, which belong to the whole server.
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import pg from 'pg';

const migrationsFolder = new URL('../../migrations/', import.meta.url);
const advisoryLockKey = 2406_02756;
const roles = [
  'finegrain_owner',
  'finegrain_api',
  'finegrain_system',
  'finegrain_runner',
  'finegrain_scaler',
];

interface Migration {
  version: number;
  name: string;
  sql: string;
  sha256: string;
}

async function readMigrations(): Promise<Migration[]> {
  const names = (await readdir(migrationsFolder)).filter((name) => /^\d{4}_\w+\.sql$/.test(name)).sort();
  return Promise.all(
    names.map(async (name) => {
      const sql = await readFile(new URL(name, migrationsFolder), 'utf8');
      return {
        version: Number(name.slice(0, 4)),
        name,
        sql,
        sha256: createHash('sha256').update(sql).digest('hex'),
      };
    }),
  );
}

/**
 * Brings the database to the newest version and returns the names of the files that were applied.
 * @param url a login that may create roles, or one that belongs to finegrain_owner when the roles exist
 * @throws Error when an applied file was edited, or the database is newer than this program
 */
export async function migrate(url: string): Promise<string[]> {
  const migrations = await readMigrations();
  const client = new pg.Client({ connectionString: url, application_name: 'finegrain migrate' });
  await client.connect();
  try {
    await client.query('begin');
    await client.query('select pg_advisory_xact_lock($1)', [advisoryLockKey]);
    await createRoles(client); // under the lock: grants of two at a time fail
    await client.query('set local role finegrain_owner');
    await client.query('create schema if not exists finegrain_migrations');
    await client.query('grant usage on schema finegrain_migrations to finegrain_api, finegrain_system');
    await client.query(`create table if not exists finegrain_migrations.applied (
      version int primary key, name text not null, sha256 text not null, applied_at timestamptz not null default now())`);
    await client.query('grant select on finegrain_migrations.applied to finegrain_api, finegrain_system');
    const pending = compareMigrations(migrations, await readApplied(client));
    for (const { version, name, sql, sha256 } of pending) {
      await client.query(sql);
      await client.query('set local role finegrain_owner');
      await client.query(
        'insert into finegrain_migrations.applied (version, name, sha256) values ($1, $2, $3)',
        [version, name, sha256],
      );
    }
    await client.query('commit');
    await migrateJobQueue(url);
    return pending.map(({ name }) => name);
  } catch (error) {
    await client.query('rollback');
    throw error;
  } finally {
    await client.end();
  }
}

interface AppliedMigration {
  version: number;
  name: string;
  sha256: string;
}

async function readApplied(client: pg.ClientBase): Promise<AppliedMigration[]> {
  return (
    await client.query('select version, name, sha256 from finegrain_migrations.applied order by version')
  ).rows;
}

function compareMigrations(migrations: Migration[], applied: AppliedMigration[]): Migration[] {
  const known = new Map(migrations.map((migration) => [migration.version, migration]));
  for (const { version, name, sha256 } of applied) {
    const migration = known.get(version);
    if (!migration)
      throw new Error(
        `The database has migration ${name}, which this version of finegrain does not know. Run a newer version.`,
      );
    if (migration.sha256 !== sha256)
      throw new Error(
        `Migration ${name} was edited after it was applied. Restore the file; put changes into a new one.`,
      );
  }
  const done = new Set(applied.map(({ version }) => version));
  return migrations.filter(({ version }) => !done.has(version));
}

let known: Promise<Migration[]> | null = null; // the files of a running program do not change

/**
 * Says how the database differs from this program's migrations and what to do; null when it does not.
 * @throws what `query` throws: a database that cannot be asked is no drift
 */
export async function migrationDrift(
  query: (text: string) => Promise<Record<string, unknown>[]>,
): Promise<string | null> {
  // asked first, as a statement that fails would end the caller's transaction
  const [found] = await query("select to_regclass('finegrain_migrations.applied') is not null as migrated");
  if (!found?.migrated) return 'The database was never migrated: run "finegrain migrate".';
  const applied = (await query(
    'select version, name, sha256 from finegrain_migrations.applied',
  )) as unknown as AppliedMigration[];
  try {
    known ??= readMigrations();
    const pending = compareMigrations(await known, applied);
    return pending.length === 0
      ? null
      : `${pending.length} migration(s) are not applied: run "finegrain migrate".`;
  } catch (error) {
    return (error as Error).message;
  }
}

/** The four roles of DESIGN 8 and the one of autoscalers, without login; the migrating user becomes a member of each. */
async function createRoles(client: pg.ClientBase): Promise<void> {
  for (const role of roles) {
    // another database of the same server may be doing the same
    await client.query(`do $$ begin
        if not exists (select from pg_roles where rolname = '${role}') then create role ${role} nologin; end if;
      exception when duplicate_object or unique_violation then null;
      end $$`);
    // since Postgres 16 who creates a role is a member that may grant it, not one that may act as it
    await client.query(`do $$ begin
        if not pg_has_role(current_user, '${role}', case when current_setting('server_version_num')::int < 160000 then 'member' else 'set' end)
        then execute format('grant ${role} to %I', current_user); end if;
      end $$`);
  }
  const { rows } = await client.query<{ ready: boolean }>(`
    select has_database_privilege('finegrain_owner', current_database(), 'create')
       and has_database_privilege('finegrain_system', current_database(), 'create') as ready`);
  if (!rows[0]?.ready) {
    await client.query(`do $$ begin
        execute format('grant create on database %I to finegrain_owner, finegrain_system', current_database());
      end $$`);
  }
}

// graphile-worker's tables have row-level security without policies: only their owner can work with them
async function migrateJobQueue(url: string): Promise<void> {
  const pool = new pg.Pool({ connectionString: url, max: 1, options: '-c role=finegrain_system' });
  const ignore = () => {}; // a broken connection fails the statement under way, which throws below
  pool.on('error', ignore);
  pool.on('connect', (client) => client.on('error', ignore));
  try {
    const { runMigrations } = await import('graphile-worker'); // not needed to see whether a schema is current
    await runMigrations({ pgPool: pool });
  } finally {
    await pool.end();
  }
}
