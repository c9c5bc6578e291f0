// Places for processes that take much memory: a bounded number, handed on in the order in which they were asked for.

export interface Places {
  take(): Promise<void>;
  give(): void;
  /** somebody waits for a place */
  readonly wanted: boolean;
}

/** @param makeRoom called when somebody has to wait */
export function openPlaces(count: number, makeRoom: () => void = () => {}): Places {
  const waiting: (() => void)[] = [];
  let free = count;
  return {
    async take() {
      if (free > 0) {
        free--;
        return;
      }
      const place = new Promise<void>((resolve) => void waiting.push(resolve));
      makeRoom();
      await place;
    },
    give() {
      const next = waiting.shift();
      if (next) next();
      else free++;
    },
    get wanted() {
      return waiting.length > 0;
    },
  };
}
