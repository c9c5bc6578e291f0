// Reads `postmaster.pid`, with which a Postgres server marks its data folder, and tells whether that server still
// exists: after a crash or a restart of the machine the file stays, and its pid may by then be another program's.
import { execFileSync } from 'node:child_process';
import { readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';

export interface Postmaster {
  pid: number;
  port: number;
  ready: boolean;
}

const fileName = 'postmaster.pid';

/** The server that runs on this data folder, or null. Removes a pid file whose pid another program has taken. */
export function findPostmaster(pgdata: string): Postmaster | null {
  const text = readPidFile(path.join(pgdata, fileName));
  if (text === null) return null;
  const lines = text.split('\n'); // pid, folder, start time, port, socket folder, address, shared memory, status
  const pid = Number(lines[0]);
  if (!Number.isInteger(pid) || pid <= 0) return null; // half written: Postgres settles it
  const who = identify(pid, pgdata);
  if (who === 'postmaster') return { pid, port: Number(lines[3]), ready: lines[7]?.trim() === 'ready' };
  if (who === 'another program') removeStale(path.join(pgdata, fileName), text);
  return null;
}

/** True while `pid` is a Postgres server that works in this very folder. */
export function isPostmasterOf(pid: number, pgdata: string): boolean {
  return identify(pid, pgdata) === 'postmaster';
}

function identify(pid: number, pgdata: string): 'postmaster' | 'another program' | 'gone or hidden' {
  try {
    if (process.platform === 'linux') {
      if (!readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith('postgres')) return 'another program';
      // a server's working folder is its data folder; the inode sees through links, mounts and renames
      const [here, there] = [statSync(pgdata), statSync(`/proc/${pid}/cwd`)];
      return here.dev === there.dev && here.ino === there.ino ? 'postmaster' : 'another program';
    }
    const command = execFileSync('ps', ['-o', 'command=', '-p', String(pid)], { encoding: 'utf8' });
    return command.includes('postgres') && command.includes(pgdata) ? 'postmaster' : 'another program';
  } catch {
    return 'gone or hidden'; // then Postgres itself decides whether the file is stale
  }
}

/** Postgres itself replaces the file of a dead pid, but not of one that lives again as another program. */
function removeStale(file: string, text: string): void {
  const aside = `${file}.stale-${process.pid}`;
  try {
    renameSync(file, aside);
    if (readFileSync(aside, 'utf8') === text) rmSync(aside);
    else renameSync(aside, file); // a server that started this moment wrote it
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

function readPidFile(file: string): string | null {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}
