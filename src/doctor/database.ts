// Postgres as the API, the migrations, the worker and the runners need it.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type pg from 'pg';
import type { Config } from '../config.ts';
import { superuserUrl } from '../db/embedded/cluster.ts';
import { findPostmaster } from '../db/embedded/postmaster.ts';
import { loginUrl } from '../db/logins.ts';
import { migrationDrift } from '../db/migrate.ts';
import { type Check, type Finding, failed, ok, warning } from './check.ts';
import { canListen, mayActAs, row, whatIsBetween, withClient, withoutPassword } from './connection.ts';
import { checkSecretKey } from './secrets.ts';

const oldestVersion = 15;
const newestVersion = 18;
const skewLimitMs = 2_000;

interface Urls {
  api: string;
  /** null when there is none besides the API's */
  direct: string | null;
}

/** Groups of checks: each rests on its first one. */
export function databaseChecks(config: Config): Check[][] {
  const urls = databaseUrls(config);
  if (!urls) return [[{ name: 'database', run: async () => embeddedDatabase(config) }]];
  const { api, direct } = urls;
  return [
    [
      { name: 'database', run: () => reach(api, 'DATABASE_URL') },
      { name: 'postgres', run: () => withClient(api, checkServer) },
      { name: 'api login', run: () => withClient(api, checkApiLogin) },
      { name: 'migrations', run: () => withClient(api, checkMigrations) },
      {
        name: 'secret key',
        run: () => withClient(direct ?? api, (client) => checkSecretKey(client, config)),
      },
      { name: 'clock', run: () => withClient(api, checkClock) },
      { name: 'pooler', run: () => checkPooler(api, direct) },
      { name: 'worker', run: () => withClient(direct ?? api, checkWorker) },
      { name: 'runner', run: () => withClient(direct ?? api, checkRunner) },
    ],
    direct === null
      ? []
      : [
          { name: 'direct database', run: () => reach(direct, 'DATABASE_DIRECT_URL') },
          { name: 'direct route', run: () => checkDirect(api, direct) },
          { name: 'direct login', run: () => withClient(direct, checkDirectLogin) },
        ],
  ];
}

/** Null while the embedded Postgres does not run. */
function databaseUrls({ databaseUrl, databaseDirectUrl, dataDir }: Config): Urls | null {
  if (databaseUrl !== null)
    return { api: databaseUrl, direct: databaseDirectUrl === databaseUrl ? null : databaseDirectUrl };
  const pgdata = join(dataDir, 'postgres', 'pgdata');
  const server = findPostmaster(pgdata);
  if (!server?.ready) return null;
  const url = superuserUrl(pgdata, server.port);
  return { api: loginUrl(url, 'finegrain_api'), direct: loginUrl(url, 'finegrain_system') };
}

function embeddedDatabase({ dataDir }: Config): Finding {
  const made = existsSync(join(dataDir, 'postgres', 'pgdata'));
  return ok(
    `no DATABASE_URL: the embedded Postgres, which ${made ? 'does not run now' : 'is made at the first start'}; npm start starts it`,
  );
}

async function reach(url: string, variable: string): Promise<Finding> {
  if (!/^postgres(ql)?:/.test(url) || !URL.canParse(url))
    return failed(
      `${variable} is no URL of a Postgres`,
      'Write postgres://LOGIN:PASSWORD@HOST:PORT/DATABASE, with / ? # % @ : of the password as %2F %3F %23 %25 %40 %3A.',
    );
  const started = performance.now();
  try {
    await withClient(url, (client) => client.query('select'));
    return ok(`${withoutPassword(url)} answers in ${Math.round(performance.now() - started)} ms`);
  } catch (error) {
    const { code, message } = error as Error & { code?: string };
    return failed(`${withoutPassword(url)}: ${message || code}`, connectionAdvice(code, message, variable));
  }
}

