// A pgbouncer for what checks finegrain behind a transaction pooler: the one of FINEGRAIN_PGBOUNCER, the machine's own, or,
// on Debian and Ubuntu, their package unpacked into the data folder, which needs no root and installs nothing.
// Nothing else needs it, so where it cannot be had the program goes on without it.
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { withLock } from './lock.mjs';
import { SetUpError, say, step } from './steps.mjs';

const names = ['pgbouncer', '/usr/sbin/pgbouncer']; // Debian keeps it off the PATH of a normal user

/** Resolves to what starts it, or to null after a line that says what to install. */
export async function ensurePgbouncer(folder) {
  const given = process.env.FINEGRAIN_PGBOUNCER;
  if (given && !runs(given)) throw new SetUpError(`FINEGRAIN_PGBOUNCER is ${given}, which does not run.`);
  const unpacked = path.join(folder, 'pgbouncer');
  const found = [given, ...names, unpacked].find((program) => program && runs(program));
  if (found) return found;
  const failure = await withLock(`${folder}.lock`, () => (runs(unpacked) ? null : unpack(folder)));
  if (failure === null && runs(unpacked)) return unpacked;
  say(
    `Without pgbouncer, the tests of the transaction pooler are skipped (${failure ?? 'the unpacked one does not run'}). ` +
      'Debian, Ubuntu: apt install pgbouncer; Fedora: dnf install pgbouncer; macOS: brew install pgbouncer. Or set FINEGRAIN_PGBOUNCER.',
  );
  return null;
}

/** Returns null, or why there is no package to unpack. */
async function unpack(folder) {
  if (ask('apt-get', ['--version']) === null || ask('dpkg', ['--version']) === null)
    return 'it is not installed';
  const fresh = `${folder}.new`;
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(fresh, { recursive: true });
  try {
    const download = ['-C', fresh, 'apt-get', 'download', 'pgbouncer', ...missingLibraries()];
    await step('Downloading pgbouncer for the tests', 'env', download);
    for (const file of readdirSync(fresh)) {
      const { status, stderr } = spawnSync('dpkg', ['-x', path.join(fresh, file), fresh], {
        encoding: 'utf8',
      });
      if (status !== 0) return `dpkg: ${stderr.trim()}`;
      rmSync(path.join(fresh, file));
    }
    writeFileSync(path.join(fresh, 'pgbouncer'), launcher(fresh));
    chmodSync(path.join(fresh, 'pgbouncer'), 0o755);
    rmSync(folder, { recursive: true, force: true });
    renameSync(fresh, folder);
    return null;
  } catch (error) {
    if (!(error instanceof SetUpError)) throw error;
    return /^E: .*/m.exec(error.message)?.[0] ?? error.message.split('\n')[0];
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
}

/** The package's own libraries that this machine lacks: their names differ from release to release. */
function missingLibraries() {
  const dependencies = ask('apt-cache', ['depends', 'pgbouncer']) ?? '';
  return [...dependencies.matchAll(/^\s+Depends: (lib\S+)$/gm)]
    .map(([, name]) => name)
    .filter((name) => !ask('dpkg', ['-s', name])?.includes('\nStatus: install ok installed'));
}

function launcher(root) {
  const libraries = readdirSync(path.join(root, 'usr', 'lib'));
  const searched = libraries.map((name) => `"$root/usr/lib/${name}"`).join(':');
  return `#!/bin/sh\nroot=$(dirname "$0")\nLD_LIBRARY_PATH=${searched} exec "$root/usr/sbin/pgbouncer" "$@"\n`;
}

const runs = (program) => ask(program, ['--version'])?.startsWith('PgBouncer') ?? false;

function ask(program, args) {
  const { status, stdout } = spawnSync(program, args, { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : null;
}
