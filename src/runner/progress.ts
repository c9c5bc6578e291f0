// Progress with what a person wants to know: how much is done, and how long the rest will take.

export interface Progress {
  step: number;
  total_steps: number;
  fraction: number;
  /** null until the rate is known */
  eta_seconds: number | null;
  stage: string;
}

/**
 * The rate is that of the current stage since this attempt began it; a resumed run does not count the steps that an
 * earlier attempt has made.
 * @param now seconds, monotonic
 */
export function progressEstimator(
  now: () => number,
): (line: { step: number; total_steps: number; stage: string }) => Progress {
  let first: { step: number; at: number; stage: string } | null = null;
  return ({ step, total_steps, stage }) => {
    const at = now();
    if (first === null || first.stage !== stage || step < first.step) first = { step, at, stage };
    const rate = step > first.step && at > first.at ? (step - first.step) / (at - first.at) : null;
    return {
      step,
      total_steps,
      fraction: total_steps > 0 ? Math.min(1, step / total_steps) : 0,
      eta_seconds: rate === null ? null : Math.round((Math.max(0, total_steps - step) / rate) * 10) / 10,
      stage,
    };
  };
}
