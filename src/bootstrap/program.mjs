// Runs the program that was set up, and ends as it ends. It gets a session of its own, so that Ctrl-C in a terminal
// (which npm may repeat) reaches it exactly once, through us; and a channel, by whose end it notices when we are killed.
import { spawn } from 'node:child_process';
import { constants } from 'node:os';

const repeatedWithinMs = 500; // a second Ctrl-C of the person takes longer than npm's copy of the first

/** Resolves to the exit code. */
export function runProgram(entry, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [entry, ...args], {
      detached: true,
      stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    });
    let last = Number.NEGATIVE_INFINITY;
    for (const [signal, passedOn] of [
      ['SIGINT', 'SIGINT'],
      ['SIGTERM', 'SIGTERM'],
      ['SIGHUP', 'SIGTERM'], // the terminal is gone
    ]) {
      process.on(signal, () => {
        const now = performance.now();
        if (now - last < repeatedWithinMs) return;
        last = now;
        child.kill(passedOn);
      });
    }
    child.once('error', reject);
    child.once('exit', (code, signal) => resolve(code ?? 128 + constants.signals[signal]));
  });
}
