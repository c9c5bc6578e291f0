// What the tests of win rates share: judgements made in one line, and assertions on figures.
import assert from 'node:assert/strict';
import type { Judgement } from '../../src/domain/win-rate.ts';

/** One judgement an item. */
export const judged = (...outcomes: (number | null)[]): Judgement[] =>
  outcomes.map((outcome, k) => ({ item_id: `item-${k}`, outcome }));

export const close = (actual: number | null, expected: number, tolerance = 1e-9): void =>
  assert.ok(
    actual !== null && Math.abs(actual - expected) <= tolerance,
    `${actual} is not within ${tolerance} of ${expected}`,
  );

/** No NaN and no infinity anywhere. */
export function assertFinite(value: unknown): void {
  if (typeof value === 'number') assert.ok(Number.isFinite(value));
  if (typeof value === 'object' && value !== null) Object.values(value).forEach(assertFinite);
}

export const logistic = (z: number): number => 1 / (1 + Math.exp(-z));

export const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

/** With n − 1. */
export const deviation = (values: readonly number[]): number =>
  Math.sqrt(values.reduce((sum, value) => sum + (value - mean(values)) ** 2, 0) / (values.length - 1));

/** Standard error of a figure of items, leaving out one item after the other. */
export function jackknifeError(
  judgements: readonly Judgement[],
  figure: (kept: Judgement[]) => number,
): number {
  const items = [...new Set(judgements.map(({ item_id }) => item_id))];
  const values = items.map((item) => figure(judgements.filter(({ item_id }) => item_id !== item)));
  return (deviation(values) * (items.length - 1)) / Math.sqrt(items.length);
}
