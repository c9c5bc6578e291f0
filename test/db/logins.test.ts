// `finegrain logins`: each process gets a login of its own that may do what its role may, and nothing else; that of an
// autoscaler may ask how many runs wait for a machine.
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import t from 'tap';
import { createTestDatabase } from '../support/database.ts';
import { runProgram } from '../support/programs.ts';

t.setTimeout(180_000);
t.test('logins', async (t) => {
  const database = await createTestDatabase(t);
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-logins-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const query = async (url: string, sql: string, values: unknown[] = []) => {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    try {
      return (await client.query(sql, values)).rows;
    } finally {
      await client.end();
    }
  };
  const suffix = randomBytes(4).toString('hex'); // logins belong to the whole server
  const urlOf = (name: string, password: string): string => {
    const url = new URL(database.superuserUrl);
    url.username = `${name}_${suffix}`;
    url.password = password;
    return url.href;
  };
  t.teardown(async () => {
    for (const { rolname } of await query(
      database.superuserUrl,
      'select rolname from pg_roles where rolname like $1',
      [`%${suffix}`],
    ))
      await query(database.superuserUrl, `drop role ${pg.escapeIdentifier(rolname)}`);
  });
  const logins = async (urls: Record<string, string>) => {
    const files = Object.entries(urls).map(async ([role, url]) => {
      await writeFile(join(folder, role), `${url}\n`);
      return `${role}=${join(folder, role)}`;
    });
    const args = ['dist/src/cli.js', 'logins', ...(await Promise.all(files))];
    return runProgram(process.execPath, args, { ...process.env, DATABASE_DIRECT_URL: database.superuserUrl });
  };

  const awkward = 'it\'s \\ a @:/ "password"';
  const urls = {
    api: urlOf('fg_api', 'one'),
    worker: urlOf('fg_worker', 'two'),
    runner: urlOf('Fg Runner', awkward),
    scaler: urlOf('fg_scaler', 'four'),
  };
  const depth = async (url: string, ...args: unknown[]) =>
    (await query(url, 'select finegrain.queue_depth($1, $2) as depth', args))[0].depth;

  t.test('are made, and made again with another password', async (t) => {
    const first = await logins({ ...urls, api: urlOf('fg_api', 'older') });
    t.match(first, { code: 0, stdout: 'logins of: api, worker, runner, scaler\n' });
    t.match(await logins(urls), { code: 0 });
    await t.rejects(query(urlOf('fg_api', 'older'), 'select 1'), { code: '28P01' });
    const roles = { api: 'finegrain_api', worker: 'finegrain_system', runner: 'finegrain_runner' };
    for (const [name, role] of Object.entries(roles)) {
      const mine =
        "select rolname from pg_roles where rolname like 'finegrain%' and pg_has_role(oid, 'member')";
      t.same(await query(urls[name as keyof typeof roles], mine), [{ rolname: role }], name);
    }
  });

  t.test('are refused where they would take over an administrator, or lack a password', async (t) => {
    const superuser = await logins({ api: database.superuserUrl });
    t.match(superuser, { code: 1, stderr: /may do more than a process should/ });
    t.match(await logins({ api: urlOf('x', '') }), { code: 1, stderr: /needs a login and a password/ });
    t.match(await logins({ boss: urls.api }), { code: 1, stderr: /ROLE=FILE, with a role of api, worker/ });
  });

  t.test(
    'the autoscaler’s counts the runs that a runner could take now, and does nothing else',
    async (t) => {
      const make = (values: Record<string, unknown>) => {
        const row = {
          project_id: '00000000-0000-7000-8000-000000000000',
          id: randomUUID(),
          kind: 'sft',
          spec: '{}',
          inputs: '{}',
          max_attempts: 1,
          ...values,
        };
        const names = Object.keys(row);
        return query(
          database.superuserUrl,
          `insert into finegrain.runs (${names}) values (${names.map((_, i) => `$${i + 1}`)})`,
          Object.values(row),
        );
      };
      await make({ hardware: 'cpu' });
      await make({ hardware: 'cuda' });
      await make({ hardware: 'cuda', labels: ['h100'] });
      await make({ hardware: 'cuda', waits_for: 1 });
      await query(
        database.superuserUrl,
        "update finegrain.runs set state = 'starting' where hardware = 'cpu'",
      );
      t.equal(await depth(urls.scaler, 'cpu', []), 0, 'a run that is taken waits no longer');
      t.equal(await depth(urls.scaler, 'cuda', []), 1);
      t.equal(await depth(urls.scaler, 'cuda', ['h100', 'eu']), 2);
      for (const sql of ['select from finegrain.runs', 'select finegrain.reap_lost_attempts()'])
        await t.rejects(query(urls.scaler, sql), { code: '42501' }, sql);
      await t.rejects(depth(urls.runner, 'cpu', []), { code: '42501' }, 'nor do others ask');
    },
  );
});
