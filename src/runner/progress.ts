// Progress with what a person wants to know: how much is done, and how long the rest will take.

export interface ProgressLine {
  step: number;
  total_steps: number;
  stage: string;
}

export interface Progress extends ProgressLine {
  fraction: number;
  /** null until the rate is known */
  eta_seconds: number | null;
}

/**
 * The rate is that of the current stage since this attempt began it; a resumed run does not count the steps that an
 * earlier attempt has made. Answers null for a line that only repeats the one before it, as a sign of life.
 * @param now seconds, monotonic
 */
export function progressEstimator(now: () => number): (line: ProgressLine) => Progress | null {
  let first = { step: 0, at: 0, stage: '' };
  let last: ProgressLine | null = null;
  return ({ step, total_steps, stage }) => {
    if (last?.step === step && last.total_steps === total_steps && last.stage === stage) return null;
    const at = now();
    if (last === null || last.stage !== stage || step < last.step) first = { step, at, stage };
    last = { step, total_steps, stage };
    const rate = step > first.step && at > first.at ? (step - first.step) / (at - first.at) : null;
    return {
      ...last,
      fraction: total_steps > 0 ? Math.min(1, step / total_steps) : 0,
      eta_seconds: rate === null ? null : Math.round((Math.max(0, total_steps - step) / rate) * 10) / 10,
    };
  };
}
