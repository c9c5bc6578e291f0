// What a snapshot makes of competing edits, rewrites and preferences that nobody is sure of.
import type { SnapshotSourceEdit, SnapshotSourceRow } from '../db/snapshots.ts';
import { majorityEdit } from '../domain/edit-choice.ts';
import { excesses, lengthChange } from '../domain/minimality.ts';
import { voteShare } from '../domain/votes.ts';
import { completePolicy, type EditPolicy } from './edit-policy.ts';

export const editRules = ['all', 'latest', 'accepted', 'majority'] as const;

export interface SnapshotRules {
  /** of several edits of one response: all, the newest, the one that a reviewer accepted last (else none), or majorityEdit */
  edits: (typeof editRules)[number];
  /** edits that are not minimal: kept without token labels, for comparisons of whole responses, or left out */
  rewrites: 'comparison' | 'exclude';
  /** pairs without a preference: kept for their edits, or left out */
  undecided: 'keep' | 'exclude';
  /** a preference that a smaller share of the votes agrees with counts as none, 0..1 */
  min_vote_share: number;
}

export const defaultRules: Readonly<SnapshotRules> = {
  edits: 'all',
  rewrites: 'comparison',
  undecided: 'keep',
  min_vote_share: 0,
};

/** What of a pair goes into the snapshot, and what the rules did. */
export interface SelectedPair {
  preference: 'a' | 'b' | null;
  edits: SnapshotSourceEdit[];
  /** the votes do not agree enough with the preference */
  ambiguous: boolean;
  /** edits among the selected ones that carry no token labels */
  rewrites: number;
  leftOut: { rewrites: number; competing: number };
}

export function selectOfPair(pair: SnapshotSourceRow, rules: SnapshotRules): SelectedPair {
  const share = pair.preference && voteShare(pair.votes, pair.preference);
  const ambiguous = share !== null && share < rules.min_vote_share;
  const policy = completePolicy(pair.edit_policy);
  const isRewrite = (edit: SnapshotSourceEdit) => exceeds(pair, edit, policy);
  const candidates =
    rules.rewrites === 'exclude' ? pair.edits.filter((edit) => !isRewrite(edit)) : pair.edits;
  const edits = (['a', 'b'] as const).flatMap((side) =>
    choose(
      candidates.filter((edit) => edit.side === side),
      rules.edits,
    ),
  );
  return {
    preference: ambiguous ? null : pair.preference,
    edits,
    ambiguous,
    rewrites: edits.filter(isRewrite).length,
    leftOut: {
      rewrites: pair.edits.length - candidates.length,
      competing: candidates.length - edits.length,
    },
  };
}

function exceeds(pair: SnapshotSourceRow, edit: SnapshotSourceEdit, policy: EditPolicy): boolean {
  const { similarity, hunks, edited_response } = edit;
  const original = edit.side === 'a' ? pair.response_a : pair.response_b;
  const length_change = lengthChange(original, edited_response);
  return edit.no_common_text || excesses({ similarity, hunks, length_change }, policy).length > 0;
}

/** Of the edits of one response, in an order that is kept. */
function choose(edits: SnapshotSourceEdit[], rule: SnapshotRules['edits']): SnapshotSourceEdit[] {
  if (rule === 'all' || edits.length === 0) return edits;
  const last = (list: SnapshotSourceEdit[], time: (edit: SnapshotSourceEdit) => string | number) =>
    list.reduce((one, other) => (time(other) > time(one) ? other : one));
  if (rule === 'majority') return [majorityEdit(edits)!];
  if (rule === 'latest') return [last(edits, ({ id }) => id)];
  const accepted = edits.filter(({ decided_at }) => decided_at !== null);
  return accepted.length === 0 ? [] : [last(accepted, ({ decided_at }) => decided_at!)];
}
