// What a dataset asks of its edits: how small they must be, what happens to larger ones, and whether reviewers decide.
import { defaultMinimality, type Minimality } from '../domain/minimality.ts';

export interface EditPolicy extends Minimality {
  /** what becomes of an edit that exceeds a threshold or keeps no word */
  on_excess: 'warn' | 'refuse';
  /** `required`: new edits are `pending` until a reviewer decides */
  review: 'none' | 'required';
}

const defaultEditPolicy: EditPolicy = { ...defaultMinimality, on_excess: 'warn', review: 'none' };

/** @param stored the keys that were ever set */
export const completePolicy = (stored: object): EditPolicy => ({ ...defaultEditPolicy, ...stored });

export const hasDefaultThresholds = (policy: EditPolicy): boolean =>
  Object.entries(defaultMinimality).every(([name, limit]) => policy[name as keyof Minimality] === limit);

/** Its thresholds alone. */
export const thresholdsOf = ({
  max_changed_fraction,
  max_hunks,
  max_length_change,
}: EditPolicy): Minimality => ({
  max_changed_fraction,
  max_hunks,
  max_length_change,
});
