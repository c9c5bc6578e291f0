// The worker at a score job, for a slice of time under a lease (migration 0019). A batch of items is scored, written as a
// part and saved with the place behind it; the next slice, after whatever ended this one, goes on from there. Batches,
// scores and their compression depend on nothing but the input, so that the parts are the same whoever made them, and the
// result, which is one part after the other, is too.
import { promisify } from 'node:util';
import { gzip as gzipWithCallback } from 'node:zlib';
import { insertArtifact } from '../db/artifacts.ts';
import type { Transaction } from '../db/pool.ts';
import * as db from '../db/score-jobs.ts';
import { Problem } from '../errors.ts';
import type { ServedModel } from '../scoring/engine.ts';
import type { Services } from './context.ts';
import { holdArtifacts, untilNamed } from './named-artifacts.ts';
import { type Batch, countRows, type JobItem, readBatches, type Source } from './score-job-items.ts';
import type { FailureReason, ScoreJobInputs, ScoreJobRequest, ScoreJobResult } from './score-jobs.ts';
import { type FailedItem, type RewardedItem, renderItem, type ScoreItem, scoreItems } from './scoring.ts';
import { usualTimes, workInSlice } from './work-slice.ts';

export type ScoreJobServices = Pick<Services, 'db' | 'artifacts' | 'scoring'>;

const gzip = promisify(gzipWithCallback);
const mediaType = 'application/gzip';

interface Work {
  services: ScoreJobServices;
  slice: db.ScoreJobSlice;
  request: ScoreJobRequest;
  inputs: ScoreJobInputs;
  source: Source;
  /** the job was cancelled, the slice lost, or the worker is to stop */
  stop: AbortSignal;
  lost: AbortController;
}

/**
 * Works for a slice of time on a job that is due. Safe to call at any time, by several workers at once.
 * @returns what to log, null when there is nothing
 */
export async function scoreSlice(
  services: ScoreJobServices,
  key: db.ScoreJobKey,
  signal: AbortSignal,
  times = usualTimes,
): Promise<string | null> {
  const begun = await services.db.transaction(key.projectId, (tx) =>
    db.beginSlice(tx, key, times.leaseSeconds),
  );
  if (!begun) return null;
  const slice = { ...key, fence: begun.fence };
  const inTransaction = <T>(act: (tx: Transaction) => Promise<T>): Promise<T> =>
    services.db.transaction(key.projectId, act);
  return workInSlice<FailureReason>(
    {
      name: `the score job ${key.jobId}`,
      renew: () => inTransaction((tx) => db.renewSlice(tx, slice, times.leaseSeconds)),
      async work(stop, lost, endsAt) {
        const request = begun.request as ScoreJobRequest;
        const inputs = begun.inputs as ScoreJobInputs;
        const source = { digest: inputs.source, bytes: begun.source_bytes, what: request.input.what ?? null };
        await workOff({ services, slice, request, inputs, source, stop, lost }, begun, endsAt);
      },
      end: (end) => inTransaction((tx) => db.endSlice(tx, slice, end)),
      failureOf: (error) =>
        error instanceof Problem && error.code === 'unprocessable'
          ? { reason: 'model_refused', detail: error.message }
          : null,
      async giveUp(failure) {
        await inTransaction((tx) => db.finishScoreJob(tx, slice, { failure }));
      },
    },
    { troubles: begun.troubles, times, signal },
  );
}

const endSlice = ({ services, slice }: Work, end: Parameters<typeof db.endSlice>[2]): Promise<void> =>
  services.db.transaction(slice.projectId, (tx) => db.endSlice(tx, slice, end));

async function workOff(work: Work, begun: db.SliceRow, endsAt: number): Promise<void> {
  const { services, slice, source, stop } = work;
  if (begun.total === null && begun.done === 0) {
    const total = await countRows(services.artifacts, source, stop);
    if (total !== null) await services.db.transaction(slice.projectId, (tx) => db.setTotal(tx, slice, total));
  }
  const place = { lines: begun.read_lines, bytes: begun.read_bytes };
  for await (const batch of readBatches(services.artifacts, source, place, begun.done)) {
    stop.throwIfAborted();
    await savePart(work, batch);
    if (Date.now() >= endsAt) return endSlice(work, { restSeconds: 0, troubles: 0 });
  }
  await finish(work);
}

