// `npm test`: every check of the repository, each with its count, closed by the line `N passed, N failed`.
// `npm test -- FILE…` runs only those test files (*.test.ts with tap, *.py with pytest); `--postgres BIN_FOLDER` before them
// takes the `initdb` and `postgres` of that folder instead of the embedded ones: any version from 15 on; `--slow` runs
// the slow tests too (*.slow.test.ts, pytest's marker `slow`, all phases of the fuzzer), which repeat at length what
// quicker ones show.
// All files share one embedded Postgres (FINEGRAIN_TEST_DATABASE_URL), a pgbouncer before it that the API goes through
// (FINEGRAIN_TEST_POOLER; without FINEGRAIN_PGBOUNCER there is none), an S3 server where one is installed
// (FINEGRAIN_TEST_S3) and one temporary folder (TMPDIR); all are gone at the end, also after Ctrl-C, and so is every
// process that was started.
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { findPostmaster } from '../src/db/embedded/postmaster.ts';
import { stopServer } from '../src/db/embedded/server.ts';
import { startEmbeddedPostgres } from '../src/db/embedded-postgres.ts';
import {
  fuzzer,
  imagesLint,
  layerCheck,
  openApiLint,
  program,
  pytest,
  type Result,
  ruff,
  typeCheck,
} from './support/checks.ts';
import { startPgbouncer } from './support/pgbouncer.ts';
import { endAllPrograms } from './support/programs.ts';
import { s3Program, startS3Server } from './support/s3.ts';
import { runTestFiles } from './support/tap-files.ts';

interface Check {
  name: string;
  run: () => Promise<Result>;
}

const dataDir = path.resolve(process.env.FINEGRAIN_DATA_DIR || '.finegrain');
const python = process.env.FINEGRAIN_PYTHON || path.join(dataDir, 'python', 'bin', 'python');
const temporary = mkdtempSync(path.join(tmpdir(), 'finegrain-test-'));
const totals: Result = { passed: 0, failed: 0, skipped: 0, output: '' };
let interrupted = false;

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'disconnect']) {
  process.on(signal, () => {
    interrupted = true;
    endAllPrograms();
  });
}

try {
  const { values, positionals } = parseArgs({
    options: { postgres: { type: 'string' }, slow: { type: 'boolean', default: false } },
    allowPositionals: true,
  });
  await main(positionals, values);
} catch (error) {
  totals.failed += 1;
  console.log(error instanceof Error ? error.stack : error);
} finally {
  await cleanUp();
}
if (interrupted) console.log('Interrupted: not everything was checked.');
const skipped = totals.skipped > 0 ? `, ${totals.skipped} skipped` : '';
console.log(`${totals.passed} passed, ${totals.failed} failed${skipped}`);
process.exit(interrupted ? 130 : totals.failed > 0 ? 1 : 0);

async function main(
  files: string[],
  { postgres: binaries, slow }: { postgres?: string | undefined; slow: boolean },
): Promise<void> {
  const unknown = files.filter((file) => !/\.(test\.ts|py)$/.test(file) || !existsSync(file));
  if (unknown.length > 0) {
    console.log(`Not a test file (*.test.ts or *.py): ${unknown.join(', ')}`);
    totals.failed += unknown.length;
    return;
  }
  const pythonFiles = files.filter((file) => file.endsWith('.py'));
  const typescriptFiles = files.filter((file) => file.endsWith('.ts'));
  const everything = files.length === 0;
  if (binaries !== undefined) chmodSync(temporary, 0o711); // older ones need the way through it, see startedIn
  const servers = binaries === undefined ? {} : { FINEGRAIN_TEST_POSTGRES: binaries };
  // two lanes for two cores: the database's tests beside everything that needs none
  await Promise.all([
    everything || typescriptFiles.length > 0
      ? withPostgres(binaries, (url) =>
          withPooler(url, (pooler) =>
            withS3Server((s3) =>
              runTap(
                typescriptFiles,
                { ...pooler, ...s3, ...servers, FINEGRAIN_TEST_DATABASE_URL: url },
                slow,
              ),
            ),
          ),
        )
      : undefined,
    everything ? runAll([...staticChecks(), fuzzCheck(slow), pytestCheck([], slow)]) : undefined,
    pythonFiles.length > 0 ? runAll([pytestCheck(pythonFiles, slow)]) : undefined,
  ]);
}

function staticChecks(): Check[] {
  const openApi: Check[] = existsSync('openapi/openapi.json')
    ? [{ name: 'OpenAPI lint', run: openApiLint }]
    : [];
  return [
    { name: 'linter', run: () => program('biome', ['ci', '--colors=off', '--error-on-warnings', '.']) },
    { name: 'type checker', run: typeCheck },
    { name: 'layer check', run: layerCheck },
    ...openApi,
    { name: 'Python linter', run: () => ruff(python) },
    { name: 'Images', run: () => imagesLint(path.join(dataDir, 'lint-python', 'bin', 'python')) },
  ];
}

