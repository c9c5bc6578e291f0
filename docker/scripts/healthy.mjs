// Whether the process of this container does its work, for HEALTHCHECK: exit code 0 or 1 with a line that says why.
//
//   healthy.mjs api      GET /readyz: database, migrations, artifacts and model are there
//   healthy.mjs worker   it holds a session at the database, from this address: without one no job reaches it
//   healthy.mjs runner   the same for the session by which it hears of queued runs
//
// A process that is frozen keeps its session: a runner's lease then ends, and its run goes on elsewhere.
import { readFileSync } from 'node:fs';

const sessions = { worker: 'finegrain_worker', runner: 'finegrain_runner listen' };
const role = process.argv[2];

try {
  if (role === 'api') await askApi();
  else await findSession(sessions[role]);
} catch (error) {
  console.log(error.message);
  process.exitCode = 1;
}

async function askApi() {
  const address = `http://127.0.0.1:${process.env.PORT || 3000}/readyz`;
  const response = await fetch(address, { signal: AbortSignal.timeout(5_000) });
  if (!response.ok) throw new Error(`not ready: ${await response.text()}`);
}

async function findSession(name) {
  if (name === undefined) throw new Error(`${role} must be api, worker or runner`);
  const { default: pg } = await import('pg');
  const connectionString = secret('DATABASE_DIRECT_URL') ?? secret('DATABASE_URL');
  const client = new pg.Client({ connectionString, connectionTimeoutMillis: 5_000, query_timeout: 5_000 });
  await client.connect();
  try {
    const { rowCount } = await client.query(
      `select from pg_stat_activity where datname = current_database() and application_name = $1
         and client_addr is not distinct from inet_client_addr()`,
      [name],
    );
    if (rowCount === 0) throw new Error(`no session ${name} of this container`);
  } finally {
    await client.end();
  }
}

function secret(name) {
  const file = process.env[`${name}_FILE`];
  return file ? readFileSync(file, 'utf8').trim() : process.env[name] || undefined;
}
