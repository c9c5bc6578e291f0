// Every night, unless the operator has said otherwise: artifacts that nothing names any more, and what uploads have left.
import type { Task } from 'graphile-worker';

export const crontab = (times: string): string => `${times} collect-artifacts ?max=1`;

interface Collection {
  examined: number;
  deleted: number;
  deletedBytes: number;
  leftovers: number;
}

export function collectArtifactsTask(collect: () => Promise<Collection>): Task {
  return async (_payload, { logger }) => {
    const { examined, deleted, deletedBytes, leftovers } = await collect();
    if (deleted > 0 || leftovers > 0)
      logger.info(
        `${deleted} of ${examined} artifacts were deleted, ${deletedBytes} bytes; ${leftovers} unfinished uploads were removed`,
      );
  };
}
