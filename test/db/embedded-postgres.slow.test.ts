// The embedded server, for real: every test makes its own folder, and ends what it starts.
import { type ChildProcess, spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import t, { type Test } from 'tap';
import { findPostmaster } from '../../src/db/embedded/postmaster.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/db/embedded-postgres.ts';

const fast = { fsync: 'off', full_page_writes: 'off' };

function makeFolder(test: Test): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'finegrain embedded ')); // a space, and mode 0700
  test.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

const start = (dataDir: string, options: { port?: number; log?: (message: string) => void } = {}) =>
  startEmbeddedPostgres({ dataDir, log: () => undefined, settings: fast, ...options });

async function query(url: string, text: string): Promise<unknown> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    const { rows } = await client.query(text);
    return rows[0] && Object.values(rows[0])[0];
  } finally {
    await client.end();
  }
}

const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

async function untilDead(pid: number): Promise<void> {
  for (const end = Date.now() + 10_000; isAlive(pid); await sleep(20)) {
    if (Date.now() > end) throw new Error(`process ${pid} lives on`);
  }
}

/** Another process that starts the server and reports it; what it does on the line `leave` is the caller's. */
async function startElsewhere(
  test: Test,
  dataDir: string,
  onLeave: string,
): Promise<{ child: ChildProcess; server: Omit<EmbeddedPostgres, 'stop'> }> {
  const program = `
    import { startEmbeddedPostgres } from './dist/src/db/embedded-postgres.js';
    const server = await startEmbeddedPostgres({ dataDir: process.argv[1], log: () => {}, settings: ${JSON.stringify(fast)} });
    process.stdin.once('data', async () => { ${onLeave} });
    console.log(JSON.stringify(server));`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program, dataDir], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  test.teardown(() => child.kill('SIGKILL'));
  for await (const line of createInterface({ input: child.stdout }))
    return { child, server: JSON.parse(line) };
  throw new Error('the other process started no server');
}

t.test('a server in a private folder whose path has spaces', async (t) => {
  const dataDir = path.join(makeFolder(t), 'deep down', 'data');
  const messages: string[] = [];
  const first = await start(dataDir, { log: (message) => messages.push(message) });
  t.equal(first.attached, false);
  t.match(await query(first.superuserUrl, 'select version()'), /^PostgreSQL 18/);
  t.equal(
    await query(first.superuserUrl, "select 'ﬀ' < 'g' and lower('Ä') = 'ä'"),
    false,
    'sorts by code point',
  );
  t.equal(await query(first.superuserUrl, 'show listen_addresses'), '127.0.0.1');
  t.equal(await query(first.superuserUrl, 'show unix_socket_directories'), '');
  t.equal(await query(first.superuserUrl, 'show fsync'), 'off', 'settings reach the server');
  await query(first.superuserUrl, 'create table kept as select 7 as seven');

  await t.rejects(
    query(first.superuserUrl.replace(/:[^:@]+@/, ':wrong@'), 'select 1'),
    { code: '28P01' },
    'asks for its password',
  );
  const { password } = new URL(first.superuserUrl);
  t.ok(password.length >= 32);
  const kept = path.join(dataDir, 'pgdata', 'finegrain-superuser-password');
  t.equal(statSync(kept).mode & 0o777, 0o600);
  t.notMatch([...messages, readFileSync(path.join(dataDir, 'postgres.log'), 'utf8')].join('\n'), password);

  await Promise.all([first.stop(), first.stop()]);
  await untilDead(first.pid); // stopped means gone
  const second = await start(dataDir);
  t.equal(await query(second.superuserUrl, 'select seven from kept'), 7, 'the data is there after a restart');
  t.equal(new URL(second.superuserUrl).password, password);
  await second.stop();
  t.strictSame(readdirSync(dataDir).sort(), ['pgdata', 'postgres.log', 'users'], 'nothing temporary is left');
  t.strictSame(readdirSync(path.join(dataDir, 'users')), []);
});