function pytestCheck(files: string[], slow: boolean): Check {
  const environment = { ...testEnvironment(), OMP_NUM_THREADS: '1' };
  return { name: 'Python tests', run: () => pytest(python, files, environment, { slow, temporary }) };
}

/** What follows from the document without chance; `npm run test:fuzz` takes its time for the rest. */
function fuzzCheck(slow: boolean): Check {
  const environment = { ...testEnvironment(), FINEGRAIN_DATA_DIR: dataDir };
  const options = slow
    ? ['--seeds', '1', '--examples', '3']
    : ['--seeds', '1', '--phases', 'examples,coverage'];
  return { name: 'Fuzzer', run: () => fuzzer(options, environment) };
}

function runTap(files: string[], servers: NodeJS.ProcessEnv, slow: boolean): Promise<void> {
  const environment = { ...testEnvironment(), ...servers };
  return runAll([{ name: 'TypeScript tests', run: () => runTestFiles(files, environment, { slow }) }]);
}

async function runAll(checks: Check[]): Promise<void> {
  for (const { name, run } of checks) {
    if (interrupted) return;
    const started = performance.now();
    const result = await run();
    if (interrupted) return;
    totals.passed += result.passed;
    totals.failed += result.failed;
    totals.skipped += result.skipped;
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    console.log(
      `${result.failed > 0 ? 'FAILED' : 'ok    '} ${name}: ${result.passed} passed, ${result.failed} failed (${seconds} s)`,
    );
    if (result.failed > 0) console.log(result.output.trimEnd());
  }
}

async function withPostgres(
  binaries: string | undefined,
  work: (url: string) => Promise<void>,
): Promise<void> {
  const postgres = await startEmbeddedPostgres({
    dataDir: binaries === undefined ? path.join(dataDir, 'test-postgres') : path.join(temporary, 'postgres'),
    binaries,
    log: () => undefined,
    settings: { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off', max_connections: '200' },
  });
  try {
    if (!postgres.attached) await dropLeftDatabases(postgres.superuserUrl);
    await work(postgres.superuserUrl);
  } finally {
    await postgres.stop();
  }
}

async function withPooler(
  superuserUrl: string,
  work: (env: NodeJS.ProcessEnv) => Promise<void>,
): Promise<void> {
  const program = process.env.FINEGRAIN_PGBOUNCER;
  if (!program) return work({});
  const pooler = await startPgbouncer(program, { superuserUrl, folder: path.join(temporary, 'pgbouncer') });
  try {
    await work({ FINEGRAIN_PGBOUNCER: program, FINEGRAIN_TEST_POOLER: pooler.address });
  } finally {
    await pooler.stop();
  }
}

async function withS3Server(work: (env: NodeJS.ProcessEnv) => Promise<void>): Promise<void> {
  const program = s3Program();
  if (program === null) return work({});
  const server = await startS3Server(program, path.join(temporary, 's3'));
  try {
    await work({ FINEGRAIN_TEST_S3: server.endpoint, FINEGRAIN_TEST_S3_PROGRAM: program });
  } finally {
    await server.stop();
  }
}

/** A run that was killed leaves the databases of its tests behind. */
async function dropLeftDatabases(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const { rows } = await client.query(
    String.raw`select datname from pg_database where datname like 'test\_%'`,
  );
  for (const { datname } of rows) await client.query(`drop database ${client.escapeIdentifier(datname)}`);
  await client.end();
}

/** Tests see none of the settings that a person made for a service of their own. */
function testEnvironment(): NodeJS.ProcessEnv {
  const settings = /^(FINEGRAIN_.*|DATABASE_.*|AWS_.*|PG[A-Z]+|PORT|HOST|LOG_LEVEL)$/;
  const kept = Object.entries(process.env).filter(([name]) => !settings.test(name));
  return { ...Object.fromEntries(kept), TMPDIR: temporary, FINEGRAIN_PYTHON: python };
}

async function cleanUp(): Promise<void> {
  endAllPrograms();
  for (const pid of leftProcesses()) endLeftProcess(pid);
  // servers that a killed test left: they live in the temporary folder
  for (const name of readdirSync(temporary, { recursive: true, encoding: 'utf8' })) {
    if (path.basename(name) !== 'postmaster.pid') continue;
    const pgdata = path.join(temporary, path.dirname(name));
    const server = findPostmaster(pgdata);
    if (server) await stopServer(server.pid, pgdata);
  }
  rmSync(temporary, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
}

/** What left its process group: every process of this run has our TMPDIR. Where there is no /proc, nothing is found. */
function leftProcesses(): number[] {
  if (!existsSync('/proc/self/environ')) return [];
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => pid > 0 && pid !== process.pid && environmentOf(pid).includes(`TMPDIR=${temporary}`));
}

function endLeftProcess(pid: number): void {
  try {
    const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
    process.kill(pid, 'SIGKILL');
    if (!interrupted) console.log(`A test left a process behind, which is ended now: ${command}`);
  } catch (error) {
    if (!['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error; // it ended by itself
  }
}

function environmentOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
  } catch {
    return []; // it ended, or is another user's
  }
}
