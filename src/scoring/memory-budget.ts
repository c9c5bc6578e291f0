// Memory for processes that take much of it: a bounded amount, handed on in the order in which it was asked for.

export interface MemoryBudget {
  /** Waits until there is so much. What is more than there can be gets all there is. */
  take(bytes: number): Promise<void>;
  /** Takes it if it is there and nobody waits. */
  tryTake(bytes: number): boolean;
  give(bytes: number): void;
  /** somebody waits */
  readonly wanted: boolean;
}

/** @param makeRoom called when somebody has to wait, and whenever what was given back is not enough */
export function openMemoryBudget(total: number, makeRoom: () => void = () => {}): MemoryBudget {
  const waiting: { bytes: number; go(): void }[] = [];
  let free = total;
  const possible = (bytes: number): number => Math.min(bytes, total);

  function tryTake(bytes: number): boolean {
    if (waiting.length > 0 || possible(bytes) > free) return false;
    free -= possible(bytes);
    return true;
  }

  return {
    async take(bytes) {
      if (tryTake(bytes)) return;
      const turn = new Promise<void>((go) => void waiting.push({ bytes: possible(bytes), go }));
      makeRoom();
      await turn;
    },
    tryTake,
    give(bytes) {
      free += possible(bytes);
      for (let [next] = waiting; next && next.bytes <= free; [next] = waiting) {
        waiting.shift();
        free -= next.bytes;
        next.go();
      }
      if (waiting.length > 0) makeRoom();
    },
    get wanted() {
      return waiting.length > 0;
    },
  };
}
