// Runs a program to its end and keeps what it printed. Each gets a process group of its own, so that one signal ends
// it together with all that it started.
import { spawn } from 'node:child_process';

export interface Ended {
  code: number;
  output: string;
}

const groups = new Set<number>();
let ending = false;

export function runProgram(
  command: string,
  args: string[],
  options: { env?: NodeJS.ProcessEnv; cwd?: string } = {},
): Promise<Ended> {
  if (ending) return Promise.resolve({ code: 130, output: '' });
  return new Promise((resolve) => {
    const child = spawn(command, args, { ...options, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    if (child.pid !== undefined) groups.add(child.pid);
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        output += text;
      });
    }
    let code = 127;
    child.once('error', (error) => resolve({ code, output: `${output}${command}: ${error.message}\n` }));
    child.once('exit', (exitCode) => {
      code = exitCode ?? 128;
      if (child.pid === undefined) return;
      signalGroup(child.pid, 'SIGKILL'); // whatever it left behind
      groups.delete(child.pid);
      // a process that left the group may hold the pipe open: do not wait for it
      setTimeout(() => {
        child.stdout.destroy();
        child.stderr.destroy();
      }, 1000).unref();
    });
    child.once('close', () => resolve({ code, output }));
  });
}

/** Asks every program to end, and does not take no for an answer. */
export function endAllPrograms(): void {
  ending = true;
  for (const group of groups) {
    signalGroup(group, 'SIGTERM');
    setTimeout(signalGroup, 3000, group, 'SIGKILL').unref();
  }
}

function signalGroup(group: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-group, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
