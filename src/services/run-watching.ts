// What can be read of a run while it works and after: metrics, log, rollouts, checkpoints. Its events are in run-stream.ts
// and runs.ts.
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import type { Transaction } from '../db/pool.ts';
import type { CheckpointFile } from '../db/run-execution.ts';
import * as db from '../db/run-watching.ts';
import { bucketPoints, type MetricBucket, type MetricPoint, newestPoints } from '../domain/metric-buckets.ts';
import { notFound, Problem } from '../errors.ts';
import type { Caller, Services } from './context.ts';
import { splitLines } from './ndjson.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { findRun } from './runs.ts';

export interface RunMetrics {
  names: string[];
  series: { name: string; points: MetricBucket[] }[];
}

/** All names there are, and the series of those that are asked for. @throws Problem not_found */
export function readMetrics(
  { db: database }: Services,
  caller: Caller,
  id: string,
  { names, points }: { names: string[]; points: number },
): Promise<RunMetrics> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findRun(tx, id);
    const series = [];
    for (const name of names) {
      const reported = pointsOf(await db.selectMetricBlocks(tx, uuid, name));
      series.push({ name, points: bucketPoints(newestPoints(reported), points) });
    }
    return { names: await db.selectMetricNames(tx, uuid), series };
  });
}

function* pointsOf(blocks: db.MetricBlockRow[]): Generator<MetricPoint> {
  for (const { steps, measured } of blocks)
    for (const [i, step] of steps.entries()) yield { step, value: measured[i]! };
}

export interface RunLog {
  /** null: no attempt has said anything */
  attempt: number | null;
  lines: string[];
  /** written so far */
  line_count: number;
  /** the whole, once the attempt has ended */
  whole: { digest: string; bytes: number; complete: boolean } | null;
  updated_at: string | null;
}

/** The last lines of the log of an attempt, of the newest one unless it is named. @throws Problem not_found */
export async function readLog(
  services: Services,
  caller: Caller,
  id: string,
  { attempt, tail }: { attempt?: number | undefined; tail: number },
): Promise<RunLog> {
  const row = await findLog(services, caller, id, attempt);
  if (!row) return { attempt: attempt ?? null, lines: [], line_count: 0, whole: null, updated_at: null };
  const { digest, bytes, complete } = row;
  return {
    attempt: row.fence,
    lines: row.newest.slice(-tail),
    line_count: row.line_count,
    whole: digest === null ? null : { digest, bytes: bytes!, complete: complete! },
    updated_at: row.updated_at.toISOString(),
  };
}

/** The log of an attempt as text: the whole of it once the attempt has ended, before that its newest lines. */
export async function openLog(
  services: Services,
  caller: Caller,
  id: string,
  attempt: number | undefined,
): Promise<Readable> {
  const row = await findLog(services, caller, id, attempt);
  if (!row) return Readable.from([]);
  if (row.digest === null) return Readable.from(row.newest.map((line) => `${line}\n`));
  return unzipped(await openArtifact(services, row.digest, 'log'));
}

function findLog(
  { db: database }: Services,
  caller: Caller,
  id: string,
  attempt: number | undefined,
): Promise<db.LogRow | undefined> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findRun(tx, id);
    if (attempt !== undefined && !(await db.selectHasAttempt(tx, uuid, attempt)))
      throw notFound('attempt', String(attempt), '/attempt');
    return db.selectLog(tx, uuid, attempt ?? null);
  });
}

export interface RolloutStep {
  step: number;
  attempt: number;
  count: number;
  bytes: number;
  created_at: string;
}

/** The steps whose responses were sampled. @throws Problem not_found, invalid_cursor */
export function listRolloutSteps(
  { db: database, cursors }: Services,
  caller: Caller,
  id: string,
  request: PageRequest,
): Promise<Page<RolloutStep>> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findRun(tx, id);
    return readPage(
      { cursors, tx, projectId: caller.projectId, list: `rollouts of ${uuid}` },
      request,
      async ({ after, limit }) => {
        const rows = await db.selectRolloutSteps(tx, uuid, {
          after: after === null ? -1 : numberOf(after),
          limit,
        });
        return rows.map((row) => ({ ...row, id: asId(row.step) }));
      },
      (row) => ({
        step: row.step,
        attempt: row.fence,
        count: row.row_count,
        bytes: row.bytes,
        created_at: row.created_at.toISOString(),
      }),
    );
  });
}

// a rollout has some numbers for each of its tokens
const maxRolloutBytes = 64 * 1024 * 1024;

