// finegrain COMMAND: what an operator or a developer does by hand.
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { inspectConfig, readConfig } from './config.ts';
import { describeSchema } from './db/describe-schema.ts';
import { startEmbeddedPostgres } from './db/embedded-postgres.ts';
import { makeLogins, type Process, processes } from './db/logins.ts';
import { migrate } from './db/migrate.ts';
import type { Report } from './doctor/check.ts';
import { runMain } from './process.ts';

const usage = `finegrain COMMAND

  doctor    look at this installation and say what to do; --json for programs. Exit code 1: something failed
  migrate   bring the database of DATABASE_DIRECT_URL (or DATABASE_URL) to this version; creates the roles
  logins    ROLE=FILE…  let processes log in to that database: FILE holds the URL by which the process of that role (api,
            worker, runner, scaler) connects, and its login and password become one of that role
  openapi   write openapi/openapi.json from the routes
  schema    write migrations/schema.sql from the migrations, run on an embedded Postgres
`;

const commands: Record<string, () => Promise<void>> = {
  async doctor() {
    const { examine, renderReport } = await import('./doctor.ts'); // loads much that the other commands can do without
    const asJson = process.argv.includes('--json');
    const reports: Report[] = [];
    for await (const report of examine(inspectConfig())) {
      reports.push(report);
      if (!asJson) process.stdout.write(`${renderReport(report)}\n`);
    }
    const count = (status: string) => reports.filter((report) => report.status === status).length;
    const healthy = count('failed') === 0;
    process.stdout.write(
      asJson
        ? `${JSON.stringify({ healthy, checks: reports }, null, 2)}\n`
        : `${count('ok')} ok, ${count('warning')} warnings, ${count('failed')} failed\n`,
    );
    process.exitCode = healthy ? 0 : 1;
  },
  async migrate() {
    const applied = await migrate(databaseToPrepare());
    process.stdout.write(applied.length === 0 ? 'nothing to do\n' : `applied ${applied.join(', ')}\n`);
  },
  async logins() {
    const urls = await Promise.all(
      process.argv.slice(3).map(async (argument): Promise<[Process, string]> => {
        const [role = '', file = ''] = argument.split(/=(.*)/s);
        if (!processes.includes(role as Process) || file === '')
          throw new Error(`${argument} must be ROLE=FILE, with a role of ${processes.join(', ')}.`);
        const url = (await readFile(file, 'utf8')).trim();
        if (!URL.canParse(url)) throw new Error(`${file} must hold the URL of a database.`);
        return [role as Process, url];
      }),
    );
    await makeLogins(databaseToPrepare(), urls);
    process.stdout.write(`logins of: ${urls.map(([role]) => role).join(', ') || 'nobody'}\n`);
  },
  async openapi() {
    const { openApiDocument } = await import('./openapi.ts'); // all of the service
    await mkdir('openapi', { recursive: true });
    await writeFile('openapi/openapi.json', await openApiDocument());
  },
  async schema() {
    const { dataDir } = readConfig();
    const postgres = await startEmbeddedPostgres({
      dataDir: join(dataDir, 'schema-postgres'),
      log: () => {},
    });
    try {
      await migrate(postgres.superuserUrl);
      await writeFile('migrations/schema.sql', await describeSchema(postgres.superuserUrl));
    } finally {
      await postgres.stop();
    }
  },
};

function databaseToPrepare(): string {
  const { databaseDirectUrl } = readConfig();
  if (databaseDirectUrl !== null) return databaseDirectUrl;
  throw new Error(
    'Set DATABASE_DIRECT_URL or DATABASE_URL. The embedded database prepares itself at its start.',
  );
}

runMain(async () => {
  const command = commands[process.argv[2] ?? ''];
  if (!command) {
    process.stderr.write(usage);
    process.exitCode = 2;
    return;
  }
  await command();
});
