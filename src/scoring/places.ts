// Places, such as processor cores: a bounded number, handed on in the order in which they were asked for.

export interface Places {
  take(): Promise<void>;
  give(): void;
}

export function openPlaces(count: number): Places {
  const waiting: (() => void)[] = [];
  let free = count;
  return {
    async take() {
      if (free > 0) free--;
      else await new Promise<void>((go) => void waiting.push(go));
    },
    give() {
      const next = waiting.shift();
      if (next) next();
      else free++;
    },
  };
}