/** @param code of the system or of Postgres */
function connectionAdvice(code: string | undefined, message: string, variable: string): string {
  if (code === 'ECONNREFUSED')
    return `Start Postgres, or correct host and port of ${variable}; listen_addresses must include that host.`;
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN')
    return `Correct the host of ${variable}, or the name service of this machine.`;
  if (code === '28P01' || /SASL|password|no such user/i.test(message))
    return `Correct login or password in ${variable}: alter role LOGIN password '…' sets a new one; a pooler keeps its own list.`;
  if (code === '28000')
    return 'Let the login in: it must exist with LOGIN, and pg_hba.conf must allow it from here (sslmode may matter).';
  if (code === '3D000') return `Create the database, or correct its name in ${variable}.`;
  if (code === '53300') return 'Raise max_connections of Postgres, or put a transaction pooler before it.';
  if (/SSL|certificate/i.test(message)) return `Set sslmode in ${variable} to what the server has.`;
  return `Look at the log of Postgres, and at firewalls on the way; ${variable} names host and port.`;
}

async function checkServer(client: pg.Client): Promise<Finding> {
  const { version, replica } = await row(
    client,
    `select current_setting('server_version_num')::int / 10000 as version, pg_is_in_recovery() as replica`,
  );
  const detail = `Postgres ${version}`;
  if (replica)
    return failed(`${detail}, a replica that takes no writes`, 'Point DATABASE_URL at the primary.');
  if (version < oldestVersion) return failed(detail, `Upgrade to Postgres ${newestVersion}.`);
  if (version > newestVersion)
    return warning(detail, `finegrain is tested with ${oldestVersion} to ${newestVersion}.`);
  return ok(detail);
}

async function checkApiLogin(client: pg.Client): Promise<Finding> {
  const login = await row(
    client,
    `select current_user::text as name, rolsuper or rolbypassrls as unbound, to_regrole('finegrain_api') is not null as migrated,
       ${mayActAs('finegrain_api')} as api, ${mayActAs('finegrain_owner')} or ${mayActAs('finegrain_system')} as more
     from pg_roles where rolname = current_user`,
  );
  if (!login.migrated) return failed('there is no role finegrain_api', 'Run "finegrain migrate".');
  if (login.unbound)
    return failed(
      `${login.name} is a superuser or has BYPASSRLS: nothing but the program keeps projects apart`,
      `Give the API a login of its own: create role fg_api login password '…' in role finegrain_api.`,
    );
  if (!login.api)
    return failed(`${login.name} may not act as finegrain_api`, `grant finegrain_api to ${login.name}`);
  if (login.more)
    return warning(
      `${login.name} may also act as finegrain_owner or finegrain_system, which see every project`,
      'Give the API a login that is a member of finegrain_api only.',
    );
  return ok(`${login.name} acts as finegrain_api only`);
}

async function checkMigrations(client: pg.Client): Promise<Finding> {
  await client.query('begin');
  const { migrated } = await row(client, "select to_regrole('finegrain_api') is not null as migrated");
  if (migrated) await client.query('set local role finegrain_api');
  const drift = await migrationDrift(async (text) => (await client.query(text)).rows);
  await client.query('rollback');
  if (drift === null) return ok('the database is of this version');
  return failed(
    drift,
    'DATABASE_DIRECT_URL of "finegrain migrate": a login that owns the database and may create roles.',
  );
}

async function checkClock(client: pg.Client): Promise<Finding> {
  const asked = Date.now();
  const { now } = await row(client, 'select clock_timestamp() as now');
  const answered = Date.now();
  const away = now.getTime() < asked ? asked - now.getTime() : Math.max(0, now.getTime() - answered);
  if (away <= skewLimitMs) return ok('this machine and the database agree on the time');
  return warning(
    `this machine and the database are ${(away / 1000).toFixed(1)} s apart`,
    'Let NTP set both clocks: keys expire, and signatures age, by them.',
  );
}

