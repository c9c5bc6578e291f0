// A listing of the catalog, for people and for diffs: tables, constraints, indexes, triggers, policies, functions, grants. It is
// rendered by SQL in the database itself, so it needs no pg_dump and is the same on every machine.
import pg from 'pg';

const sections: [title: string, query: string][] = [
  [
    'Tables',
    `select format(E'table %s.%s%s\\n%s', n.nspname, c.relname,
        case when c.relrowsecurity then ' row-level security' || case when c.relforcerowsecurity then ', forced' else '' end else '' end,
        string_agg(format('  %s %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
          case when a.attnotnull then ' not null' else '' end,
          coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')), E'\\n' order by a.attnum)) as line
     from pg_class c
     join pg_namespace n on n.oid = c.relnamespace
     join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
     where n.nspname in ('finegrain', 'finegrain_migrations') and c.relkind = 'r'
     group by n.nspname, c.relname, c.relrowsecurity, c.relforcerowsecurity order by n.nspname, c.relname`,
  ],
  [
    'Constraints',
    `select format('%s %s: %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) as line from pg_constraint
     where connamespace = 'finegrain'::regnamespace and conrelid <> 0 and contype <> 'n' order by conrelid::regclass::text, conname`,
  ],
  [
    'Indexes',
    `select indexdef as line from pg_indexes i where schemaname = 'finegrain'
       and not exists (select from pg_constraint where conname = i.indexname and connamespace = 'finegrain'::regnamespace)
     order by tablename, indexname`,
  ],
  [
    'Triggers',
    `select pg_get_triggerdef(t.oid) as line from pg_trigger t join pg_class c on c.oid = t.tgrelid
     where c.relnamespace = 'finegrain'::regnamespace and not t.tgisinternal order by c.relname, t.tgname`,
  ],
  [
    'Policies',
    `select format('%s.%s: %s for %s to %s using %s check %s', schemaname, tablename, policyname, cmd, roles, qual, coalesce(with_check, '-')) as line
     from pg_policies where schemaname = 'finegrain' order by tablename, policyname`,
  ],
  [
    'Functions',
    `select format('%s.%s(%s) returns %s%s, owner %s', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid),
        case when p.prosecdef then ' security definer' else '' end, p.proowner::regrole) as line
     from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'finegrain' order by p.proname`,
  ],
  [
    'Privileges on tables',
    `select format('%s: %s to %s', table_name, string_agg(privilege_type, ', ' order by privilege_type), grantee) as line
     from information_schema.role_table_grants where table_schema = 'finegrain' and grantee like 'finegrain\\_%' and grantee <> 'finegrain_owner'
     group by table_name, grantee order by table_name, grantee`,
  ],
  [
    'Privileges on columns',
    `select format('%s: %s (%s) to %s', c.table_name, c.privilege_type, string_agg(c.column_name, ', ' order by c.column_name), c.grantee) as line
     from information_schema.column_privileges c
     where c.table_schema = 'finegrain' and c.grantee like 'finegrain\\_%' and c.grantee <> 'finegrain_owner'
       and not exists (select from information_schema.role_table_grants t where t.table_schema = c.table_schema and t.table_name = c.table_name
         and t.grantee = c.grantee and t.privilege_type = c.privilege_type)
     group by c.table_name, c.privilege_type, c.grantee order by c.table_name, c.grantee`,
  ],
  [
    'Privileges on functions',
    `select format('%s: %s', routine_name, string_agg(grantee, ', ' order by grantee)) as line
     from information_schema.role_routine_grants where routine_schema = 'finegrain' and grantee <> 'finegrain_owner'
     group by routine_name order by routine_name`,
  ],
];

/** @param url a login that may see the whole catalog */
export async function describeSchema(url: string): Promise<string> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    let text = '-- Made by `npm run schema`: the catalog after all migrations. Not to be run.\n';
    for (const [title, query] of sections) {
      const { rows } = await client.query<{ line: string }>(query);
      const lines = rows.map(({ line }) => `${line.replaceAll(/^/gm, '-- ').replaceAll(/\s+$/gm, '')}\n`);
      text += `\n-- ## ${title}\n${lines.join('')}`;
    }
    return text;
  } finally {
    await client.end();
  }
}
