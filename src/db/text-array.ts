// A text[] parameter in Postgres's binary format. The driver writes arrays as text, where every quote and backslash is
// escaped and then read again: a third of the time of an import on this side, a tenth on the other.

const textOid = 25;

/** Long arrays of long texts; for others the driver's own way is good enough. */
export function textArray(values: readonly (string | null)[]): Buffer {
  let bytes = 20;
  for (const value of values) bytes += 4 + (value === null ? 0 : Buffer.byteLength(value));
  const array = Buffer.allocUnsafe(bytes);
  array.writeInt32BE(1, 0); // dimensions
  array.writeInt32BE(1, 4); // there may be nulls
  array.writeInt32BE(textOid, 8);
  array.writeInt32BE(values.length, 12);
  array.writeInt32BE(1, 16); // the first index
  let at = 20;
  for (const value of values) {
    const length = value === null ? -1 : array.write(value, at + 4);
    array.writeInt32BE(length, at);
    at += 4 + Math.max(length, 0);
  }
  return array;
}
