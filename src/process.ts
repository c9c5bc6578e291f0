// How every entry point lives and ends: SIGTERM, SIGINT or the end of its parent stop it once, in order, with exit code 0.
import { type Logger, pino } from 'pino';

export function createLogger(name: string, level: string): Logger {
  return pino(
    { name, level, redact: ['req.headers.authorization', '*.password', '*.key'] },
    pino.destination({ fd: 2, sync: true }),
  );
}

/**
 * Resolves when the process is asked to stop. A second signal does not wait any longer.
 * A child that was forked also stops when its parent goes away.
 */
export function untilStopped(): Promise<string> {
  return new Promise((resolve) => {
    let asked = false;
    const ask = (reason: string): void => {
      if (asked && reason === 'SIGINT') process.exit(130);
      asked = true;
      resolve(reason);
    };
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => ask(signal));
    if (process.send) {
      process.on('disconnect', () => ask('disconnect'));
      if (!process.connected) ask('disconnect'); // the parent went before this process could listen
    }
  });
}

/** Runs an entry point to its end; an error ends it with its message and exit code 1. */
export function runMain(main: () => Promise<void>): void {
  main().then(
    () => process.exit(),
    (error: unknown) => {
      process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
      process.exit(1);
    },
  );
}
