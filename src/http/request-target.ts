// Request targets (RFC 9112, 3.2): what a router can read of them.

/**
 * Path and query of a target in origin form (`/path?query`) or absolute form (`http://host/path?query`).
 * @returns null for any other, and for a path whose percent-encoding is not UTF-8
 */
export function pathOfTarget(target: string): string | null {
  const path = target.startsWith('/') ? target : pathOfAbsolute(target);
  if (path === null || !path.includes('%')) return path;
  try {
    decodeURIComponent(path.split('?', 1)[0]!);
    return path;
  } catch {
    return null;
  }
}

function pathOfAbsolute(target: string): string | null {
  const rest = /^https?:\/\/[^/?#]+(.*)$/is.exec(target)?.[1];
  if (rest === undefined) return null;
  return rest.startsWith('/') ? rest : `/${rest}`;
}
