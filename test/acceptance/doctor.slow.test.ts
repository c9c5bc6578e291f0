// `finegrain doctor` on real installations: a sound one, and others with one thing after another broken.
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import t from 'tap';
import { inspectConfig } from '../../src/config.ts';
import { freePort } from '../../src/db/embedded/server.ts';
import type { Report } from '../../src/doctor/check.ts';
import { examine } from '../../src/doctor.ts';
import { installFinegrain, readyAddress } from '../support/installation.ts';
import { trainerPython } from '../support/runner.ts';

const python = trainerPython();
const key = 'the-bootstrap-key-of-this-test';
const secretKey = randomBytes(32).toString('base64');
t.setTimeout(240_000);

t.test('finegrain doctor', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-test-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const installation = await installFinegrain(folder, { poolSize: 3 });
  t.teardown(() => installation.stop());
  const { pooler, directUrl, pooledUrl } = installation;
  const { superuserUrl } = installation.postgres;
  const port = await freePort();
  const sound = {
    DATABASE_URL: pooledUrl('finegrain_api'),
    DATABASE_DIRECT_URL: directUrl('finegrain_system'),
    FINEGRAIN_API_KEY: key,
    FINEGRAIN_SECRET_KEY: secretKey,
    FINEGRAIN_PYTHON: '/none',
    HOST: '127.0.0.1',
    PORT: String(port),
  };
  const asSuperuser = async (...statements: string[]) => {
    const client = new pg.Client({ connectionString: superuserUrl });
    await client.connect();
    for (const statement of statements) await client.query(statement);
    await client.end();
  };
  const secrets = [
    key,
    secretKey,
    ...[sound.DATABASE_URL, sound.DATABASE_DIRECT_URL].map((url) => new URL(url).password),
  ];

  const hasSecret = (text: string): boolean =>
    [...secrets, 'not-the-password'].some((secret) => text.includes(secret));
  const byName = (reports: Report[]) => {
    t.notOk(hasSecret(JSON.stringify(reports)), 'no secret is told');
    for (const { status, advice } of reports) t.equal(status === 'ok', advice === undefined);
    return Object.fromEntries(reports.map(({ check, ...finding }) => [check, finding]));
  };
  const askProgram = async (changes: NodeJS.ProcessEnv) => {
    const doctor = installation.run('cli.js', ['doctor', '--json'], { ...sound, ...changes });
    const code = await doctor.ended;
    t.notOk(hasSecret(doctor.stdout() + doctor.stderr()), 'no secret is printed');
    const { healthy, checks } = JSON.parse(doctor.stdout()) as { healthy: boolean; checks: Report[] };
    t.equal(code, healthy ? 0 : 1);
    return { healthy, found: byName(checks) };
  };
  /** In this process: it takes less time to start. */
  const find = async (changes: NodeJS.ProcessEnv) => {
    const environment = Object.entries({ ...installation.environment, ...sound, ...changes });
    const given = Object.fromEntries(environment.filter(([, value]) => value !== undefined));
    const reports: Report[] = [];
    for await (const report of examine(inspectConfig(given))) reports.push(report);
    return byName(reports);
  };

  t.test('nothing broken', { skip: python === null && 'no Python environment' }, async (t) => {
    const programs = [
      installation.run('main-api.js', [], sound),
      installation.run('main-worker.js', [], sound),
      installation.run('main-runner.js', [], {
        ...sound,
        DATABASE_DIRECT_URL: directUrl('finegrain_runner'),
        FINEGRAIN_PYTHON: python!,
      }),
    ];
    await readyAddress(programs[0]!);
    while (!/looks for runs/.test(programs[2]!.stderr())) await sleep(50);
    const { healthy, found } = await askProgram({ FINEGRAIN_PYTHON: python! });
    t.ok(healthy);
    t.match(found, {
      pooler: { detail: pooler ? /through a transaction pooler/ : /Postgres itself/ },
      'direct route': { detail: /can listen/ },
      'direct login': { detail: /finegrain_system may act as finegrain_system$/ },
      python: { detail: /torch \d/ },
      service: { detail: `finegrain answers at http://127.0.0.1:${port} and is ready` },
    });
    t.same(
      Object.entries(found).filter(([, { status }]) => status !== 'ok'),
      [],
    );
    for (const program of programs) {
      program.process.kill('SIGTERM');
      await program.ended;
    }
  });

  t.test(
    'a wrong password, folders that cannot be written, a taken port, no Python, wrong names',
    async (t) => {
      const other = createServer((_request, response) => response.end('something else'));
      other.listen(port, '127.0.0.1');
      await once(other, 'listening');
      const locked = process.getuid?.() === 0 ? '/sys' : join(folder, 'locked'); // root may write anywhere else
      if (locked !== '/sys') await mkdir(locked, { mode: 0o500 });
      const found = await find({
        DATABASE_URL: Object.assign(new URL(sound.DATABASE_URL), { password: 'not-the-password' }).href,
        FINEGRAIN_DATA_DIR: join(locked, 'data'),
        FINEGRAIN_ARTIFACTS: join(locked, 'artifacts'),
        FINEGRAIN_RUNER_LABELS: 'h100',
        FINEGRAIN_RUNNERS: 'many',
        LOG_LEVEL: 'loud',
      });
      t.match(found, {
        configuration: {
          status: 'failed',
          detail: /LOG_LEVEL must be one of .* FINEGRAIN_RUNNERS must be a whole number/,
        },
        'data folder': { status: 'failed', advice: /set FINEGRAIN_DATA_DIR/ },
        'artifact store': { status: 'failed', advice: /set FINEGRAIN_ARTIFACTS/ },
        database: { status: 'failed', detail: /:\*\*\*@127.0.0.1/, advice: /password in DATABASE_URL/ },
        python: { status: 'warning', detail: /there is no \/none/, advice: /--with-runner/ },
        service: { status: 'failed', detail: /another program holds port/, advice: /Set PORT/ },
      });
      t.notOk('migrations' in found, 'what rests on the connection is left out');
      other.close();
      t.match(await find({ DATABASE_URL: `postgres://fg:not-the-password@127.0.0.1:${port}/x` }), {
        database: { status: 'failed', detail: /ECONNREFUSED/, advice: /Start Postgres/ },
      });
      t.match(await find({ DATABASE_URL: 'postgres://fg:not-the-password/#@127.0.0.1/x' }), {
        database: { status: 'failed', advice: /%2F/ },
      });
    },
  );

  t.test(
    'a database that was never migrated, a key that others can read, a Python without the trainer',
    async (t) => {
      await asSuperuser('create database fresh');
      const at = (url: string): string => Object.assign(new URL(url), { pathname: '/fresh' }).href;
      const dataDir = join(folder, 'open');
      await mkdir(dataDir);
      await writeFile(join(dataDir, 'api-key'), 'fg_x', { mode: 0o644 });
      const broken = join(folder, 'python');
      await writeFile(
        broken,
        `#!/bin/sh\nexec '${process.execPath}' -e 'throw new Error("No module named torch")'\n`,
      );
      await chmod(broken, 0o755);
      const found = await find({
        DATABASE_URL: at(sound.DATABASE_URL),
        DATABASE_DIRECT_URL: at(sound.DATABASE_DIRECT_URL),
        FINEGRAIN_DATA_DIR: dataDir,
        FINEGRAIN_PYTHON: broken,
        FINEGRAIN_RUNER_LABELS: 'h100',
      });
      t.match(found, {
        configuration: { status: 'warning', advice: /FINEGRAIN_RUNNER_LABELS for FINEGRAIN_RUNER_LABELS/ },
        database: { status: 'ok' },
        migrations: { status: 'failed', detail: /never migrated: run "finegrain migrate"/ },
        worker: { status: 'warning', advice: /Start dist\/src\/main-worker\.js/ },
        runner: { status: 'warning' },
        'key files': { status: 'failed', advice: /chmod 600/ },
        python: { status: 'failed', advice: /runners\/requirements.lock/ },
        service: { status: 'ok', detail: /is free/ },
      });
    },
  );

  t.test('a secret key that was lost, that is none, that was never set', async (t) => {
    await asSuperuser(
      `set role finegrain_system`,
      `insert into finegrain.secrets (project_id, name, key_id, sealed)
       select id, 'llm', 'another-key', '' from finegrain.projects`,
    );
    t.match(await find({}), {
      'secret key': {
        status: 'failed',
        detail: /not here: another-key/,
        advice: /FINEGRAIN_SECRET_KEY_PREVIOUS/,
      },
    });
    t.match(await find({ FINEGRAIN_SECRET_KEY: 'too short' }), {
      configuration: { status: 'failed', detail: /FINEGRAIN_SECRET_KEY must hold 32 random bytes in base64/ },
    });
    await asSuperuser('set role finegrain_system', 'delete from finegrain.secrets');
    t.match(await find({ FINEGRAIN_SECRET_KEY: undefined }), {
      'secret key': { status: 'warning', advice: /openssl rand -base64 32/ },
    });
  });

  t.test('logins with too much or too little', async (t) => {
    const login = (name: string): string =>
      Object.assign(new URL(directUrl('finegrain_api')), { username: name, password: 'not-the-password' })
        .href;
    await asSuperuser(
      `create role too_much login superuser password 'not-the-password'`,
      `create role too_little login password 'not-the-password'`,
      `create role more login password 'not-the-password' in role finegrain_api, finegrain_system`,
      `update finegrain_migrations.applied set sha256 = 'other' where version = 2`,
    );
    t.match(await find({ DATABASE_URL: login('too_much') }), {
      'api login': { status: 'failed', detail: /too_much is a superuser/, advice: /in role finegrain_api/ },
      migrations: { status: 'failed', detail: /0002_\w+.sql was edited/ },
    });
    await asSuperuser('create database elsewhere');
    const elsewhere = Object.assign(new URL(login('too_little')), { pathname: '/elsewhere' }).href;
    t.match(await find({ DATABASE_URL: login('too_little'), DATABASE_DIRECT_URL: elsewhere }), {
      'api login': { status: 'failed', advice: /grant finegrain_api to too_little/ },
      'direct route': { status: 'failed', detail: /lead to different databases/ },
      'direct login': { status: 'failed', advice: /grant ROLE to too_little/ },
    });
    t.match(await find({ DATABASE_URL: login('more'), DATABASE_DIRECT_URL: undefined }), {
      'api login': { status: 'warning', advice: /a member of finegrain_api only/ },
    });
  });

  t.test(
    'a transaction pooler where a session is needed',
    { skip: pooler === null && 'no pgbouncer' },
    async (t) => {
      t.match(await find({ DATABASE_DIRECT_URL: undefined }), {
        pooler: { status: 'failed', advice: /Set DATABASE_DIRECT_URL/ },
      });
      t.match(await find({ DATABASE_DIRECT_URL: pooledUrl('finegrain_system') }), {
        pooler: { status: 'ok' },
        'direct route': { status: 'failed', detail: /a transaction pooler too/, advice: /Postgres itself/ },
      });
    },
  );

  t.test('for people one line each, and what to do; for programs JSON and an exit code', async (t) => {
    const people = installation.run('cli.js', ['doctor'], sound);
    t.equal(await people.ended, 1);
    const lines = people.stdout().trim().split('\n');
    for (const line of lines.slice(0, -1)) t.match(line, /^(ok {6}|(warning|failed) .* {2}Do: )/);
    t.match(lines.at(-1), /^\d+ ok, \d+ warnings, \d+ failed$/);
    t.notOk(hasSecret(people.stdout() + people.stderr()));
    const { healthy, found } = await askProgram({});
    t.notOk(healthy);
    t.ok('configuration' in found);
  });
});
