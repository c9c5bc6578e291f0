// What a request demands of a resource as it is before it is changed (RFC 9110, 13.1). Checked in the transaction of the
// change, under a lock that lets nobody change the resource in between.
import { type EntityTags, entityTag, matchesStrongly, matchesWeakly } from '../domain/entity-tags.ts';
import { Problem } from '../errors.ts';

export interface Precondition {
  ifMatch?: EntityTags;
  ifNoneMatch?: EntityTags;
}

/** False when nothing is demanded, and nothing need be held for it. */
export const isConditional = ({ ifMatch, ifNoneMatch }: Precondition): boolean =>
  ifMatch !== undefined || ifNoneMatch !== undefined;

/**
 * @param current the representation that GET would answer, null for none
 * @throws Problem precondition_failed
 */
export function checkPrecondition({ ifMatch, ifNoneMatch }: Precondition, current: object | null): void {
  if (ifMatch !== undefined && (current === null || !matchesStrongly(ifMatch, entityTag(current))))
    throw new Problem(
      'precondition_failed',
      'If-Match names none of the states that the resource is in now. Get it again, look at what has changed, and send its new ETag.',
    );
  if (ifNoneMatch !== undefined && current !== null && matchesWeakly(ifNoneMatch, entityTag(current)))
    throw new Problem(
      'precondition_failed',
      'If-None-Match names the state that the resource is in, or asks that there be none: it is there already.',
    );
}
