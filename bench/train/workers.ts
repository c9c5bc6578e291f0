// Training programs that take turns: each is a process on one core that goes on for ever and says when a step is done. It
// is stopped while others have their turn, so that it starts, loads and warms up once.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { cpuSeconds } from '../score/processes.ts';

export interface Worker {
  name: string;
  /** Takes this many steps on its own; the step that it was stopped in is finished before the clock runs. */
  turn(steps: number): Promise<Turn>;
  stop(): Promise<void>;
}

export interface Turn {
  seconds: number;
  cpuSeconds: number;
  /** mean tokens of a response, EOS included */
  length: number;
}

/**
 * Starts a program and stops it after its first steps.
 * @param command program and arguments
 * @param lengthOf the mean length that a line on its standard output tells, undefined if it does not end a step
 */
export async function startWorker(
  name: string,
  [program, ...args]: [string, ...string[]],
  env: NodeJS.ProcessEnv,
  // biome-ignore lint/suspicious/noExplicitAny: lines of the program's own
  lengthOf: (line: any) => number | undefined,
): Promise<Worker> {
  const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  const kill = (): boolean => child.kill('SIGKILL');
  process.once('exit', kill); // a stopped process would stay for ever
  const complaints: string[] = [];
  child.stderr
    .setEncoding('utf8')
    .on('data', (text: string) => complaints.splice(0, complaints.length - 20, text));
  const steps = stepsOf(child, lengthOf);
  const next = async (): Promise<number> => {
    const { done, value } = await steps.next();
    if (done) throw new Error(`${name} ended with ${child.exitCode}:\n${complaints.join('')}`);
    return value;
  };
  await next();
  await next();
  child.kill('SIGSTOP');
  return {
    name,
    async turn(count) {
      child.kill('SIGCONT');
      await next();
      const [started, cpu] = [performance.now(), cpuSeconds([child.pid!])];
      let length = 0;
      for (let step = 0; step < count; step++) length += (await next()) / count;
      const turn = {
        seconds: (performance.now() - started) / 1000,
        cpuSeconds: cpuSeconds([child.pid!]) - cpu,
        length,
      };
      child.kill('SIGSTOP');
      return turn;
    },
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      process.off('exit', kill);
      const gone = once(child, 'exit');
      kill();
      await gone;
    },
  };
}

async function* stepsOf(
  child: ChildProcess,
  // biome-ignore lint/suspicious/noExplicitAny: lines of the program's own
  lengthOf: (line: any) => number | undefined,
): AsyncGenerator<number, void> {
  for await (const line of createInterface({ input: child.stdout! })) {
    const length = lengthOf(JSON.parse(line));
    if (length !== undefined) yield length;
  }
}
