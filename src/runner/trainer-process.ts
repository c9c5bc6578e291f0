// The trainer as a child process: a process group of its own, an environment of listed variables only, a life line on
// its standard input, its output as lines. Nothing of it outlives `ended`.
import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { splitLines } from '../services/ndjson.ts';

export interface TrainerCommand {
  python: string;
  args: string[];
  /** a trainer that says nothing for as long hangs, and is killed */
  silenceSeconds: number;
  /** all that the trainer sees of the environment, besides where its package lies */
  environment: Record<string, string>;
  workFolder: string;
  /** gets each line of its standard error */
  onLogLine: (line: string) => void;
}

export interface TrainerExit {
  code: number | null;
  signal: NodeJS.Signals | null;
  /** why it could not be started */
  error: Error | null;
  /** it was killed because it had said nothing for too long */
  hung: boolean;
}

export interface Trainer {
  /** Its standard output; null stands for a line longer than a megabyte. */
  lines: AsyncIterable<string | null>;
  ended: Promise<TrainerExit>;
  /** the last lines of its standard error */
  logTail(): string[];
  /** Asks it to keep a checkpoint and to end; it is killed when it takes longer than `graceMs`. */
  terminate(graceMs: number): void;
  kill(): void;
}

const pingMs = 10_000;
const maxLineBytes = 1 << 20;
const keptLogLines = 50;
const maxLogLineBytes = 4096;

const packageFolder = fileURLToPath(new URL('../../runners', import.meta.url));

export function startTrainer({
  python,
  args,
  silenceSeconds,
  environment,
  workFolder,
  onLogLine,
}: TrainerCommand): Trainer {
  const child = spawn(python, ['-m', 'finegrain_trainer', ...args], {
    cwd: workFolder,
    env: trainerEnvironment(environment),
    detached: true, // a group of its own: Ctrl-C does not reach it, and its own children end with it
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  child.stdin.on('error', () => {}); // it is gone; `ended` says so
  const ping = setInterval(() => child.stdin.write('\n'), pingMs);
  child.stdin.write('\n');

  const tail: string[] = [];
  const readLog = keepTail(child.stderr, tail, onLogLine);
  let killer: NodeJS.Timeout | undefined;
  let hung = false;
  const onSilence = (): void => {
    hung = true;
    killGroup(child);
  };
  const ended = exitOf(child).then(async (exit) => {
    clearInterval(ping);
    clearTimeout(killer);
    killGroup(child); // what the trainer has started and left
    closeWhenEmpty([child.stdout, child.stderr]);
    await readLog;
    return { ...exit, hung };
  });
  return {
    lines: watchSilence(textLines(child.stdout, maxLineBytes), silenceSeconds * 1000, onSilence),
    ended,
    logTail: () => [...tail],
    terminate(graceMs) {
      child.kill('SIGTERM');
      killer ??= setTimeout(() => killGroup(child), graceMs);
    },
    kill: () => killGroup(child),
  };
}

/** @param environment what of the runner's own may be passed on */
export function trainerEnvironment(environment: Record<string, string>): Record<string, string> {
  return {
    ...environment,
    PYTHONPATH: packageFolder,
    PYTHONUNBUFFERED: '1',
    PYTHONDONTWRITEBYTECODE: '1',
    PYTHONFAULTHANDLER: '1', // a native crash says where on standard error
  };
}

function exitOf(child: ChildProcess): Promise<Omit<TrainerExit, 'hung'>> {
  return new Promise((resolve) => {
    child.once('exit', (code, signal) => resolve({ code, signal, error: null }));
    child.once('error', (error) => {
      if (child.pid === undefined) resolve({ code: null, signal: null, error });
    });
  });
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error; // nobody is left
  }
}

/** What left the process group may hold the pipes open for ever: they are closed once all has been read. */
function closeWhenEmpty(streams: Readable[]): void {
  const timer = setInterval(() => {
    for (const stream of streams) if (stream.readableLength === 0) stream.destroy();
    if (streams.every((stream) => stream.destroyed)) clearInterval(timer);
  }, 1000);
}

const afterSleepMs = 1000;

/** Passes lines on. The time in which nobody asks for the next one is no silence, nor is that in which this process sleeps. */
async function* watchSilence<Line>(
  lines: AsyncIterable<Line>,
  silenceMs: number,
  onSilence: () => void,
): AsyncGenerator<Line> {
  let timer: NodeJS.Timeout | undefined;
  const wait = (): void => {
    timer = setTimeout(() => {
      timer = setTimeout(onSilence, afterSleepMs); // a process that slept finds its timers over before it has read
    }, silenceMs);
  };
  try {
    wait();
    for await (const line of lines) {
      clearTimeout(timer);
      yield line;
      wait();
    }
  } finally {
    clearTimeout(timer);
  }
}

async function keepTail(stream: Readable, tail: string[], onLine: (line: string) => void): Promise<void> {
  for await (const text of textLines(stream, maxLogLineBytes)) {
    const line = text ?? '(a very long line)';
    onLine(line);
    tail.push(line);
    if (tail.length > keptLogLines) tail.shift();
  }
}

/** The lines of a stream, null for one that is too long; ends when the stream is closed, however. */
async function* textLines(stream: Readable, maxBytes: number): AsyncGenerator<string | null> {
  const utf8 = new TextDecoder();
  try {
    for await (const line of splitLines(stream, maxBytes)) yield line && utf8.decode(line);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_STREAM_PREMATURE_CLOSE') throw error;
  }
}