t.test('one folder has one server, which the last user stops', async (t) => {
  const dataDir = makeFolder(t);
  const servers = await Promise.all([start(dataDir), start(dataDir), start(dataDir)]);
  t.equal(new Set(servers.map(({ pid, port }) => `${pid} ${port}`)).size, 1);
  t.equal(
    servers.filter(({ attached }) => !attached).length,
    1,
    'one call started it, also when all came at once',
  );
  const [first, second, third] = servers as [EmbeddedPostgres, EmbeddedPostgres, EmbeddedPostgres];
  await first.stop();
  await second.stop();
  t.equal(await query(third.superuserUrl, 'select 1'), 1);

  // while the last one leaves, the next one comes
  const [next] = await Promise.all([start(dataDir), third.stop()]);
  t.equal(await query(next.superuserUrl, 'select 1'), 1);
  await next.stop();
  await untilDead(next.pid);
});

t.test('a server outlives the SIGKILL of its starter, and the next one takes it over', async (t) => {
  const dataDir = makeFolder(t);
  const { child, server } = await startElsewhere(t, dataDir, '');
  child.kill('SIGKILL');
  await untilDead(child.pid ?? 0);
  t.ok(isAlive(server.pid));
  const attached = await start(dataDir);
  t.match(attached, { attached: true, pid: server.pid, port: server.port });
  await attached.stop();
  await untilDead(server.pid); // whoever uses it last stops it; init reaps it a little later
});

t.test('a process that exits without stop() takes its server along', async (t) => {
  const dataDir = makeFolder(t);
  const { child, server } = await startElsewhere(t, dataDir, 'process.exit(0)');
  child.stdin?.write('leave\n');
  await untilDead(server.pid);
  t.notOk(existsSync(path.join(dataDir, 'pgdata', 'postmaster.pid')), 'it was shut down in order');
});

t.test('but not from under another process', async (t) => {
  const dataDir = makeFolder(t);
  const { child } = await startElsewhere(t, dataDir, 'await server.stop(); process.exit(0)');
  const here = await start(dataDir);
  t.equal(here.attached, true);
  child.stdin?.write('leave\n');
  await untilDead(child.pid ?? 0);
  t.equal(await query(here.superuserUrl, 'select 1'), 1);
  await here.stop();
});

t.test('a killed server and a pid file whose pid is now another program are taken over', async (t) => {
  const dataDir = makeFolder(t);
  const first = await start(dataDir);
  await query(first.superuserUrl, 'create table kept as select 7 as seven');
  const pidFile = path.join(dataDir, 'pgdata', 'postmaster.pid');
  const text = readFileSync(pidFile, 'utf8');
  process.kill(first.pid, 'SIGKILL');
  await untilDead(first.pid);
  const second = await start(dataDir);
  t.equal(await query(second.superuserUrl, 'select seven from kept'), 7, 'recovered');
  await first.stop();
  await second.stop();

  writeFileSync(pidFile, text.replace(/^\d+/, `${process.pid}`));
  t.equal(findPostmaster(path.join(dataDir, 'pgdata')), null);
  const third = await start(dataDir);
  t.equal(third.attached, false);
  await third.stop();
});

t.test('what cannot work is refused with what to do', async (t) => {
  const dataDir = makeFolder(t);
  const server = await start(dataDir);
  await t.rejects(start(makeFolder(t), { port: server.port }), /did not start: .*Address already in use/);
  await server.stop();

  const versionFile = path.join(dataDir, 'pgdata', 'PG_VERSION');
  writeFileSync(versionFile, '15\n');
  await t.rejects(
    start(dataDir),
    /made by Postgres 15; this finegrain brings Postgres 18.*FINEGRAIN_DATA_DIR/,
  );
  t.equal(readFileSync(versionFile, 'utf8'), '15\n', 'the folder is left alone');

  const file = path.join(makeFolder(t), 'file');
  writeFileSync(file, '');
  await t.rejects(start(file), /Embedded Postgres in .*file: /);

  const foreign = makeFolder(t);
  mkdirSync(path.join(foreign, 'pgdata'));
  if (process.getuid?.() === 0) await t.rejects(start(foreign), /belongs to root.*chown -R/);
  else {
    chmodSync(foreign, 0o500);
    await t.rejects(start(foreign), /must be able to write there/);
    chmodSync(foreign, 0o700);
  }
});
