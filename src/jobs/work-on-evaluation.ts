// A slice of the work on an evaluation, the service's own (migration 0022) or that of its llm judge (0023). The migrations make
// the job, and the one of the next slice.
import type { Task } from 'graphile-worker';

interface EvaluationKey {
  projectId: string;
  evaluationId: string;
}

/** @param work answers what to log, null when there is nothing */
export function workOnEvaluationTask(
  work: (key: EvaluationKey, signal: AbortSignal) => Promise<string | null>,
): Task {
  return async (payload, { logger, abortSignal }) => {
    const { project_id: projectId, evaluation_id: evaluationId } = payload as {
      project_id: string;
      evaluation_id: string;
    };
    const trouble = await work({ projectId, evaluationId }, abortSignal!);
    if (trouble !== null) logger.warn(trouble);
  };
}
