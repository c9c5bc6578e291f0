// Strong entity tags (RFC 9110, 8.8.3): the hash of a representation, so equal tags mean equal bytes.
import { createHash } from 'node:crypto';

/** What If-Match and If-None-Match hold: any representation at all, or tags as they are written, `W/` included. */
export type EntityTags = '*' | string[];

/** @param representation as JSON.stringify writes it into the body */
export function entityTag(representation: object): string {
  const hash = createHash('sha256').update(JSON.stringify(representation)).digest('base64url');
  return `"${hash.slice(0, 32)}"`; // 192 bits
}

const tag = '(?:W/)?"[!#-~]*"'; // of ASCII, as all of ours are
const tags = new RegExp(tag, 'g');
/** Empty elements of a list are allowed (RFC 9110, 5.6.1). */
const list = new RegExp(`^[ \\t,]*${tag}(?:[ \\t]*,[ \\t,]*${tag})*[ \\t,]*$`);

/** A header that is no list of tags names no state, so that no condition holds by mistake. */
export function parseEntityTags(header: string): EntityTags {
  if (header === '*') return '*';
  return list.test(header) ? header.match(tags)! : [];
}

/** Strong comparison: a weak tag equals nothing. */
export const matchesStrongly = (tags: EntityTags, current: string): boolean =>
  tags === '*' || tags.includes(current);

/** Weak comparison: `W/` makes no difference. */
export const matchesWeakly = (tags: EntityTags, current: string): boolean =>
  tags === '*' || tags.some((one) => one.replace(/^W\//, '') === current);
