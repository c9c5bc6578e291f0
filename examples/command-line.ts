// What the annotation programs share as commands: their variables, their output, and an end that says what went wrong.

/** @throws Error that asks for the variable */
export function environment(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`Set ${name}.`);
  return value;
}

/** A line of JSON on standard output, for whoever started the program. */
export function printLine(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** An error ends the program with its message and exit code 1. */
export function runMain(main: () => Promise<void>): void {
  main().catch((error: Error) => {
    process.stderr.write(`${messageOf(error)}\n`);
    process.exitCode = 1;
  });
}

/** The message, with what fetch keeps in `cause`: that a connection was refused, or a name not found. */
export function messageOf(error: Error): string {
  const cause = error.cause as { message?: string; code?: string } | undefined;
  const reason = cause?.message || cause?.code; // several addresses that all fail have a code only
  return reason ? `${error.message}: ${reason}` : error.message;
}
