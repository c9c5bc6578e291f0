// Whether the kernel has ended a process for lack of memory: a trainer that dies by SIGKILL cannot say so itself.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * How often the kernel has done that so far, to those that share this process's memory limit (its cgroup), or, where no
 * cgroup counts, on the whole machine. null: nobody counts here.
 * @param root another one than / is for tests
 */
export async function countOomKills(root = '/'): Promise<number | null> {
  const groups = (await read(root, 'proc/self/cgroup')) ?? '';
  const versionOne = /^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.*)$/m.exec(groups)?.[1];
  const versionTwo = /^0::(.*)$/m.exec(groups)?.[1];
  // inside a container the path may be the host's, and what is mounted is the group itself
  const files =
    versionOne === undefined
      ? [`sys/fs/cgroup${versionTwo}/memory.events`, 'sys/fs/cgroup/memory.events']
      : [`sys/fs/cgroup/memory${versionOne}/memory.oom_control`, 'sys/fs/cgroup/memory/memory.oom_control'];
  for (const file of [...files, 'proc/vmstat']) {
    const count = /^oom_kill (\d+)$/m.exec((await read(root, file)) ?? '')?.[1];
    if (count !== undefined) return Number(count);
  }
  return null;
}

function read(root: string, path: string): Promise<string | null> {
  return readFile(join(root, path), 'utf8').catch(() => null); // not Linux, or another layout
}
