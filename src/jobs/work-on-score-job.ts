// A slice of the work on a score job. Migration 0019 makes the job, and the one of the next slice.
import type { Task } from 'graphile-worker';

interface ScoreJobKey {
  projectId: string;
  jobId: string;
}

/** @param work answers what to log, null when there is nothing */
export function workOnScoreJobTask(
  work: (key: ScoreJobKey, signal: AbortSignal) => Promise<string | null>,
): Task {
  return async (payload, { logger, abortSignal }) => {
    const { project_id: projectId, score_job_id: jobId } = payload as {
      project_id: string;
      score_job_id: string;
    };
    const trouble = await work({ projectId, jobId }, abortSignal!);
    if (trouble !== null) logger.warn(trouble);
  };
}
