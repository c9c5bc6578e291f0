// Ids for rows that come by the thousand: UUIDv7 (RFC 9562) that ascend within this process. Random bits are drawn for many
// at a time, as drawing them for one takes longer than all else of it.
import { v7 } from 'uuid';

const drawn = new Uint8Array(16 * 256);
let taken = drawn.length;
let msecs = 0;
let seq = 0;

export function ascendingUuid(): string {
  if (taken === drawn.length) {
    crypto.getRandomValues(drawn);
    taken = 0;
  }
  const random = drawn.subarray(taken, taken + 16);
  taken += 16;
  const now = Date.now();
  if (now > msecs) {
    msecs = now;
    seq = new DataView(random.buffer, random.byteOffset).getUint32(0) >>> 2; // leaves room for a billion more
  } else seq++;
  return v7({ random, msecs, seq });
}
