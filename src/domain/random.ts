// Seeded pseudo-random numbers: the same seed gives the same draws on every machine.
// Generator: sfc32 (Chris Doty-Humphrey, PractRand).

/** Draws integers, uniform in 0..bound − 1. */
export type DrawInteger = (bound: number) => number;

export function createDraws(seed: number): DrawInteger {
  let a = seed | 0;
  let b = Math.floor(seed / 2 ** 32) | 0;
  let c = 0x9e3779b9 | 0;
  let counter = 1;
  const draw = (bound: number): number => {
    const sum = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + sum) | 0;
    return Math.floor(((sum >>> 0) / 2 ** 32) * bound);
  };
  for (let round = 0; round < 15; round++) draw(1);
  return draw;
}
