// Preference pairs: batches (all or nothing), streamed imports (row by row), list, export, preference.
import { hash } from 'node:crypto';
import canonicalize from 'canonicalize';
import { updateEditsOfPair } from '../db/edits.ts';
import * as db from '../db/pairs.ts';
import { sqlState, type Transaction } from '../db/pool.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { type Votes, voteCount } from '../domain/votes.ts';
import { notFound, Problem, type ProblemDetail } from '../errors.ts';
import { ascendingUuid } from './ascending-uuid.ts';
import type { Caller, Services } from './context.ts';
import { findDataset } from './datasets.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';
import { filterOfQuery, filterValues, type PairFilterQuery } from './pair-filter.ts';
import { type PairInput, parsePairRow } from './pair-rows.ts';
import { checkPrecondition, type Precondition } from './preconditions.ts';
import { type ImportResult, importRows, type RowOutcome, type RowStream } from './row-import.ts';

export interface Pair extends PairInput {
  id: string;
  dataset_id: string;
  created_at: string;
}

export function renderPair(row: db.PairRow): Pair {
  return {
    id: formatId('pair', row.id),
    dataset_id: formatId('dataset', row.dataset_id),
    external_id: row.external_id,
    prompt: row.prompt as Pair['prompt'],
    response_a: row.response_a,
    response_b: row.response_b,
    preference: row.preference,
    metadata: row.metadata,
    votes: votesOf(row),
    created_at: row.created_at.toISOString(),
  };
}

export const votesOf = ({ votes_a: a, votes_b: b, votes_tie: tie }: db.PairRow): Votes => ({ a, b, tie });

