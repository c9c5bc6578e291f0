// A slice of the work of the llm judge on one evaluation. Migration 0023 makes the job, and the one of the next slice.
import type { Task } from 'graphile-worker';

interface EvaluationKey {
  projectId: string;
  evaluationId: string;
}

/** @param judge answers what to log, null when there is nothing */
export function judgeWithLlmTask(
  judge: (key: EvaluationKey, signal: AbortSignal) => Promise<string | null>,
): Task {
  return async (payload, { logger, abortSignal }) => {
    const { project_id: projectId, evaluation_id: evaluationId } = payload as {
      project_id: string;
      evaluation_id: string;
    };
    const trouble = await judge({ projectId, evaluationId }, abortSignal!);
    if (trouble !== null) logger.warn(trouble);
  };
}
