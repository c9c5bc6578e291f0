// A run that a runner holds, through the statements alone: what a runner process does slowly is done here at once.
import {
  type CheckpointFile,
  type FencedRun,
  finishRun,
  type RunEnding,
  type RunLogRecord,
  reportRunEvents,
  reportRunLog,
  saveRunCheckpoint,
  saveRunRollouts,
} from '../../src/db/run-execution.ts';
import { formatId } from '../../src/domain/ids.ts';
import { type ClaimSettings, claimAs, queueRow } from './queue.ts';
import type { TestServer } from './server.ts';

const project = '00000000-0000-7000-8000-000000000000';
let lastId = 0;

export interface HeldRun extends FencedRun {
  id: string;
  report(events: { type: string; [field: string]: unknown }[]): Promise<boolean>;
  saveCheckpoint(step: number, files: CheckpointFile[]): Promise<boolean>;
  saveRollouts(step: number, digest: string, count: number): Promise<boolean>;
  log(record: RunLogRecord): Promise<boolean>;
  finish(outcome?: RunEnding['outcome']): Promise<boolean>;
  /** The next attempt, of a runner of its own; this one is interrupted. */
  again(): Promise<HeldRun>;
}

export async function holdRun(
  { services, database }: TestServer,
  settings: Parameters<typeof queueRow>[3] = {},
  claim: ClaimSettings = {},
): Promise<HeldRun> {
  const uuid = `00000000-0000-7000-8000-${String(++lastId).padStart(12, '0')}`;
  await services.db.transaction(project, (tx) => queueRow(tx, project, uuid, settings));
  const runner = database.open('finegrain_runner');
  const hold = async (): Promise<HeldRun> => {
    const held = (await runner.transaction(null, (tx) => claimAs(tx, 'one', claim)))!;
    let batch = 0;
    const finish = (outcome: RunEnding['outcome']) =>
      runner.transaction(null, (tx) =>
        finishRun(tx, held, {
          outcome,
          result: outcome === 'succeeded' ? {} : null,
          failure: outcome === 'failed' ? { reason: 'error', detail: 'd', exit_code: 1, log_tail: [] } : null,
          model: null,
          alias: null,
          runArtifacts: [],
          newArtifacts: [],
          events: [],
        }),
      );
    return {
      ...held,
      id: formatId('run', uuid),
      report: (events) => runner.transaction(null, (tx) => reportRunEvents(tx, held, ++batch, events)),
      saveCheckpoint: (step, files) =>
        runner.transaction(null, (tx) => saveRunCheckpoint(tx, held, step, files)),
      saveRollouts: (step, digest, count) =>
        runner.transaction(null, (tx) => saveRunRollouts(tx, held, { step, digest, bytes: 1, count })),
      log: (record) => runner.transaction(null, (tx) => reportRunLog(tx, held, record)),
      finish: (outcome = 'succeeded') => finish(outcome),
      async again() {
        await finish('interrupted');
        return hold();
      },
    };
  };
  return hold();
}
