// What a snapshot's artifact holds: a header line and one canonical (RFC 8785) line per pair, in an order that depends
// on content only, so that equal content has an equal digest on every machine. Shared by the API and the runner.
import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';
import type { SnapshotSourceEdit, SnapshotSourceRow } from '../db/snapshots.ts';
import type { Minimality } from '../domain/minimality.ts';
import { type Votes, voteCount } from '../domain/votes.ts';
import type { ArtifactStore } from '../storage/artifact-store.ts';
import { completePolicy, hasDefaultThresholds, thresholdsOf } from './edit-policy.ts';
import { readNdjson } from './ndjson.ts';
import type { PairInput } from './pair-rows.ts';
import { type SelectedPair, type SnapshotRules, selectOfPair } from './snapshot-rules.ts';

export const splits = ['train', 'validation', 'test'] as const;
export type Split = (typeof splits)[number];

/** Fractions of the prompts, together 1, and the seed that decides which prompt goes where. */
export type SplitSpec = Record<Split, number> & { seed: number };

export interface SnapshotRow extends Omit<PairInput, 'votes'> {
  /** first 32 hex digits of the SHA-256 of the pair's content: the same in every snapshot that holds the pair */
  key: string;
  split: Split;
  edits: Pick<SnapshotSourceEdit, 'side' | 'edited_response' | 'editor'>[];
  /** of a pair that has any */
  votes?: Votes;
  /** over which an edit of the pair is a rewrite; where the dataset has thresholds of its own */
  minimality?: Minimality;
}

export interface PartCounts {
  pairs: number;
  edits: number;
  /** pairs without a preference, ambiguous ones among them */
  undecided: number;
  /** edits without token labels, as they are not minimal */
  rewrites: number;
}

export interface SnapshotCounts extends PartCounts {
  /** pairs whose votes do not agree enough with their preference */
  ambiguous: number;
  left_out: { undecided_pairs: number; unedited_pairs: number; rewrites: number; competing_edits: number };
  splits: Record<Split, PartCounts>;
}

/** Decided by seed and prompt alone: no prompt is ever in two parts. */
export function splitOf(prompt: unknown, { seed, train, validation }: SplitSpec): Split {
  const hash = createHash('sha256')
    .update(canonicalize([seed, prompt])!)
    .digest();
  const position = hash.readUIntBE(0, 6) / 2 ** 48;
  return position < train ? 'train' : position < train + validation ? 'validation' : 'test';
}

export interface SnapshotSelection {
  split: SplitSpec;
  rules: SnapshotRules;
  /** only pairs of which the rules leave an edit */
  edited: boolean;
}

/** The lines of the artifact; `counts` is complete when the last line has been taken. */
export async function* snapshotLines(
  source: AsyncIterable<SnapshotSourceRow>,
  { split, rules, edited }: SnapshotSelection,
  counts: SnapshotCounts,
): AsyncGenerator<string> {
  yield `${canonicalize({ format: 1, split })}\n`;
  // pairs of several datasets may be equal up to what the rules leave of them: their lines are ordered by themselves
  let equal: { identity: string; lines: string[] } = { identity: '', lines: [] };
  for await (const pair of source) {
    const selected = selectOfPair(pair, rules);
    counts.left_out.rewrites += selected.leftOut.rewrites;
    counts.left_out.competing_edits += selected.leftOut.competing;
    if (selected.preference === null && rules.undecided === 'exclude') {
      counts.left_out.undecided_pairs++;
      continue;
    }
    if (edited && selected.edits.length === 0) {
      counts.left_out.unedited_pairs++;
      continue;
    }
    const row = snapshotRow(pair, selected, split);
    count(counts, row, selected);
    const identity = canonicalize([pair.identity, pair.external_id])!;
    if (identity !== equal.identity) {
      yield* equal.lines.sort();
      equal = { identity, lines: [] };
    }
    equal.lines.push(`${canonicalize(row)}\n`);
  }
  yield* equal.lines.sort();
}

function snapshotRow(
  pair: SnapshotSourceRow,
  { preference, edits }: SelectedPair,
  split: SplitSpec,
): SnapshotRow {
  const { external_id, prompt, response_a, response_b, metadata, votes } = pair;
  const identity = canonicalize([external_id, prompt, response_a, response_b])!;
  const policy = completePolicy(pair.edit_policy);
  return {
    key: createHash('sha256').update(identity).digest('hex').slice(0, 32),
    split: splitOf(prompt, split),
    external_id,
    prompt: prompt as PairInput['prompt'],
    response_a,
    response_b,
    preference,
    metadata,
    edits: edits.map(({ side, edited_response, editor }) => ({ side, edited_response, editor })),
    ...(voteCount(votes) === 0 ? {} : { votes }),
    ...(hasDefaultThresholds(policy) ? {} : { minimality: thresholdsOf(policy) }),
  };
}

function count(
  counts: SnapshotCounts,
  { split, preference, edits }: SnapshotRow,
  selected: SelectedPair,
): void {
  counts.ambiguous += selected.ambiguous ? 1 : 0;
  for (const total of [counts, counts.splits[split]]) {
    total.pairs++;
    total.edits += edits.length;
    total.undecided += preference === null ? 1 : 0;
    total.rewrites += selected.rewrites;
  }
}

/** Counts of a snapshot that an older version made, with less detail. */
export function completeCounts(stored: SnapshotCounts): SnapshotCounts {
  const none = emptyCounts();
  const parts = Object.fromEntries(
    splits.map((split) => [split, { ...none.splits[split], ...stored.splits[split] }]),
  ) as SnapshotCounts['splits'];
  return { ...none, ...stored, splits: parts };
}

export function emptyCounts(): SnapshotCounts {
  const none = () => ({ pairs: 0, edits: 0, undecided: 0, rewrites: 0 });
  return {
    ...none(),
    ambiguous: 0,
    left_out: { undecided_pairs: 0, unedited_pairs: 0, rewrites: 0, competing_edits: 0 },
    splits: { train: none(), validation: none(), test: none() },
  };
}

/** The pairs of a snapshot's artifact, in its order. @throws Error when the artifact is not a snapshot of this format */
export async function* snapshotRows(artifacts: ArtifactStore, digest: string): AsyncGenerator<SnapshotRow> {
  let header: { format?: number } | undefined;
  for await (const line of readNdjson(artifacts.read(digest), Number.POSITIVE_INFINITY)) {
    if ('error' in line) throw new Error(`Line ${line.line} of the snapshot ${digest} ${line.error.detail}.`);
    if (header) yield line.value as SnapshotRow;
    else {
      header = line.value as { format?: number };
      if (header.format !== 1)
        throw new Error(`The snapshot ${digest} has the format ${header.format}; this version reads 1.`);
    }
  }
}
