// What a runner does with a run besides training: claim it, keep its lease, report, save checkpoints, end it. Every
// write names the attempt's fence; false or null means that the run belongs to another attempt now: stop.
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pipeline as connect } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import type { Database } from '../db/pool.ts';
import * as db from '../db/run-execution.ts';
import { formatId, parseId } from '../domain/ids.ts';
import type { ArtifactStore } from '../storage/artifact-store.ts';
import { holdArtifacts, untilNamed } from './named-artifacts.ts';
import type { RunInputs } from './run-inputs.ts';
import type { KindSpec } from './run-specs.ts';
import type { RunFailure } from './runs.ts';

export { listenForRuns } from '../db/run-execution.ts';

/** What a runner has: a database role that may call the fenced functions only, and the artifact store. */
export interface RunnerServices {
  db: Database;
  artifacts: ArtifactStore;
  /** folder of the model folders that were fetched before */
  modelCache: string;
}

export type HeldRun = KindSpec & {
  /** public id */
  id: string;
  inputs: RunInputs;
  /** the class of hardware that it asks for */
  hardware: string;
  /** counts the attempts of this run */
  fence: number;
  key: db.FencedRun;
  checkpoint: { step: number; files: db.CheckpointFile[] } | null;
  /** of the time limit; null without one */
  secondsLeft: number | null;
};

export type Runner = db.RunnerRecord;

export function registerRunner({ db: database }: RunnerServices, runner: Runner): Promise<void> {
  return database.transaction(null, (tx) => db.registerRunner(tx, runner));
}

export function stopRunner({ db: database }: RunnerServices, { id }: Runner): Promise<void> {
  return database.transaction(null, (tx) => db.stopRunner(tx, id));
}

/** The first queued run that this runner can take, by priority and age, or null. */
export async function claimRun(services: RunnerServices, runner: Runner): Promise<HeldRun | null> {
  const row = await services.db.transaction(null, (tx) => db.claimRun(tx, runner.id));
  if (!row) return null;
  const { project_id, run_id, fence, kind, spec, inputs, hardware, checkpoint, seconds_left } = row;
  return {
    ...({ kind, spec } as KindSpec), // written by createRun, which parsed them
    id: formatId('run', run_id),
    inputs: inputs as RunInputs,
    hardware,
    fence,
    key: { project_id, run_id, fence },
    checkpoint,
    secondsLeft: seconds_left,
  };
}

export function heartbeat(
  services: RunnerServices,
  run: HeldRun,
  leaseSeconds: number,
): Promise<string | null> {
  return services.db.transaction(null, (tx) => db.heartbeatRun(tx, run.key, leaseSeconds));
}

export interface RunEventInput {
  type: string;
  [field: string]: unknown;
}

/** @param batch counts the batches of this attempt from 1; one that is written already is not written again */
export function reportEvents(
  services: RunnerServices,
  run: HeldRun,
  batch: number,
  events: RunEventInput[],
): Promise<boolean> {
  return services.db.transaction(null, (tx) => db.reportRunEvents(tx, run.key, batch, events.map(storable)));
}

/** Uploads a checkpoint's folder and records it, so that another attempt can go on from there. */
export async function saveCheckpoint(
  services: RunnerServices,
  run: HeldRun,
  workFolder: string,
  checkpoint: { step: number; path: string; digest: string },
): Promise<boolean> {
  return untilNamed(async () => {
    const files = await uploadFolder(services.artifacts, join(workFolder, checkpoint.path));
    const manifest = files.find(({ path }) => path === 'manifest.json');
    if (manifest?.digest !== checkpoint.digest) {
      throw new Error(
        `The checkpoint of step ${checkpoint.step} is not what the trainer wrote: its manifest has another digest.`,
      );
    }
    const placed = files.map((file) => ({ ...file, path: `${checkpoint.path}/${file.path}` }));
    return services.db.transaction(null, async (tx) => {
      await holdArtifacts(tx, services.artifacts, digestsOf(files));
      return db.saveRunCheckpoint(tx, run.key, checkpoint.step, placed);
    });
  });
}

const digestsOf = (files: { digest: string }[]): string[] => files.map(({ digest }) => digest);

/** Uploads sampled responses of a step and records them. */
export async function saveRollouts(
  services: RunnerServices,
  run: HeldRun,
  workFolder: string,
  { step, path, count }: { step: number; path: string; count: number },
): Promise<boolean> {
  return untilNamed(async () => {
    const stored = await services.artifacts.putFile(join(workFolder, path));
    return services.db.transaction(null, async (tx) => {
      await holdArtifacts(tx, services.artifacts, [stored.digest]);
      return db.saveRunRollouts(tx, run.key, { step, count, ...stored });
    });
  });
}

