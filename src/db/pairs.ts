// Statements on preference pairs.
import type { Votes } from '../domain/votes.ts';
import type { Transaction } from './pool.ts';

export interface PairRow {
  id: string;
  dataset_id: string;
  external_id: string | null;
  prompt: unknown;
  response_a: string;
  response_b: string;
  preference: 'a' | 'b' | null;
  metadata: Record<string, unknown>;
  votes_a: number;
  votes_b: number;
  votes_tie: number;
  created_at: Date;
}

export interface NewPair {
  id: string;
  externalId: string | null;
  prompt: unknown;
  responseA: string;
  responseB: string;
  preference: 'a' | 'b' | null;
  metadata: Record<string, unknown>;
  votes: Votes;
  identitySha256: Buffer;
  contentSha256: Buffer;
}

const columns =
  'id, dataset_id, external_id, prompt, response_a, response_b, preference, metadata, votes_a, votes_b, votes_tie, created_at';

/** Adds what is not there yet and returns the ids that were added. Tens of thousands of rows a second. */
export async function insertPairs(
  tx: Transaction,
  projectId: string,
  datasetId: string,
  pairs: NewPair[],
): Promise<Set<string>> {
  const rows = await tx.query<{ id: string }>(
    `insert into finegrain.pairs (project_id, dataset_id, id, external_id, prompt, response_a, response_b, preference, metadata, votes_a, votes_b, votes_tie, identity_sha256, content_sha256)
     select $1, $2, n.id, n.external_id, n.prompt::jsonb, n.response_a, n.response_b, n.preference, n.metadata::jsonb, n.votes_a, n.votes_b, n.votes_tie, n.identity_sha256, n.content_sha256
     from unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::int[], $11::int[], $12::int[], $13::bytea[], $14::bytea[])
       as n (id, external_id, prompt, response_a, response_b, preference, metadata, votes_a, votes_b, votes_tie, identity_sha256, content_sha256)
     on conflict do nothing
     returning id`,
    [
      projectId,
      datasetId,
      pairs.map((pair) => pair.id),
      pairs.map((pair) => pair.externalId),
      pairs.map((pair) => JSON.stringify(pair.prompt)),
      pairs.map((pair) => pair.responseA),
      pairs.map((pair) => pair.responseB),
      pairs.map((pair) => pair.preference),
      pairs.map((pair) => JSON.stringify(pair.metadata)),
      pairs.map((pair) => pair.votes.a),
      pairs.map((pair) => pair.votes.b),
      pairs.map((pair) => pair.votes.tie),
      pairs.map((pair) => pair.identitySha256),
      pairs.map((pair) => pair.contentSha256),
    ],
  );
  return new Set(rows.map(({ id }) => id));
}

export interface StoredPairKey {
  id: string;
  external_id: string | null;
  identity_sha256: Buffer;
  content_sha256: Buffer;
}

/** Those pairs of a dataset that carry one of the external ids, or one of the identities without an external id. */
export function selectPairKeys(
  tx: Transaction,
  datasetId: string,
  externalIds: string[],
  identities: Buffer[],
): Promise<StoredPairKey[]> {
  return tx.query<StoredPairKey>(
    `select id, external_id, identity_sha256, content_sha256 from finegrain.pairs
     where dataset_id = $1 and (external_id = any ($2::text[]) or (external_id is null and identity_sha256 = any ($3::bytea[])))`,
    [datasetId, externalIds, identities],
  );
}

export async function selectPair(tx: Transaction, id: string): Promise<PairRow | undefined> {
  return (await tx.query<PairRow>(`select ${columns} from finegrain.pairs where id = $1`, [id]))[0];
}

export function selectPairs(
  tx: Transaction,
  datasetId: string,
  page: { after: string | null; limit: number },
): Promise<PairRow[]> {
  return tx.query<PairRow>(
    `select ${columns} from finegrain.pairs where dataset_id = $1 and ($2::uuid is null or id > $2) order by id limit $3`,
    [datasetId, page.after, page.limit],
  );
}

/** `share`: against changes, as selectPairsForEdits does; `no key update`: to change it; `update`: to delete it. */
export async function lockPair(
  tx: Transaction,
  id: string,
  strength: 'share' | 'no key update' | 'update',
): Promise<PairRow | undefined> {
  return (
    await tx.query<PairRow>(`select ${columns} from finegrain.pairs where id = $1 for ${strength}`, [id])
  )[0];
}

/** The pairs that edits name, by id or by dataset and external id; locked, so that a preference cannot move meanwhile. */
export function selectPairsForEdits(
  tx: Transaction,
  ids: string[],
  external: { datasetIds: string[]; externalIds: string[] },
): Promise<PairRow[]> {
  return tx.query<PairRow>(
    `select ${columns} from finegrain.pairs
     where id = any ($1::uuid[])
        or (dataset_id, external_id) in (select * from unnest($2::uuid[], $3::text[]))
     order by id for share`,
    [ids, external.datasetIds, external.externalIds],
  );
}

export async function updatePreference(
  tx: Transaction,
  id: string,
  preference: 'a' | 'b' | null,
): Promise<PairRow | undefined> {
  return (
    await tx.query<PairRow>(`update finegrain.pairs set preference = $2 where id = $1 returning ${columns}`, [
      id,
      preference,
    ])
  )[0];
}

/** The row is locked, so that no vote is lost. */
export async function updateVotes(
  tx: Transaction,
  id: string,
  votes: { a: number; b: number; tie: number },
  preference: 'a' | 'b' | null,
): Promise<PairRow> {
  const rows = await tx.query<PairRow>(
    `update finegrain.pairs set votes_a = $2, votes_b = $3, votes_tie = $4, preference = $5
     where id = $1 returning ${columns}`,
    [id, votes.a, votes.b, votes.tie, preference],
  );
  return rows[0]!;
}

export async function deletePair(tx: Transaction, id: string): Promise<boolean> {
  return (await tx.query('delete from finegrain.pairs where id = $1 returning id', [id])).length > 0;
}
