// A slice of the work of the service's own editor on one edit request. Migration 0018 makes the job, and the one of the
// next slice.
import type { Task } from 'graphile-worker';

interface LlmEditorKey {
  projectId: string;
  requestId: string;
}

/** @param edit answers what to log, null when there is nothing */
export function editWithLlmTask(
  edit: (key: LlmEditorKey, signal: AbortSignal) => Promise<string | null>,
): Task {
  return async (payload, { logger, abortSignal }) => {
    const { project_id: projectId, edit_request_id: requestId } = payload as {
      project_id: string;
      edit_request_id: string;
    };
    const trouble = await edit({ projectId, requestId }, abortSignal!);
    if (trouble !== null) logger.warn(trouble);
  };
}
