// A property as one assertion of tap: fast-check shrinks on what is thrown, so properties check with node:assert.
// The seed is fixed, so that a run of the tests says something about the change at hand.
import fc from 'fast-check';
import type { Test } from 'tap';

const seed = 1;

export function holds<Arguments>(
  t: Pick<Test, 'doesNotThrow'>,
  property: fc.IProperty<Arguments>,
  { runs = 500 }: { runs?: number } = {},
): void {
  t.doesNotThrow(() => fc.assert(property, { numRuns: runs, seed }));
}

/** For properties that wait for something. */
export async function holdsAsync<Arguments>(
  t: Pick<Test, 'resolves'>,
  property: fc.IAsyncProperty<Arguments>,
  { runs = 500 }: { runs?: number } = {},
): Promise<void> {
  await t.resolves(fc.assert(property, { numRuns: runs, seed }));
}
