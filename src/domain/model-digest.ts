// The digest of a model: SHA-256 of the RFC 8785 JSON of its files, sorted by path. Equal files give an equal digest on
// every machine.
import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';

export function modelDigest(files: readonly { path: string; digest: string; bytes: number }[]): string {
  const sorted = files
    .map(({ path, digest, bytes }) => ({ path, digest, bytes }))
    .sort((a, b) => (a.path < b.path ? -1 : 1));
  return `sha256:${createHash('sha256').update(canonicalize(sorted)!).digest('hex')}`;
}
