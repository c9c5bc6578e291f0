// Which core a process runs on, and what it has used of it, from Linux.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

const ticksPerSecond = 100;

/** Runs `start` so that every process which it starts has these cores and no others; ours stays where it was. */
export async function onCores<T>(cores: string, start: () => Promise<T>): Promise<T> {
  const before = affinityOf(process.pid);
  bind(process.pid, cores);
  try {
    return await start();
  } finally {
    bind(process.pid, before);
  }
}

export function bind(pid: number, cores: string): void {
  const { status, stderr } = spawnSync('taskset', ['--all-tasks', '--cpu-list', '--pid', cores, String(pid)]);
  if (status !== 0) throw new Error(`taskset: ${stderr}`);
}

const affinityOf = (pid: number): string =>
  /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]!;

/** CPU seconds that the processes and their living descendants have used, in user and kernel mode. */
export function cpuSeconds(roots: readonly number[]): number {
  const wanted = new Set(roots);
  const processes = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => readStat(Number(name)))
    .sort((a, b) => a.startedAt - b.startedAt); // parents before their children
  for (const { pid, parent } of processes) if (wanted.has(parent)) wanted.add(pid);
  return processes.reduce((sum, { pid, ticks }) => sum + (wanted.has(pid) ? ticks : 0), 0) / ticksPerSecond;
}

function readStat(pid: number): { pid: number; parent: number; ticks: number; startedAt: number }[] {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat
      .slice(stat.lastIndexOf(')') + 2)
      .split(' ')
      .map(Number); // the name before may hold anything
    return [{ pid, parent: fields[1]!, ticks: fields[11]! + fields[12]!, startedAt: fields[19]! }];
  } catch {
    return []; // it has ended
  }
}

/** Peers in bfloat16 are honest ones only where the processor has instructions for it. */
export const hasBfloat16 = (): boolean => /avx512_bf16|amx_bf16/.test(readFileSync('/proc/cpuinfo', 'utf8'));