export interface LogReport {
  lineCount: number;
  newest: string[];
  /** the file that holds the whole, once nothing more comes; complete: it was not cut off */
  whole: { path: string; complete: boolean } | null;
}

/** Records the newest lines of the trainer's log; at its end also the whole, compressed. */
export async function reportLog(
  services: RunnerServices,
  run: HeldRun,
  { lineCount, newest, whole }: LogReport,
): Promise<boolean> {
  return untilNamed(async () => {
    const kept = whole && {
      ...(await services.artifacts.put(compressedFile(whole.path))),
      complete: whole.complete,
    };
    return services.db.transaction(null, async (tx) => {
      await holdArtifacts(tx, services.artifacts, kept ? [kept.digest] : []);
      return db.reportRunLog(tx, run.key, { lineCount, newest: newest.map(storable), kept });
    });
  });
}

async function* compressedFile(path: string): AsyncGenerator<Buffer> {
  yield* connect(createReadStream(path), createGzip(), () => {}); // an error reaches whoever reads
}

/**
 * Puts the last checkpoint, if there is one, back where the trainer looks for it; without one of its own a run goes on from
 * the one that it is to promote.
 */
export async function restoreCheckpoint(
  services: RunnerServices,
  run: HeldRun,
  workFolder: string,
): Promise<void> {
  for (const { path, digest } of (run.checkpoint ?? run.inputs.checkpoint)?.files ?? []) {
    const target = join(workFolder, path);
    await mkdir(dirname(target), { recursive: true });
    await pipeline(services.artifacts.read(digest), createWriteStream(target));
  }
}

/** Stores every file below `folder`; paths are relative to it, in order. */
export async function uploadFolder(artifacts: ArtifactStore, folder: string): Promise<db.CheckpointFile[]> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true });
  const names = entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort();
  const files: db.CheckpointFile[] = [];
  for (const path of names) files.push({ path, ...(await artifacts.putFile(join(folder, path))) });
  return files;
}

/**
 * Ends the attempt without a model: for good (`failed`, `cancelled`), or to be taken up again (`interrupted`, `paused`, and
 * `lost`, up to max_attempts).
 */
export function finishWithout(
  services: RunnerServices,
  run: HeldRun,
  outcome: 'failed' | 'cancelled' | 'interrupted' | 'paused' | 'lost',
  failure: RunFailure | null = null,
): Promise<boolean> {
  return finish(services, run, {
    outcome,
    result: null,
    failure,
    runArtifacts: [],
    newArtifacts: [],
    model: null,
    alias: null,
    events: [],
  });
}

/** @param files what the ending names. @throws ArtifactsGone */
export function finish(
  services: RunnerServices,
  run: HeldRun,
  ending: db.RunEnding,
  files: { digest: string }[] = [],
): Promise<boolean> {
  return services.db.transaction(null, async (tx) => {
    await holdArtifacts(tx, services.artifacts, digestsOf(files));
    return db.finishRun(tx, run.key, storable(ending));
  });
}

export interface AttemptName {
  /** public id */
  runId: string;
  fence: number;
}

/** Those of these attempts that have ended; what they have left on disk can go. */
export async function endedAttempts(
  services: RunnerServices,
  attempts: AttemptName[],
): Promise<AttemptName[]> {
  const keys = attempts.flatMap(({ runId, fence }) => {
    const run_id = parseId('run', runId);
    return run_id ? [{ run_id, fence }] : [];
  });
  const ended = await services.db.transaction(null, (tx) => db.selectEndedAttempts(tx, keys));
  return ended.map(({ run_id, fence }) => ({ runId: formatId('run', run_id), fence }));
}

/** For the worker: queues the runs again whose runner was lost. */
export function reapLostAttempts(database: Database): Promise<number> {
  return database.transaction(null, db.reapLostAttempts);
}

const longestText = 10_000;

/** A copy that fits into jsonb: no NUL, no lone surrogate, no endless text. The trainer's words come from anywhere. */
export function storable<T>(value: T): T {
  if (typeof value === 'string') return storableText(value) as T;
  if (Array.isArray(value)) return value.map(storable) as T;
  if (typeof value === 'object' && value !== null) {
    return Object.fromEntries(
      Object.entries(value).map(([key, child]) => [storableText(key), storable(child)]),
    ) as T;
  }
  return value;
}

function storableText(text: string): string {
  const cut = text.length > longestText ? `${text.slice(0, longestText)}…` : text;
  return cut.toWellFormed().replaceAll('\0', '\ufffd');
}
