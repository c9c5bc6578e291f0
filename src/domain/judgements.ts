// Judgements of a candidate's response against the baseline's, and the sums over items that all uncertainty is computed from.

export interface Judgement {
  item_id: string;
  /** The candidate's share, 0..1; null when the judge failed. */
  outcome: number | null;
  /** Whose response was judged; all without a name are one candidate. */
  candidate?: string;
  /** Which training of the candidate: the same recipe with other random numbers. */
  training_seed?: string | number;
  /** Why the outcome is null. */
  null_reason?: string;
  length_candidate?: number;
  length_baseline?: number;
  difficulty?: number;
  judge?: string;
  /** In which order the judge saw the responses; any name, the same for the same order. */
  order?: string | number;
}

/** A judgement whose outcome is in 0..1. */
export type Counted = Judgement & { outcome: number };

export const isCounted = (one: Judgement): one is Counted =>
  one.outcome !== null && one.outcome >= 0 && one.outcome <= 1;

/** 1 a win, 0 a loss, ½ a tie: of exactly one half. */
export const verdictOf = (outcome: number): number => (outcome > 0.5 ? 1 : outcome < 0.5 ? 0 : 0.5);

/** Of a list that is not empty. */
export const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

export const outcomeOf = ({ outcome }: Counted): number => outcome;

export function groupBy<Value, Key>(values: readonly Value[], key: (value: Value) => Key): Map<Key, Value[]> {
  const groups = new Map<Key, Value[]>();
  for (const value of values) {
    const name = key(value);
    const group = groups.get(name);
    if (group) group.push(value);
    else groups.set(name, [value]);
  }
  return groups;
}

/** Sum of the outcomes and number of judgements of each cluster, [clusters]. */
export interface ClusterSums {
  sums: Float64Array;
  counts: Float64Array;
}

export function sumClusters(clusters: ReadonlyMap<unknown, readonly Counted[]>): ClusterSums {
  const sums = new Float64Array(clusters.size);
  const counts = new Float64Array(clusters.size);
  let k = 0;
  for (const members of clusters.values()) {
    for (const { outcome } of members) sums[k]! += outcome;
    counts[k++] = members.length;
  }
  return { sums, counts };
}
