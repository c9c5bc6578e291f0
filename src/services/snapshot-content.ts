// What a snapshot's artifact holds: a header line and one canonical (RFC 8785) line per pair, in an order that depends
// on content only, so that equal content has an equal digest on every machine. Shared by the API and the runner.
import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';
import type { SnapshotSourceRow } from '../db/snapshots.ts';
import type { ArtifactStore } from '../storage/artifact-store.ts';
import { readNdjson } from './ndjson.ts';
import type { PairInput } from './pair-rows.ts';

export const splits = ['train', 'validation', 'test'] as const;
export type Split = (typeof splits)[number];

/** Fractions of the prompts, together 1, and the seed that decides which prompt goes where. */
export type SplitSpec = Record<Split, number> & { seed: number };

export interface SnapshotRow extends PairInput {
  /** first 32 hex digits of the SHA-256 of the pair's content: the same in every snapshot that holds the pair */
  key: string;
  split: Split;
  edits: SnapshotSourceRow['edits'];
}

export interface SnapshotCounts {
  pairs: number;
  edits: number;
  undecided: number;
  splits: Record<Split, { pairs: number; edits: number }>;
}

/** Decided by seed and prompt alone: no prompt is ever in two parts. */
export function splitOf(prompt: unknown, { seed, train, validation }: SplitSpec): Split {
  const hash = createHash('sha256')
    .update(canonicalize([seed, prompt])!)
    .digest();
  const position = hash.readUIntBE(0, 6) / 2 ** 48;
  return position < train ? 'train' : position < train + validation ? 'validation' : 'test';
}

/** The lines of the artifact; `counts` is complete when the last line has been taken. */
export async function* snapshotLines(
  source: AsyncIterable<SnapshotSourceRow>,
  split: SplitSpec,
  counts: SnapshotCounts,
): AsyncGenerator<string> {
  yield `${canonicalize({ format: 1, split })}\n`;
  for await (const pair of source) {
    const part = splitOf(pair.prompt, split);
    const identity = canonicalize([pair.external_id, pair.prompt, pair.response_a, pair.response_b])!;
    const row = {
      ...pair,
      key: createHash('sha256').update(identity).digest('hex').slice(0, 32),
      split: part,
    };
    counts.pairs++;
    counts.edits += pair.edits.length;
    counts.undecided += pair.preference === null ? 1 : 0;
    counts.splits[part].pairs++;
    counts.splits[part].edits += pair.edits.length;
    yield `${canonicalize(row)}\n`;
  }
}

export function emptyCounts(): SnapshotCounts {
  const none = () => ({ pairs: 0, edits: 0 });
  return { pairs: 0, edits: 0, undecided: 0, splits: { train: none(), validation: none(), test: none() } };
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
