// Failures that say nothing about a run: of this machine, of its disk, of the artifact store. Another attempt, or another
// runner, may do better; a trainer that fails by itself would only fail again.
import type { RunFailure } from '../services/runs.ts';

type Trouble = Pick<RunFailure, 'reason' | 'detail'>;

/** null for an error that is the run's own */
export function troubleOf(error: unknown): Trouble | null {
  const { code = '', name, message } = error as NodeJS.ErrnoException;
  if (name === 'StoreUnavailable' || storeAway.has(code))
    return { reason: 'artifact_store', detail: `The artifact store cannot be used: ${message}` };
  if (diskFull.has(code))
    return { reason: 'disk_full', detail: `The disk of the runner is full: ${message}` };
  return null;
}

const diskFull = new Set(['ENOSPC', 'EDQUOT']);
/** a share that is away, a disk that is broken */
const storeAway = new Set(['ENOTDIR', 'EROFS', 'EIO', 'ESTALE', 'ETIMEDOUT', 'ENOTCONN', 'EHOSTDOWN']);

/** What the trainer ended of: true when that was not its own doing. */
export function isTrouble({ reason, exit_code }: RunFailure): boolean {
  return reason === 'disk_full' || reason === 'hung' || (reason === 'crashed' && exit_code === null);
}
