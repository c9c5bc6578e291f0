// The header Range (RFC 9110, section 14.2), of one range of bytes.

/** Half-open; null for the whole, as for what is not one range of bytes: a server may pass that over. */
export function rangeOf(
  header: string | undefined,
  bytes: number,
): { start: number; end: number } | 'unsatisfiable' | null {
  const [, first = '', last = ''] = /^bytes=(\d*)-(\d*)$/.exec(header?.trim() ?? '') ?? [];
  if (first === '' && last === '') return null;
  if (first === '') {
    const start = Math.max(0, bytes - Number(last));
    return start < bytes ? { start, end: bytes } : 'unsatisfiable';
  }
  const end = last === '' ? bytes : Math.min(bytes, Number(last) + 1);
  if (last !== '' && Number(last) < Number(first)) return null;
  return Number(first) < bytes ? { start: Number(first), end } : 'unsatisfiable';
}
