// Statements on preference pairs.
import { type Votes, voteCount } from '../domain/votes.ts';
import type { Transaction } from './pool.ts';
import { textArray } from './text-array.ts';

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
  /** as JSON */
  prompt: string;
  responseA: string;
  responseB: string;
  preference: 'a' | 'b' | null;
  /** as JSON */
  metadata: string;
  votes: Votes;
  /** hexadecimal */
  identitySha256: string;
  contentSha256: string;
}

const columns =
  'id, dataset_id, external_id, prompt, response_a, response_b, preference, metadata, votes_a, votes_b, votes_tie, created_at';

export interface PairFilterValues {
  externalIds: string[] | null;
  preference: 'a' | 'b' | 'none' | null;
  hasEdit: boolean | null;
  createdAfter: Date | null;
  createdBefore: Date | null;
  /** as JSON */
  metadata: string | null;
}

/**
 * Whether the pair `p` fits a filter, whose values are the six parameters from `first` on. Times are compared in the
 * milliseconds that clients see. No index serves `metadata`: under row-level security Postgres looks into one only with
 * operators that are leakproof, which @> on jsonb is not.
 */
export const fitsPairFilter = (first: number): string => `
  ($${first}::text[] is null or p.external_id = any ($${first}))
  and ($${first + 1}::text is null or p.preference is not distinct from nullif($${first + 1}, 'none'))
  and ($${first + 2}::boolean is null or $${first + 2} = exists (
    select from finegrain.edits e
    where e.project_id = p.project_id and e.pair_id = p.id and e.status = 'accepted'))
  and ($${first + 3}::timestamptz is null or date_trunc('milliseconds', p.created_at) > $${first + 3})
  and ($${first + 4}::timestamptz is null or date_trunc('milliseconds', p.created_at) < $${first + 4})
  and ($${first + 5}::jsonb is null or p.metadata @> $${first + 5})`;

export const pairFilterParameters = (filter: PairFilterValues): unknown[] => [
  filter.externalIds,
  filter.preference,
  filter.hasEdit,
  filter.createdAfter,
  filter.createdBefore,
  filter.metadata,
];

/**
 * Adds pairs and returns the ids that were added, or 'all'. COPY of rows that are ready is at best twice as fast, and
 * refused under row-level security.
 * @param onConflict `skip`: adds what is not there yet; `fail`: unique_violation unless all are new, a fifth faster
 */
export async function insertPairs(
  tx: Transaction,
  projectId: string,
  datasetId: string,
  pairs: NewPair[],
  onConflict: 'skip' | 'fail',
): Promise<Set<string> | 'all'> {
  const [{ ids }] = (await tx.query<{ ids: string[] | null }>(
    `with added as (
       insert into finegrain.pairs (project_id, dataset_id, id, external_id, prompt, response_a, response_b, preference, metadata, votes_a, votes_b, votes_tie, identity_sha256, content_sha256)
       select $1, $2, n.id::uuid, n.external_id, n.prompt::jsonb, n.response_a, n.response_b, n.preference, n.metadata::jsonb,
         coalesce((n.votes::jsonb -> 'a')::int, 0), coalesce((n.votes::jsonb -> 'b')::int, 0), coalesce((n.votes::jsonb -> 'tie')::int, 0),
         decode(n.identity_sha256, 'hex'), decode(n.content_sha256, 'hex')
       from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[])
         as n (id, external_id, prompt, response_a, response_b, preference, metadata, votes, identity_sha256, content_sha256)
       ${onConflict === 'skip' ? 'on conflict do nothing' : ''}
       returning id)
     select case when count(*) < $13 then coalesce(array_agg(id), '{}') end as ids from added`,
    [
      projectId,
      datasetId,
      textArray(pairs.map((pair) => pair.id)),
      textArray(pairs.map((pair) => pair.externalId)),
      textArray(pairs.map((pair) => pair.prompt)),
      textArray(pairs.map((pair) => pair.responseA)),
      textArray(pairs.map((pair) => pair.responseB)),
      textArray(pairs.map((pair) => pair.preference)),
      textArray(pairs.map((pair) => pair.metadata)),
      textArray(pairs.map(({ votes }) => (voteCount(votes) === 0 ? null : JSON.stringify(votes)))),
      textArray(pairs.map((pair) => pair.identitySha256)),
      textArray(pairs.map((pair) => pair.contentSha256)),
      pairs.length,
    ],
  )) as [{ ids: string[] | null }];
  return ids === null ? 'all' : new Set(ids);
}

