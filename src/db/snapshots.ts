// Statements on snapshots, and the one that reads what a snapshot holds.
import type { Votes } from '../domain/votes.ts';
import { readByCursor } from './cursor.ts';
import { fitsPairFilter, type PairFilterValues, pairFilterParameters } from './pairs.ts';
import type { Transaction } from './pool.ts';

export interface SnapshotRow {
  id: string;
  digest: string;
  dataset_ids: string[];
  split: unknown;
  rules: unknown;
  counts: unknown;
  created_at: Date;
}

const columns = 'id, digest, dataset_ids, split, rules, counts, created_at';

export async function insertSnapshot(
  tx: Transaction,
  snapshot: { projectId: string } & Omit<SnapshotRow, 'created_at'>,
): Promise<SnapshotRow> {
  const rows = await tx.query<SnapshotRow>(
    `insert into finegrain.snapshots (project_id, id, digest, dataset_ids, split, rules, counts) values ($1, $2, $3, $4, $5, $6, $7) returning ${columns}`,
    [
      snapshot.projectId,
      snapshot.id,
      snapshot.digest,
      snapshot.dataset_ids,
      snapshot.split,
      snapshot.rules,
      snapshot.counts,
    ],
  );
  return rows[0]!;
}

export async function selectSnapshot(tx: Transaction, id: string): Promise<SnapshotRow | undefined> {
  return (await tx.query<SnapshotRow>(`select ${columns} from finegrain.snapshots where id = $1`, [id]))[0];
}

export function selectSnapshots(
  tx: Transaction,
  page: { after: string | null; limit: number },
): Promise<SnapshotRow[]> {
  return tx.query<SnapshotRow>(
    `select ${columns} from finegrain.snapshots where $1::uuid is null or id > $1 order by id limit $2`,
    [page.after, page.limit],
  );
}

export interface SnapshotSourceRow {
  external_id: string | null;
  prompt: unknown;
  response_a: string;
  response_b: string;
  preference: 'a' | 'b' | null;
  metadata: Record<string, unknown>;
  votes: Votes;
  /** hex; of prompt and responses */
  identity: string;
  /** as the dataset has it stored */
  edit_policy: object;
  /** in an order that depends on their content only */
  edits: SnapshotSourceEdit[];
}

export interface SnapshotSourceEdit {
  /** ascends with time */
  id: string;
  side: 'a' | 'b';
  edited_response: string;
  editor: { kind: string; name: string };
  /** of the last decision of a reviewer, who accepted it; in microseconds since 1970 */
  decided_at: number | null;
  /** of the alignment that is stored */
  similarity: number;
  hunks: number;
  no_common_text: boolean;
}

/** Pairs with their accepted edits, ordered by identity and external id. */
export function selectSnapshotSource(
  tx: Transaction,
  datasetIds: string[],
  filter: PairFilterValues,
): AsyncGenerator<SnapshotSourceRow> {
  return readByCursor(tx, {
    name: 'snapshot_source',
    statement: `
     select p.external_id, p.prompt, p.response_a, p.response_b, p.preference, p.metadata,
       jsonb_build_object('a', p.votes_a, 'b', p.votes_b, 'tie', p.votes_tie) as votes,
       encode(p.identity_sha256, 'hex') as identity, d.edit_policy, coalesce(e.edits, '[]') as edits
     from finegrain.pairs p
     join finegrain.datasets d on d.project_id = p.project_id and d.id = p.dataset_id
     left join lateral (
       select jsonb_agg(
         jsonb_build_object('id', id, 'side', side, 'edited_response', edited_response,
           'editor', jsonb_build_object('kind', editor_kind, 'name', editor_name),
           'decided_at', extract(epoch from decided_at) * 1000000,
           'similarity', alignment #> '{stats,similarity}', 'hunks', alignment #> '{stats,hunks}',
           'no_common_text', alignment -> 'warnings' @> '[{"code": "no_common_text"}]')
         order by side, editor_kind, editor_name collate "C", edited_response collate "C") as edits
       from finegrain.edits where project_id = p.project_id and pair_id = p.id and status = 'accepted') e on true
     where p.dataset_id = any ($1::uuid[]) and ${fitsPairFilter(2)}
     order by p.identity_sha256, p.external_id collate "C" nulls first`,
    parameters: [datasetIds, ...pairFilterParameters(filter)],
    pageRows: 50,
  });
}
