// What the catalog itself must keep of tenancy, read from it: a new table, foreign key or function is covered as soon as
// a migration makes it.
import { randomBytes, randomUUID } from 'node:crypto';
import pg from 'pg';
import t from 'tap';
import { type DatabaseRole, sqlState } from '../../src/db/pool.ts';
import { createTestDatabase } from '../support/database.ts';

interface Column {
  name: string;
  type: string;
  /** without a value the database gives it one, or null */
  optional: boolean;
}

interface ForeignKey {
  name: string;
  from: string;
  to: string;
  columns: string[];
  referenced: string[];
}

type Row = Record<string, unknown>;

t.test('the catalog', async (t) => {
  const database = await createTestDatabase(t);
  const superuser = new pg.Client({ connectionString: database.superuserUrl });
  await superuser.connect();
  t.teardown(() => superuser.end());
  const select = async <T extends pg.QueryResultRow>(sql: string): Promise<T[]> =>
    (await superuser.query<T>(sql)).rows;
  const pools = {
    finegrain_api: database.open('finegrain_api'),
    finegrain_system: database.open('finegrain_system'),
    finegrain_runner: database.open('finegrain_runner'),
  };
  /** `done`, or the SQLSTATE and the constraint that stood against it. */
  const attempt = (role: DatabaseRole, project: string | null, sql: string, values: unknown[] = []) =>
    pools[role]
      .transaction(project, (tx) => tx.query(sql, values))
      .then(
        () => 'done',
        (error) => (error.constraint ? `${sqlState(error)} ${error.constraint}` : sqlState(error)),
      );

  t.test('no foreign key lets a row of one project point at a row of another', async (t) => {
    const foreignKeys = await select<ForeignKey>(
      `select c.conname as name, c.conrelid::regclass::text as "from", c.confrelid::regclass::text as "to",
         (select json_agg(a.attname order by k.place) from unnest(c.conkey) with ordinality as k (number, place)
          join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.number) as columns,
         (select json_agg(a.attname order by k.place) from unnest(c.confkey) with ordinality as k (number, place)
          join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.number) as referenced
       from pg_constraint c where c.connamespace = 'finegrain'::regnamespace and c.contype = 'f'`,
    );
    const columns = new Map<string, Column[]>();
    for (const { table, ...column } of await select<Column & { table: string }>(
      `select attrelid::regclass::text as table, attname as name, format_type(atttypid, null) as type,
         atthasdef or not attnotnull as optional
       from pg_attribute a join pg_class c on c.oid = a.attrelid
       where c.relnamespace = 'finegrain'::regnamespace and c.relkind = 'r' and attnum > 0 and not attisdropped`,
    ))
      columns.set(table, [...(columns.get(table) ?? []), column]);
    // made-up values meet no enumeration, and it is not the checks that are tried here
    for (const { table, name } of await select<{ table: string; name: string }>(
      `select conrelid::regclass::text as table, conname as name from pg_constraint
       where connamespace = 'finegrain'::regnamespace and contype = 'c'`,
    ))
      await superuser.query(`alter table ${table} drop constraint ${name}`);

    const madeUp = (type: string): unknown => {
      if (type === 'uuid') return randomUUID();
      if (type === 'bytea') return randomBytes(32);
      if (type === 'text') return randomUUID();
      if (type === 'jsonb') return '{}';
      if (type === 'boolean') return false;
      if (/^(bigint|integer)$/.test(type)) return 1 + Math.floor(Math.random() * 1e9);
      if (/\[\]$/.test(type)) return '{}';
      if (/^timestamp/.test(type)) return new Date();
      throw new Error(`madeUp() knows no value of the type ${type}: add one`);
    };
    const inserted = new Map<string, Row>();
    /** A row of a project with all that it must point at; `pointing` are values to point elsewhere. */
    const rowOf = async (table: string, project: string, pointing: Row = {}): Promise<Row> => {
      if (table === 'finegrain.projects') return { id: project };
      const row: Row = { project_id: project, ...pointing };
      const needed = columns.get(table)!.filter(({ optional }) => !optional);
      for (const { from, to, columns: pointers, referenced } of foreignKeys) {
        if (from !== table || !pointers.every((name) => needed.some((column) => column.name === name)))
          continue;
        const target = await seeded(to, project);
        for (const [i, name] of pointers.entries()) row[name] ??= target[referenced[i]!];
      }
      for (const { name, type } of needed) row[name] ??= madeUp(type);
      return row;
    };
    const insert = (table: string, row: Row): [sql: string, values: unknown[]] => [
      `insert into ${table} (${Object.keys(row)}) values (${Object.keys(row).map((_, i) => `$${i + 1}`)})`,
      Object.values(row),
    ];
    const seeded = async (table: string, project: string): Promise<Row> => {
      const known = inserted.get(`${table} ${project}`);
      if (known) return known;
      const row = await rowOf(table, project);
      if (table !== 'finegrain.projects') await superuser.query(...insert(table, row));
      inserted.set(`${table} ${project}`, row);
      return row;
    };

    const [mine, theirs] = [randomUUID(), randomUUID()];
    for (const id of [mine, theirs])
      await superuser.query("insert into finegrain.projects (id, name) values ($1, 'p')", [id]);
    const ofProjects = foreignKeys.filter(({ to }) => to !== 'finegrain.projects');
    t.ok(ofProjects.length >= 15, 'there are foreign keys between tables of projects');
    for (const { name, from, to, columns: pointers, referenced } of ofProjects) {
      const target = await seeded(to, theirs);
      const pointing = Object.fromEntries(
        pointers.flatMap((pointer, i) =>
          referenced[i] === 'project_id' ? [] : [[pointer, target[referenced[i]!]]],
        ),
      );
      const row = await rowOf(from, mine, pointing);
      t.equal(
        await attempt('finegrain_system', null, ...insert(from, row)),
        `23503 ${name}`,
        `${from} ${name}`,
      );
      t.match(
        await attempt('finegrain_api', mine, ...insert(from, row)),
        new RegExp(`^(23503 ${name}|42501)$`),
        `${from} ${name}, as the API`,
      );
      const own = await seeded(to, mine);
      const home = Object.fromEntries(pointers.map((pointer, i) => [pointer, own[referenced[i]!]]));
      // rolled back: a key that is made of foreign keys takes such a row once
      const rollback = new Error('taken');
      await t.rejects(
        pools.finegrain_system.transaction(null, async (tx) => {
          await tx.query(...insert(from, { ...row, ...home }));
          throw rollback;
        }),
        rollback,
        `${from} ${name}: the same row is taken when it points at its own project`,
      );
    }
  });

  t.test(
    'SECURITY DEFINER functions are the system’s, pin their search path, and are not for everybody',
    async (t) => {
      const functions = await select<{ name: string; owner: string; path: string | null; public: boolean }>(
        `select p.oid::regprocedure::text as name, p.proowner::regrole::text as owner,
         (select c from unnest(p.proconfig) c where c like 'search_path=%') as path,
         has_function_privilege('public', p.oid, 'execute') as public
       from pg_proc p where p.pronamespace = 'finegrain'::regnamespace and p.prosecdef`,
      );
      t.ok(functions.length >= 9);
      for (const { name, owner, path, public: everybody } of functions) {
        t.equal(owner, 'finegrain_system', `owner of ${name}`);
        t.match(path, /^search_path=(?!.*(public|\$user)).*\bpg_temp$/, `search path of ${name}`);
        t.notOk(everybody, `${name} is not executable by everybody`);
      }
      const elsewhere = await select(
        `select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
       where p.prosecdef and nspname not in ('finegrain', 'pg_catalog', 'information_schema')`,
      );
      t.same(elsewhere, [], 'no other schema has one');
    },
  );

  t.test('whatever may name artifacts is known to their collector', async (t) => {
    const known = await select<{ name: string }>(
      "select relation::text || '.' || attribute as name from finegrain.digest_columns",
    );
    // what looks like naming: columns of digests, of files, and of JSON in which runs keep what they read and made
    const suspects = await select<{ name: string }>(
      `select attrelid::regclass::text || '.' || attname as name
       from pg_attribute a join pg_class c on c.oid = a.attrelid
       where c.relnamespace = 'finegrain'::regnamespace and c.relkind = 'r' and attnum > 0 and not attisdropped
         and (attname ~ 'digest|files|artifact' or attname = 'inputs')`,
    );
    const harmless = [
      'finegrain.models.digest', // of the list of files
      'finegrain.artifact_uploads.digest', // announced, not stored yet
    ];
    const names = known.map(({ name }) => name);
    for (const { name } of suspects) if (!harmless.includes(name)) t.ok(names.includes(name), name);
    t.ok(names.length >= 7);
  });

  t.test('roles that anybody may log in as own nothing and pass no policy by', async (t) => {
    const roles = await select(
      `select rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb from pg_roles
       where rolname like 'finegrain%' and (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb)`,
    );
    t.same(roles, []);
    const owned = await select(
      "select relname from pg_class where relowner in ('finegrain_api'::regrole, 'finegrain_runner'::regrole)",
    );
    t.same(owned, []);
    const members = await select(
      `select r.rolname, m.rolname as member from pg_auth_members a join pg_roles r on r.oid = a.roleid join pg_roles m on m.oid = a.member
       where m.rolname in ('finegrain_api', 'finegrain_runner')`,
    );
    t.same(members, [], 'nor do they inherit from a role that does');
  });

  t.test('the queue of jobs is out of reach of the API and of runners', async (t) => {
    const tables = await select<{ name: string }>(
      `select c.oid::regclass::text as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
       where n.nspname like 'graphile\\_worker%' and c.relkind in ('r', 'v')`,
    );
    const functions = await select<{ call: string }>(
      `select format('%I.%I(%s)', n.nspname, p.proname, (
           select string_agg(format('%I := null::%s', a.name, format_type(a.type, null)), ', ')
           from unnest(p.proargnames[1:p.pronargs], p.proargtypes::oid[]) as a (name, type))) as call
       from pg_proc p join pg_namespace n on n.oid = p.pronamespace
       where n.nspname like 'graphile\\_worker%' and p.prorettype <> 'trigger'::regtype`,
    );
    t.ok(tables.length >= 3 && functions.some(({ call }) => call.includes('add_job')));
    for (const role of ['finegrain_api', 'finegrain_runner'] as const) {
      for (const { name } of tables) {
        for (const sql of [
          `select from ${name}`,
          `delete from ${name}`,
          `insert into ${name} default values`,
        ])
          t.equal(await attempt(role, null, sql), '42501', `${role}: ${sql}`);
      }
      for (const { call } of functions)
        t.equal(await attempt(role, null, `select ${call}`), '42501', `${role}: ${call}`);
    }
  });
});