/** The responses of a step, as the trainer wrote them. @throws Problem not_found, invalid_cursor */
export async function listRollouts(
  services: Services,
  caller: Caller,
  id: string,
  step: number,
  request: PageRequest,
): Promise<Page<object>> {
  const { db: database, cursors } = services;
  const page = <Row extends { id: string }>(
    tx: Transaction,
    uuid: string,
    fetch: (page: { after: string | null; limit: number }) => Promise<Row[]>,
  ) =>
    readPage(
      { cursors, tx, projectId: caller.projectId, list: `rollouts of ${uuid} at ${step}` },
      request,
      fetch,
      (row) => row,
    );
  // the file is read between two transactions, not in one
  const found = await database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findRun(tx, id);
    const row = await db.selectRollouts(tx, uuid, step);
    if (!row) throw notFound('step with rollouts', String(step), '/step');
    let wanted = { after: null as string | null, limit: 0 };
    await page(tx, uuid, async (asked) => {
      wanted = asked;
      return [];
    });
    return {
      uuid,
      digest: row.digest,
      first: wanted.after === null ? 0 : numberOf(wanted.after) + 1,
      limit: wanted.limit,
    };
  });
  const rows = await readRows(services, found);
  return database.transaction(caller.projectId, async (tx) => {
    const { items, next_cursor } = await page(tx, found.uuid, async () => rows);
    return { items: items.map(({ row }) => row), next_cursor };
  });
}

/** `limit` rows from the one numbered `first` on; nothing of the file is held but those. */
async function readRows(
  services: Services,
  { digest, first, limit }: { digest: string; first: number; limit: number },
): Promise<{ id: string; row: object }[]> {
  const source = unzipped(await openArtifact(services, digest, 'rollouts'));
  const rows = [];
  let number = 0;
  for await (const line of splitLines(source, maxRolloutBytes)) {
    if (line === null) throw new Error(`Line ${number + 1} of the rollouts ${digest} is too long.`);
    // not as strict as with what clients send: a policy may say anything, NUL too
    if (number >= first) rows.push({ id: asId(number), row: JSON.parse(Buffer.from(line).toString()) });
    number += 1;
    if (rows.length === limit) break;
  }
  source.destroy();
  return rows;
}

/** Lists that go by a number have cursors like all others: the number in the place of the id. */
const asId = (number: number): string => {
  const hex = number.toString(16).padStart(32, '0');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
};
const numberOf = (id: string): number => Number.parseInt(id.replaceAll('-', ''), 16);

export interface Checkpoint {
  step: number;
  attempt: number;
  bytes: number;
  files: CheckpointFile[];
  created_at: string;
}

/** Files of a checkpoint lie in a folder of its own in the work folder of the run. */
const ownPath = (path: string): string => path.split('/').slice(2).join('/');

/** Newest first. @throws Problem not_found, invalid_cursor */
export function listCheckpoints(
  { db: database, cursors }: Services,
  caller: Caller,
  id: string,
  request: PageRequest,
): Promise<Page<Checkpoint>> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await findRun(tx, id);
    return readPage(
      { cursors, tx, projectId: caller.projectId, list: `checkpoints of ${uuid}` },
      request,
      async ({ after, limit }) => {
        const rows = await db.selectCheckpoints(tx, uuid, {
          before: after === null ? null : numberOf(after),
          limit,
        });
        return rows.map((row) => ({ ...row, id: asId(row.step) }));
      },
      ({ step, fence, files, created_at }) => ({
        step,
        attempt: fence,
        bytes: files.reduce((sum, { bytes }) => sum + bytes, 0),
        files: files.map((file) => ({ ...file, path: ownPath(file.path) })),
        created_at: created_at.toISOString(),
      }),
    );
  });
}

/** @throws Problem not_found */
export async function findCheckpoint(tx: Transaction, uuid: string, step: number): Promise<db.CheckpointRow> {
  const row = await db.selectCheckpoint(tx, uuid, step);
  if (!row) throw notFound('checkpoint', String(step));
  return row;
}

/** @throws Problem not_found */
export async function openCheckpointFile(
  services: Services,
  caller: Caller,
  id: string,
  step: number,
  path: string,
): Promise<{ file: CheckpointFile; content: Readable }> {
  const file = await services.db.transaction(caller.projectId, async (tx) => {
    const { files } = await findCheckpoint(tx, (await findRun(tx, id)).id, step);
    return files.find((file) => ownPath(file.path) === path);
  });
  if (!file) throw notFound('file of this checkpoint', path);
  return { file, content: await openArtifact(services, file.digest, `file ${path}`) };
}

/** @throws Problem unprocessable for what the database names and the artifact store lacks */
async function openArtifact({ artifacts }: Services, digest: string, what: string): Promise<Readable> {
  if (await artifacts.has(digest)) return artifacts.read(digest);
  throw new Problem('unprocessable', `The ${what} (${digest}) is missing from the artifact store.`);
}

function unzipped(source: Readable): Readable {
  const unzip = createGunzip();
  source.on('error', (error) => unzip.destroy(error));
  unzip.on('close', () => source.destroy());
  return source.pipe(unzip);
}
