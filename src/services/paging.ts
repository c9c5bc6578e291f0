// Pages of a list in the order of its ids. A page begins after the id that its cursor holds, so that rows which come and
// go in between make it neither skip nor repeat the others.
import type { Transaction } from '../db/pool.ts';
import type { Cursors } from './cursors.ts';

export interface PageRequest {
  cursor?: string | undefined;
  limit?: number | undefined;
}

export interface Page<T> {
  items: T[];
  next_cursor: string | null;
}

/** What an export reads at a time, in a transaction of its own: constant memory for any size. */
export const exportPage = { limit: 500, bytes: 4_000_000 };

/** Page after page until one is empty. @param read the rows after an id, in the order of their ids */
export async function* readPages<Row extends { id: string }>(
  read: (after: string | null) => Promise<Row[]>,
): AsyncGenerator<Row> {
  for (let after: string | null = null; ; ) {
    const rows = await read(after);
    const last = rows.at(-1);
    if (!last) return;
    yield* rows;
    after = last.id;
  }
}

/**
 * Reads the page that a request asks for; what else the request holds are the filters of the list.
 * @param projectId null for a list of the operator's
 * @throws Problem invalid_cursor for a cursor of another list, project or filter, or none of ours
 */
export async function readPage<Row extends { id: string }, T>(
  {
    cursors,
    tx,
    projectId,
    list,
  }: { cursors: Cursors; tx: Transaction; projectId: string | null; list: string },
  { cursor, limit = 50, ...filters }: PageRequest,
  fetch: (page: { after: string | null; limit: number }) => Promise<Row[]>,
  render: (row: Row) => T,
): Promise<Page<T>> {
  const name = { projectId, list, filters };
  const after = cursor === undefined ? null : await cursors.read(tx, name, cursor);
  const rows = await fetch({ after, limit: limit + 1 }); // one more, to know whether another page follows
  const page = rows.slice(0, limit);
  const last = page.at(-1);
  return {
    items: page.map(render),
    next_cursor: rows.length > limit && last ? await cursors.write(tx, name, last.id) : null,
  };
}
