// Seeded pseudo-random numbers: the same seed gives the same draws on every machine.
// Generator: sfc32 (Chris Doty-Humphrey, PractRand).

/** Fills `target` with integers, uniform in 0..bound − 1. */
export type DrawIntegers = (target: Int32Array, bound: number) => void;

/** @param seed an integer from 0 on */
export function createDraws(seed: number): DrawIntegers {
  let state = [seed | 0, Math.floor(seed / 2 ** 32) | 0, 0x9e3779b9 | 0, 1];
  const fill = (target: Int32Array, bound: number): void => {
    let [a, b, c, counter] = state as [number, number, number, number]; // local, as the loop is hot
    const scale = bound / 2 ** 32;
    for (let k = 0; k < target.length; k++) {
      const sum = (a + b + counter) | 0;
      counter = (counter + 1) | 0;
      a = b ^ (b >>> 9);
      b = (c + (c << 3)) | 0;
      c = (((c << 21) | (c >>> 11)) + sum) | 0;
      target[k] = (sum >>> 0) * scale; // cut to an integer
    }
    state = [a, b, c, counter];
  };
  fill(new Int32Array(15), 1); // the seed spreads
  return fill;
}
