// Runs a program to its end and keeps what it printed. Each gets a process group of its own, so that one signal ends
// it together with all that it started.
import { spawn } from 'node:child_process';

export interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

const groups = new Set<number>();
let ending = false;

/** @param limitMs after it the program and all that it started is killed */
export function runProgram(
  command: string,
  args: string[],
  env: NodeJS.ProcessEnv = process.env,
  limitMs?: number,
): Promise<Ended> {
  const ended: Ended = { code: 127, stdout: '', stderr: '' };
  if (ending) return Promise.resolve(ended);
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      env: { ...env, NO_COLOR: '1' },
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    if (child.pid !== undefined) groups.add(child.pid);
    const overdue = limitMs && setTimeout(signalGroup, limitMs, child.pid, 'SIGKILL');
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      ended.stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      ended.stderr += text;
    });
    child.once('error', (error) => {
      ended.stderr += `${error.message}\n`;
      resolve(ended);
    });
    child.once('exit', (code) => {
      clearTimeout(overdue);
      ended.code = code ?? 128;
      signalGroup(child.pid, 'SIGKILL'); // whatever it left behind
      // what left the group as well may still hold the pipes open: it is not waited for
      setTimeout(() => {
        child.stdout.destroy();
        child.stderr.destroy();
      }, 1000).unref();
    });
    child.once('close', () => {
      if (child.pid !== undefined) groups.delete(child.pid);
      resolve(ended);
    });
  });
}

/** Asks every program to end, and does not take no for an answer; starts no new one. */
export function endAllPrograms(): void {
  ending = true;
  for (const group of groups) {
    signalGroup(group, 'SIGTERM');
    setTimeout(signalGroup, 3000, group, 'SIGKILL').unref();
  }
}

function signalGroup(group: number | undefined, signal: NodeJS.Signals): void {
  if (group === undefined) return;
  try {
    process.kill(-group, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