// biome-ignore lint/suspicious/noControlCharactersInRegex: what JSON escapes
const escaped = /["\\\u0000-\u001f]/;

/** RFC 8785, of well-formed text; JSON.stringify alone takes three times as long for any beyond U+00FF. */
const canonicalText = (text: string): string => (escaped.test(text) ? JSON.stringify(text) : `"${text}"`);

const scratch = Buffer.allocUnsafe(64 * 1024);

/** The SHA-256 of `${text}]` and of `${text}${rest}]`, hexadecimal. */
function sha256OfBoth(text: string, rest: string): [string, string] {
  if (3 * (text.length + rest.length) >= scratch.length)
    return [hash('sha256', `${text}]`), hash('sha256', `${text}${rest}]`)];
  // encoded once instead of twice
  const end = scratch.write(text);
  const whole = hash('sha256', scratch.subarray(0, end + scratch.write(`${rest}]`, end)));
  scratch.write(']', end);
  return [hash('sha256', scratch.subarray(0, end + 1)), whole];
}

/**
 * The hashes are over canonical JSON (RFC 8785): of [prompt, a, b], and of [prompt, a, b, preference, metadata], with the
 * votes behind them where there are any.
 */
export function newPair(input: PairInput): db.NewPair {
  const { prompt, response_a, response_b, preference, votes } = input;
  const canonicalPrompt = typeof prompt === 'string' ? canonicalText(prompt) : canonicalize(prompt)!;
  const metadata = canonicalize(input.metadata)!;
  const [identitySha256, contentSha256] = sha256OfBoth(
    `[${canonicalPrompt},${canonicalText(response_a)},${canonicalText(response_b)}`,
    `,${JSON.stringify(preference)},${metadata}${voteCount(votes) > 0 ? `,${canonicalize(votes)}` : ''}`,
  );
  return {
    id: ascendingUuid(),
    externalId: input.external_id,
    prompt: canonicalPrompt,
    responseA: response_a,
    responseB: response_b,
    preference,
    metadata,
    votes,
    identitySha256,
    contentSha256,
  };
}

type PairStatus = 'created' | 'unchanged' | 'conflict';

/** Adds pairs to a dataset; says of each whether it is new, was there already, or contradicts one that is there. */
async function addPairs(
  tx: Transaction,
  projectId: string,
  datasetId: string,
  pairs: db.NewPair[],
): Promise<{ id: string; status: PairStatus }[]> {
  const created = await db.insertPairs(tx, projectId, datasetId, pairs, 'skip');
  if (created === 'all') return pairs.map(({ id }) => ({ id, status: 'created' }));
  const others = pairs.filter(({ id }) => !created.has(id));
  const stored = new Map(
    (
      await db.selectPairKeys(
        tx,
        datasetId,
        others.flatMap(({ externalId }) => externalId ?? []),
        others.map(({ identitySha256 }) => identitySha256),
      )
    ).map((row) => [row.external_id ?? row.identity_sha256, row]),
  );
  return pairs.map((pair) => {
    if (created.has(pair.id)) return { id: pair.id, status: 'created' };
    const there = stored.get(pair.externalId ?? pair.identitySha256)!;
    return {
      id: there.id,
      status: there.content_sha256 === pair.contentSha256 ? 'unchanged' : 'conflict',
    };
  });
}

const conflictDetail = (externalId: string | null): string =>
  externalId === null
    ? 'the dataset has a pair with this prompt and these responses, but with another preference or other metadata'
    : `the dataset has a pair with the external_id ${JSON.stringify(externalId)} and other content`;

export interface PairBatchResult {
  created: number;
  unchanged: number;
  items: { id: string; external_id: string | null; status: 'created' | 'unchanged' }[];
}

/** All or nothing. @throws Problem conflict with a pointer to each pair that contradicts a stored one */
export function createPairs(
  { db: database }: Services,
  caller: Caller,
  datasetId: string,
  inputs: PairInput[],
): Promise<PairBatchResult> {
  return database.transaction(caller.projectId, async (tx) => {
    const dataset = await findDataset(tx, datasetId);
    const added = await addPairs(tx, caller.projectId, dataset.id, inputs.map(newPair));
    const errors: ProblemDetail[] = added.flatMap(({ status }, index) =>
      status === 'conflict'
        ? [{ pointer: `/pairs/${index}`, detail: conflictDetail(inputs[index]!.external_id), in: 'body' }]
        : [],
    );
    if (errors.length > 0) {
      throw new Problem(
        'conflict',
        `${errors.length} of ${inputs.length} pairs contradict stored ones; nothing was added.`,
        { errors },
      );
    }
    const items = added.map(({ id, status }, index) => ({
      id: formatId('pair', id),
      external_id: inputs[index]!.external_id,
      status: status as 'created' | 'unchanged',
    }));
    const created = items.filter(({ status }) => status === 'created').length;
    return { created, unchanged: items.length - created, items };
  });
}

/** Imports row by row; repeated, it adds what is missing. @throws Problem not_found */
export async function importPairs(
  services: Services,
  caller: Caller,
  datasetId: string,
  source: RowStream,
): Promise<ImportResult> {
  const { id } = await services.db.transaction(caller.projectId, (tx) => findDataset(tx, datasetId));
  return importRows(
    source,
    (value) => {
      const row = parsePairRow(value);
      return 'code' in row ? row : newPair(row);
    },
    pairStore(services, caller, id),
  );
}

/** Stores batches of an import. */
function pairStore(
  { db: database }: Services,
  { projectId }: Caller,
  datasetId: string,
): (pairs: db.NewPair[]) => Promise<RowOutcome[]> {
  let expectsNew = true;
  return async (pairs) => {
    if (expectsNew) {
      try {
        await database.transaction(projectId, (tx) =>
          db.insertPairs(tx, projectId, datasetId, pairs, 'fail'),
        );
        return pairs.map(() => 'created');
      } catch (error) {
        if (sqlState(error) !== uniqueViolation) throw error;
        expectsNew = false;
      }
    }
    const added = await database.transaction(projectId, (tx) => addPairs(tx, projectId, datasetId, pairs));
    expectsNew = added.every(({ status }) => status === 'created');
    return added.map(({ status }, index) => {
      if (status !== 'conflict') return status;
      const { externalId } = pairs[index]!;
      const pointer = externalId === null ? '' : '/external_id';
      return { code: 'conflict', pointer, detail: conflictDetail(externalId) };
    });
  };
}

const uniqueViolation = '23505';

export function listPairs(
  { db: database, cursors }: Services,
  caller: Caller,
  datasetId: string,
  request: PageRequest & PairFilterQuery,
): Promise<Page<Pair>> {
  const { cursor: _cursor, limit: _limit, ...query } = request;
  const filter = filterValues(filterOfQuery(query));
  return database.transaction(caller.projectId, async (tx) => {
    const dataset = await findDataset(tx, datasetId);
    return readPage(
      { cursors, tx, projectId: caller.projectId, list: `pairs of ${dataset.id}` },
      request,
      (page) => db.selectPairs(tx, dataset.id, filter, page),
      renderPair,
    );
  });
}

/** @throws Problem not_found */
export async function findPair(tx: Transaction, id: string): Promise<db.PairRow> {
  const uuid = parseId('pair', id);
  const row = uuid ? await db.selectPair(tx, uuid) : undefined;
  if (!row) throw notFound('pair', id);
  return row;
}

export function getPair({ db: database }: Services, caller: Caller, id: string): Promise<Pair> {
  return database.transaction(caller.projectId, async (tx) => renderPair(await findPair(tx, id)));
}

/** The pair as it stays until the transaction ends. @throws Problem not_found, precondition_failed */
export async function lockPair(
  tx: Transaction,
  id: string,
  strength: 'no key update' | 'update',
  condition: Precondition,
): Promise<db.PairRow> {
  const uuid = parseId('pair', id);
  const row = uuid ? await db.lockPair(tx, uuid, strength) : undefined;
  if (!row) throw notFound('pair', id);
  checkPrecondition(condition, renderPair(row));
  return row;
}

/**
 * Edits of the side that is now preferred become stale; others count again.
 * @throws Problem not_found, precondition_failed
 */
export function setPreference(
  { db: database }: Services,
  caller: Caller,
  id: string,
  preference: 'a' | 'b' | null,
  condition: Precondition,
): Promise<Pair> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await lockPair(tx, id, 'no key update', condition);
    const row = (await db.updatePreference(tx, uuid, preference))!;
    await updateEditsOfPair(tx, uuid, preference);
    return renderPair(row);
  });
}

/** Deletes a pair with its edits; snapshots that hold it keep it. @throws Problem not_found, precondition_failed */
export async function deletePair(
  { db: database }: Services,
  caller: Caller,
  id: string,
  condition: Precondition,
): Promise<void> {
  await database.transaction(caller.projectId, async (tx) => {
    const { id: uuid } = await lockPair(tx, id, 'update', condition);
    await db.deletePair(tx, uuid);
  });
}
