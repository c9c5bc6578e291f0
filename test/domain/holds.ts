// A property as one assertion of tap: fast-check shrinks on what is thrown, so properties check with node:assert.
import fc from 'fast-check';
import type { Test } from 'tap';

export function holds<Arguments>(
  t: Pick<Test, 'doesNotThrow'>,
  property: fc.IProperty<Arguments>,
  { runs = 500 }: { runs?: number } = {},
): void {
  t.doesNotThrow(() => fc.assert(property, { numRuns: runs }));
}