async function checkPooler(api: string, direct: string | null): Promise<Finding> {
  const between = await whatIsBetween(api);
  if (between === 'nothing') return ok('DATABASE_URL leads to Postgres itself');
  if (between === 'a transaction pooler' && direct === null)
    return failed(
      'DATABASE_URL goes through a transaction pooler, and DATABASE_DIRECT_URL is not set',
      'Set DATABASE_DIRECT_URL to Postgres itself: migrations, worker and runners need a session of their own.',
    );
  return ok(`DATABASE_URL goes through ${between}`);
}

async function checkDirect(api: string, direct: string): Promise<Finding> {
  const between = await whatIsBetween(direct);
  const advice = 'Set DATABASE_DIRECT_URL to host and port of Postgres itself.';
  if (between === 'a transaction pooler')
    return failed(
      'DATABASE_DIRECT_URL goes through a transaction pooler too: no LISTEN, no session of its own',
      advice,
    );
  const identity = `select pg_postmaster_start_time()::text || ' ' || oid as identity from pg_database where datname = current_database()`;
  const [one, other] = await Promise.all(
    [api, direct].map((url) => withClient(url, async (client) => (await row(client, identity)).identity)),
  );
  if (one !== other)
    return failed('DATABASE_URL and DATABASE_DIRECT_URL lead to different databases', 'Correct one of them.');
  if (!(await canListen(direct)))
    return failed('notifications do not arrive over DATABASE_DIRECT_URL', advice);
  return ok(`DATABASE_DIRECT_URL leads to the same database, past any transaction pooler, and can listen`);
}

async function checkDirectLogin(client: pg.Client): Promise<Finding> {
  const { name, ...roles } = await row(
    client,
    `select current_user::text as name, ${mayActAs('finegrain_owner')} as finegrain_owner,
       ${mayActAs('finegrain_system')} as finegrain_system, ${mayActAs('finegrain_runner')} as finegrain_runner`,
  );
  const held = Object.keys(roles).filter((role) => roles[role]);
  if (held.length > 0) return ok(`${name} may act as ${held.join(', ')}`);
  return failed(
    `${name} may act as none of ${Object.keys(roles).join(', ')}`,
    `Migrations need finegrain_owner, the worker finegrain_system, runners finegrain_runner: grant ROLE to ${name}`,
  );
}

/** Everybody may see the names of all sessions of a database. */
async function sessions(client: pg.Client, application: string): Promise<number> {
  const { count } = await row(
    client,
    'select count(distinct pid)::int as count from pg_stat_activity where datname = current_database() and application_name = $1',
    [application],
  );
  return count;
}

async function checkWorker(client: pg.Client): Promise<Finding> {
  if ((await sessions(client, 'finegrain_worker')) > 0) return ok('a worker is connected');
  return warning(
    'no worker is connected: jobs wait, and lost runs stay lost',
    'Start dist/src/main-worker.js.',
  );
}

async function checkRunner(client: pg.Client): Promise<Finding> {
  const count = await sessions(client, 'finegrain_runner listen');
  if (count > 0) return ok(`${count} connected`);
  return warning(
    `no runner is connected${await lastHeartbeat(client)}: runs stay queued`,
    'Start dist/src/main-runner.js on each machine that trains.',
  );
}

/** Told to those who may see every project. */
async function lastHeartbeat(client: pg.Client): Promise<string> {
  const { system } = await row(client, `select ${mayActAs('finegrain_system')} as system`);
  if (!system) return '';
  await client.query('begin');
  await client.query('set local role finegrain_system');
  const { migrated } = await row(
    client,
    "select to_regclass('finegrain.run_attempts') is not null as migrated",
  );
  const { last } = migrated
    ? await row(client, 'select max(heartbeat_at) as last from finegrain.run_attempts')
    : { last: null };
  await client.query('rollback');
  return last === null
    ? ', and none ever took a run'
    : `, the last one took care of a run at ${last.toISOString()}`;
}
