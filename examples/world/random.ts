// Seeded pseudo-random numbers for the demo world: the same name gives the same draws on every machine.
// Generator: sfc32 (Chris Doty-Humphrey, PractRand), seeded from the FNV-1a hash of a name.

/** A source of random draws. Every method takes the next number of one fixed sequence. */
export type Random = {
  /** A number in [0, 1). */
  next(): number;
  /** An integer in [0, bound). */
  integer(bound: number): number;
  /** True with the given probability. */
  chance(probability: number): boolean;
  /** One element of a list that is not empty. */
  pick<T>(list: readonly T[]): T;
  /** The elements in random order, as a new list. */
  shuffle<T>(list: readonly T[]): T[];
};

/** The random sequence that belongs to `name`; independent names give independent sequences. */
export function createRandom(name: string): Random {
  let a = hash(name, 0);
  let b = hash(name, 1);
  let c = hash(name, 2);
  let counter = 1;
  const next = (): number => {
    const sum = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum;
    return (sum >>> 0) / 2 ** 32;
  };
  for (let round = 0; round < 12; round += 1) next();
  const integer = (bound: number): number => Math.floor(next() * bound);
  return {
    next,
    integer,
    chance: (probability) => next() < probability,
    pick: (list) => list[integer(list.length)]!,
    shuffle: (list) => {
      const shuffled = [...list];
      for (let last = shuffled.length - 1; last > 0; last -= 1) {
        const other = integer(last + 1);
        [shuffled[last], shuffled[other]] = [shuffled[other]!, shuffled[last]!];
      }
      return shuffled;
    },
  };
}

/** FNV-1a over the UTF-16 code units of `text`, as a signed 32-bit integer. */
function hash(text: string, salt: number): number {
  let value = 0x811c9dc5 ^ salt;
  for (let index = 0; index < text.length; index += 1) {
    value = Math.imul(value ^ text.charCodeAt(index), 0x01000193);
  }
  return value | 0;
}
