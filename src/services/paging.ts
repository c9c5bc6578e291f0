// Cursors: opaque to the caller, stable under inserts, made of the last id of a page.
import { Problem } from '../errors.ts';

export interface PageRequest {
  cursor?: string | undefined;
  limit?: number | undefined;
}

export interface Page<T> {
  items: T[];
  next_cursor: string | null;
}

const uuidPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** The id after which a page begins, null for the first. @throws Problem invalid_cursor */
export function readCursor(cursor: string | undefined): string | null {
  if (cursor === undefined) return null;
  const id = Buffer.from(cursor, 'base64url').toString('latin1');
  if (!uuidPattern.test(id)) {
    throw new Problem(
      'invalid_cursor',
      'Use the next_cursor of an earlier page as it was given, or none to begin at the start.',
      {
        errors: [{ pointer: '/cursor', detail: 'not a cursor', in: 'query' }],
      },
    );
  }
  return id;
}

/** Fetches one row more than asked for, to know whether another page follows. */
export async function readPage<Row extends { id: string }, T>(
  request: PageRequest,
  fetch: (page: { after: string | null; limit: number }) => Promise<Row[]>,
  render: (row: Row) => T,
): Promise<Page<T>> {
  const limit = request.limit ?? 50;
  const rows = await fetch({ after: readCursor(request.cursor), limit: limit + 1 });
  const page = rows.slice(0, limit);
  const last = page.at(-1);
  return {
    items: page.map(render),
    next_cursor: rows.length > limit && last ? Buffer.from(last.id, 'latin1').toString('base64url') : null,
  };
}
