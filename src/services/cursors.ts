// Cursors of lists: the id that a page ended with, signed together with the project, the list and its filters. So a
// cursor says nothing that its page did not, and is good for nothing but the next page of the same list. The secret lies
// in the database: every process on it signs alike.
import { createHmac, timingSafeEqual } from 'node:crypto';
import canonicalize from 'canonicalize';
import { selectCursorSecret } from '../db/installation.ts';
import type { Transaction } from '../db/pool.ts';
import { Problem } from '../errors.ts';

export interface ListName {
  /** null for what belongs to no project */
  projectId: string | null;
  list: string;
  filters: object;
}

export interface Cursors {
  write(tx: Transaction, name: ListName, id: string): Promise<string>;
  /** The id that the cursor holds. @throws Problem invalid_cursor unless it was written for the same list */
  read(tx: Transaction, name: ListName, cursor: string): Promise<string>;
}

const idBytes = 16;
const macBytes = 17; // 136 bits; with the id a multiple of three, so that base64 leaves no bit unused

export function openCursors(): Cursors {
  let secret: Buffer | null = null;
  const macOf = async (tx: Transaction, { projectId, list, filters }: ListName, id: Buffer) => {
    secret ??= await selectCursorSecret(tx);
    const signed = canonicalize([projectId, list, filters, id.toString('hex')])!;
    return createHmac('sha256', secret).update(signed).digest().subarray(0, macBytes);
  };
  return {
    async write(tx, name, uuid) {
      const id = Buffer.from(uuid.replaceAll('-', ''), 'hex');
      return Buffer.concat([id, await macOf(tx, name, id)]).toString('base64url');
    },
    async read(tx, name, cursor) {
      const bytes = Buffer.from(cursor, 'base64url');
      // the decoder passes over what is not base64
      if (bytes.length !== idBytes + macBytes || bytes.toString('base64url') !== cursor)
        throw invalidCursor();
      const id = bytes.subarray(0, idBytes);
      if (!timingSafeEqual(bytes.subarray(idBytes), await macOf(tx, name, id))) throw invalidCursor();
      return id.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
    },
  };
}

const invalidCursor = (): Problem =>
  new Problem(
    'invalid_cursor',
    'Use the next_cursor of an earlier page as it was given, for the same list with the same filters; or none, to begin at the start.',
    { errors: [{ pointer: '/cursor', detail: 'was not made by this list', in: 'query' }] },
  );
