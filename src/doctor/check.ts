// What a check of an installation is, and how checks are run: each within its time, in order, and never in vain.

export interface Finding {
  status: 'ok' | 'warning' | 'failed';
  /** what was found; holds no secret */
  detail: string;
  /** what to do; absent when there is nothing to do */
  advice?: string;
}

export interface Check {
  name: string;
  limitSeconds?: number;
  run(): Promise<Finding>;
}

export interface Report extends Finding {
  check: string;
}

const defaultLimitSeconds = 10;

export const ok = (detail: string): Finding => ({ status: 'ok', detail });
export const warning = (detail: string, advice: string): Finding => ({ status: 'warning', detail, advice });
export const failed = (detail: string, advice: string): Finding => ({ status: 'failed', detail, advice });

/** Runs the checks of a group in order. When its first one fails, the others could only fail too: they are left out. */
export async function* runGroup(group: Check[]): AsyncGenerator<Report> {
  for (const check of group) {
    const report = { check: check.name, ...(await withinLimit(check)) };
    yield report;
    if (check === group[0] && report.status === 'failed') return;
  }
}

async function withinLimit({ limitSeconds = defaultLimitSeconds, run }: Check): Promise<Finding> {
  let timer: NodeJS.Timeout | undefined;
  const overdue = new Promise<Finding>((resolve) => {
    const finding = failed(
      `gave no answer within ${limitSeconds} s`,
      'Look for what blocks: a network path, an overloaded machine.',
    );
    timer = setTimeout(resolve, limitSeconds * 1000, finding);
  });
  try {
    return await Promise.race([run(), overdue]);
  } catch (error) {
    return failed(error instanceof Error ? error.message : String(error), 'The message says what is wrong.');
  } finally {
    clearTimeout(timer);
  }
}