export interface StoredPairKey {
  id: string;
  external_id: string | null;
  /** hexadecimal */
  identity_sha256: string;
  content_sha256: string;
}

/** Those pairs of a dataset that carry one of the external ids, or one of the identities without an external id. Constant
 * lists, see selectPairsForEdits. */
export function selectPairKeys(
  tx: Transaction,
  datasetId: string,
  externalIds: string[],
  identities: string[],
): Promise<StoredPairKey[]> {
  return tx.query<StoredPairKey>(
    `select id, external_id, encode(identity_sha256, 'hex') as identity_sha256, encode(content_sha256, 'hex') as content_sha256
     from finegrain.pairs where dataset_id = $1 and external_id = any ($2::text[])
     union all
     select id, external_id, encode(identity_sha256, 'hex'), encode(content_sha256, 'hex')
     from finegrain.pairs where dataset_id = $1 and external_id is null
       and identity_sha256 = any ($3::bytea[])`,
    [datasetId, externalIds, identities.map((hex) => `\\x${hex}`)],
  );
}

export async function selectPair(tx: Transaction, id: string): Promise<PairRow | undefined> {
  return (await tx.query<PairRow>(`select ${columns} from finegrain.pairs where id = $1`, [id]))[0];
}

export function selectPairs(
  tx: Transaction,
  datasetId: string,
  filter: PairFilterValues,
  page: { after: string | null; limit: number },
): Promise<PairRow[]> {
  return tx.query<PairRow>(
    `select ${columns} from finegrain.pairs p
     where dataset_id = $1 and ($2::uuid is null or id > $2) and ${fitsPairFilter(4)}
     order by id limit $3`,
    [datasetId, page.after, page.limit, ...pairFilterParameters(filter)],
  );
}

export interface ExportedPairRow extends PairRow {
  /** the accepted ones, oldest first; null unless they were asked for */
  edits: { side: 'a' | 'b'; edited_response: string }[] | null;
}

/** The next pairs of a dataset: at most `limit`, and no more bytes of text than about `bytes`, but one at least. */
export function selectPairsForExport(
  tx: Transaction,
  datasetId: string,
  filter: PairFilterValues,
  page: { after: string | null; limit: number; bytes: number; withEdits: boolean },
): Promise<ExportedPairRow[]> {
  return tx.query<ExportedPairRow>(
    `with page as (
       select p.id, sum(p.size) over (order by p.id) - p.size as before from (
         select p.id, octet_length(p.response_a) + octet_length(p.response_b) + octet_length(p.prompt::text)
           + octet_length(p.metadata::text) as size
         from finegrain.pairs p
         where dataset_id = $1 and ($2::uuid is null or id > $2) and ${fitsPairFilter(6)}
         order by p.id limit $3) p
     )
     select ${columns}, e.edits
     from page join finegrain.pairs p using (id)
     left join lateral (
       select coalesce(jsonb_agg(jsonb_build_object('side', side, 'edited_response', edited_response) order by e.id), '[]') as edits
       from finegrain.edits e where e.project_id = p.project_id and e.pair_id = p.id and e.status = 'accepted') e on $5::boolean
     where page.before < $4
     order by p.id`,
    [datasetId, page.after, page.limit, page.bytes, page.withEdits, ...pairFilterParameters(filter)],
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

/**
 * The pairs that edits name, by id or by dataset and external id (of several datasets each with each); locked, so that a
 * preference cannot move meanwhile. Constant lists, no joins: Postgres knows a new table so little that it may look through
 * the whole dataset, and then once is enough.
 * @param strength `no key update`: one such transaction at a time
 */
export function selectPairsForEdits(
  tx: Transaction,
  ids: string[],
  external: { datasetIds: string[]; externalIds: string[] },
  strength: 'share' | 'no key update',
): Promise<PairRow[]> {
  return tx.query<PairRow>(
    `with named as materialized (
       select unnest($1::uuid[]) as id
       union all
       select p.id from finegrain.pairs p
       where p.dataset_id = any ($2::uuid[]) and p.external_id = any ($3::text[])
     )
     select ${columns} from finegrain.pairs where id = any (array(select named.id from named))
     order by id for ${strength}`,
    [ids, [...new Set(external.datasetIds)], external.externalIds],
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
