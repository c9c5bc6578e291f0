// Which errors say that the database cannot be reached for now: the same statement may work in a moment.

/**
 * Those of sockets and name look-ups, PostgreSQL's classes 08 (connection), 53 (resources), 57P0x (shutdown)
 * and 25P03 (a transaction that idled), and pg's own, which have no code.
 */
export function isDatabaseUnreachable(error: unknown): boolean {
  const { code = '', message } = error as Error & { code?: string };
  return (
    /^(ECONN\w+|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|08\w{3}|53\w{3}|57P0\w|25P03)$/.test(code) ||
    /^Connection terminated|^timeout exceeded when trying to connect|connection error and is not queryable/.test(
      message,
    )
  );
}

/** Postgres gave up one of two transactions that stood in each other's way (class 40): it has changed nothing. */
export function isRolledBack(error: unknown): boolean {
  return /^40\w{3}$/.test((error as { code?: string }).code ?? '');
}
