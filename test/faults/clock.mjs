// Preloaded (node --import): at SIGUSR2 the clock of the process jumps, a day ahead at first, then two days back, and so on
// in turn. Timers do not: the system counts them by another clock.
const RealDate = Date;
let shiftMs = 0;
const dayMs = 86_400_000;

process.on('SIGUSR2', () => {
  shiftMs = shiftMs > 0 ? -dayMs : dayMs;
});

globalThis.Date = class extends RealDate {
  constructor(...given) {
    if (given.length === 0) super(RealDate.now() + shiftMs);
    else super(...given);
  }
  static now() {
    return RealDate.now() + shiftMs;
  }
};
