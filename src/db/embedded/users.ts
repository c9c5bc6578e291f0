// Counts the processes that use one embedded Postgres, so that the last one to leave stops it. No lock is held:
// each process owns one file in `users/`, named by its pid and its start time (a pid alone may be reused).
// A leaving process first renames its file to `….leaving` and then looks for others; a coming process first writes
// its file and then waits for those that are leaving. Whichever acts first, the other one sees it.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { giveTo, type ServiceUser } from './service-user.ts';

export interface UserEntry {
  /** Says that we are leaving. True: nobody else uses the server, so it is ours to stop; then call `remove`. */
  leave(): boolean;
  /** True while another process may be stopping the server. */
  someoneIsLeaving(): boolean;
  remove(): void;
}

const suffix = '.leaving';
let entriesOfThisProcess = 0;

export function registerUser(folder: string, user: ServiceUser | null): UserEntry {
  const users = path.join(folder, 'users');
  mkdirSync(users, { recursive: true, mode: 0o700 });
  giveTo(user, users);
  entriesOfThisProcess += 1;
  const name = `${process.pid}-${startTime(process.pid)}-${entriesOfThisProcess}`;
  const file = path.join(users, name);
  writeFileSync(file, '');

  const others = () => {
    const names = readdirSync(users).filter((other) => !other.startsWith(name));
    const alive = names.filter(isAlive);
    for (const dead of names.filter((other) => !alive.includes(other)))
      rmSync(path.join(users, dead), { force: true });
    return alive;
  };
  return {
    leave() {
      renameSync(file, file + suffix);
      return others().every((other) => other.endsWith(suffix));
    },
    someoneIsLeaving: () => others().some((other) => other.endsWith(suffix)),
    remove() {
      rmSync(file, { force: true });
      rmSync(file + suffix, { force: true });
    },
  };
}

function isAlive(name: string): boolean {
  const [pid, start] = name.split('-');
  return startTime(Number(pid)) === start;
}

/** When the process started, in a unit of the system's own; null when there is no such process. */
function startTime(pid: number): string | null {
  try {
    if (process.platform === 'linux') {
      // proc(5): field 22, counted after the command's closing bracket, which may itself hold spaces and brackets
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null;
    }
    const text = execFileSync('ps', ['-o', 'lstart=', '-p', String(pid)], {
      encoding: 'utf8',
      env: { LC_ALL: 'C', PATH: '/usr/bin:/bin' },
    });
    return String(Date.parse(text));
  } catch {
    return null; // no such process
  }
}
