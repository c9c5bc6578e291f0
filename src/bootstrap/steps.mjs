// A step of the set-up: a program that runs quietly, with one line that says how it stands. What it printed is shown
// only when it fails. All of it goes to stderr: stdout belongs to the program that is set up.
import { spawn } from 'node:child_process';

/** A failure that the person can do something about: printed without a stack. */
export class SetUpError extends Error {}

export function say(line) {
  process.stderr.write(`${line}\n`);
}

let running = null; // the program of the current step
const exitCodes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 };
for (const signal of Object.keys(exitCodes)) process.on(signal, interrupt);

function interrupt(signal) {
  running?.kill('SIGTERM');
  say('\nInterrupted. The next start goes on from here.');
  process.exit(exitCodes[signal]);
}

/** From here on signals belong to the program that was set up. */
export function endSetUp() {
  for (const signal of Object.keys(exitCodes)) process.off(signal, interrupt);
}

/**
 * Runs a program as a step with a title; resolves to what it printed.
 * @param options.advice what the person may try when it fails
 * @param options.onSpawn gets the program's pid
 */
export async function step(title, command, args, { advice = '', onSpawn = () => undefined } = {}) {
  const started = Date.now();
  const stopProgress = showProgress(title, started);
  const { code, output } = await run(command, args, onSpawn, stopProgress.detail);
  stopProgress();
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  if (code === 0) {
    say(`${title}: done in ${seconds} s`);
    return output;
  }
  throw new SetUpError(
    `${title}: failed after ${seconds} s\n\n${shorten(output)}\n\nThe command was: ${[command, ...args].join(' ')}\n${advice}`.trimEnd(),
  );
}

/** npm says what is wrong first, pip says it last. */
function shorten(output) {
  const lines = output.trimEnd().split('\n');
  return (lines.length > 40 ? [...lines.slice(0, 15), '…', ...lines.slice(-15)] : lines).join('\n');
}

/** On a terminal one line that is written over twice a second; elsewhere a line now and then. */
function showProgress(title, started) {
  const terminal = process.stderr.isTTY;
  let detail = '';
  const line = () => `${title} … ${Math.round((Date.now() - started) / 1000)} s`;
  say(terminal ? '' : `${title} …`);
  const draw = () => {
    const width = Math.max(40, process.stderr.columns ?? 80) - 1;
    if (terminal) process.stderr.write(`\x1b[1A\r\x1b[2K${`${line()}  ${detail}`.slice(0, width)}\n`);
    else say(line());
  };
  const timer = setInterval(draw, terminal ? 500 : 20_000);
  const stop = () => {
    clearInterval(timer);
    if (terminal) process.stderr.write('\x1b[1A\r\x1b[2K');
  };
  stop.detail = (text) => {
    detail = text;
  };
  return stop;
}

function run(command, args, onSpawn, onLine) {
  return new Promise((resolve) => {
    let output = '';
    running = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    if (running.pid !== undefined) onSpawn(running.pid);
    for (const stream of [running.stdout, running.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        output = (output + text).slice(-100_000);
        onLine(text.trimEnd().split('\n').at(-1).trim());
      });
    }
    const end = (code) => {
      running = null;
      resolve({ code, output });
    };
    running.once('error', (error) => {
      output += error.message;
      end(127);
    });
    running.once('close', (code) => end(code ?? 128));
  });
}