/** A part is a gzip member of its own: one after the other, they are a gzip file. */
async function savePart(work: Work, { items, after }: Batch): Promise<void> {
  const { services, slice, request } = work;
  const scores = await scoreBatch(work, items);
  let failed = 0;
  let tokens = 0;
  const lines = items.map(({ line, id, ...item }, index) => {
    const score = 'error' in item ? { status: 'error' as const, ...item.error } : scores.get(index)!;
    if ('status' in score) {
      failed++;
      return JSON.stringify({ line, id, ...score });
    }
    tokens += score.promptIds.length + score.responseIds.length;
    return JSON.stringify({ line, id, ...renderItem(score, request.unit) });
  });
  const content = await gzip(lines.map((line) => `${line}\n`).join(''));
  const position = { readBytes: after.bytes, readLines: after.lines };
  await untilNamed(async () => {
    const { digest } = await services.artifacts.put(inOnePiece(content));
    const saved = await services.db.transaction(slice.projectId, async (tx) => {
      await holdArtifacts(tx, services.artifacts, [digest]);
      return db.insertPart(tx, slice, { digest, ...position, done: items.length, failed, tokens });
    });
    if (!saved) throw lose(work);
  });
}

function lose({ lost }: Work): Error {
  lost.abort();
  return new Error('The slice was lost.');
}

async function* inOnePiece(content: Buffer): AsyncGenerator<Buffer> {
  yield content;
}

/** Of the items that can be scored, by their position. */
async function scoreBatch(work: Work, items: JobItem[]): Promise<Map<number, RewardedItem | FailedItem>> {
  const positions: number[] = [];
  const scorable: ScoreItem[] = [];
  for (const [position, item] of items.entries()) {
    if ('error' in item) continue;
    positions.push(position);
    scorable.push(item);
  }
  const scores = await scoreTogether(work, scorable).catch((error) => {
    if (!isScorerTrouble(work, error)) throw error;
    return scoreOneByOne(work, scorable);
  });
  return new Map(positions.map((position, index) => [position, scores[index]!]));
}

const servedModel = ({ projectId }: db.ScoreJobSlice, { model }: ScoreJobInputs): ServedModel => ({
  ...model,
  project_id: model.shared ? null : projectId,
});

const scoreTogether = ({ services, slice, inputs, request, stop }: Work, items: ScoreItem[]) =>
  scoreItems(
    services,
    servedModel(slice, inputs),
    items,
    { ...request, precision: inputs.model.precision },
    stop,
  );

const isScorerTrouble = ({ stop }: Work, error: unknown): boolean =>
  !stop.aborted && error instanceof Problem && error.code === 'unavailable';

/**
 * A scorer has died twice, or its server has failed, of one of the items perhaps. One by one they show of which, and it
 * costs that one's line only.
 * @throws Problem unavailable when scorers die without it, or the server serves nobody
 */
async function scoreOneByOne(work: Work, items: ScoreItem[]): Promise<(RewardedItem | FailedItem)[]> {
  const scores: (RewardedItem | FailedItem)[] = [];
  for (const item of items) {
    const [score] = await scoreTogether(work, [item]).catch(async (error): Promise<FailedItem[]> => {
      if (!isScorerTrouble(work, error)) throw error;
      await work.services.scoring.warm(servedModel(work.slice, work.inputs), work.stop);
      const detail =
        'What scores with this model failed over this item, also when it was tried again, and works without it.';
      return [{ status: 'error', code: 'model_failed', detail }];
    });
    scores.push(score!);
  }
  return scores;
}

/** The parts, one after the other, become the result; they themselves are left to the collector. */
async function finish(work: Work): Promise<void> {
  const { services, slice, stop } = work;
  const { projectId } = slice;
  const parts = await services.db.transaction(projectId, (tx) => db.selectParts(tx, slice));
  async function* joined(): AsyncGenerator<Buffer> {
    if (parts.length === 0) yield await gzip('');
    for (const part of parts) {
      stop.throwIfAborted();
      yield* services.artifacts.read(part);
    }
  }
  await untilNamed(async () => {
    const { digest, bytes } = await services.artifacts.put(joined());
    const result: ScoreJobResult = { digest, bytes, media_type: mediaType };
    const finished = await services.db.transaction(projectId, async (tx) => {
      await holdArtifacts(tx, services.artifacts, [digest]);
      if (!(await db.finishScoreJob(tx, slice, { result }))) return false;
      await insertArtifact(tx, { projectId, digest, bytes, mediaType });
      return true;
    });
    if (!finished) throw lose(work);
  });
}
