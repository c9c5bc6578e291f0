// The scorer processes of a process, seen from outside: tests that kill them need their ids before they say anything.
import { execFileSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';

/** Ids of the living scorer processes whose parent is `parent`. */
export function scorerProcesses(parent = process.pid): number[] {
  const lines = execFileSync('ps', ['-A', '-o', 'pid=,ppid=,stat=,args='], { encoding: 'utf8' }).split('\n');
  return lines.flatMap((line) => {
    const [, pid, ppid, state, args] = /^ *(\d+) +(\d+) +(\S+) +(.*)$/.exec(line) ?? [];
    return Number(ppid) === parent && !state!.startsWith('Z') && args!.includes('scorer-process')
      ? [Number(pid)]
      : [];
  });
}

/** Waits for what `look` finds. @throws Error after a minute without it */
export async function eventually<T>(look: () => T | undefined | null | false): Promise<T> {
  for (const end = Date.now() + 60_000; Date.now() < end; await sleep(50)) {
    const found = look();
    if (found) return found;
  }
  throw new Error(`not seen within a minute: ${look}`);
}
