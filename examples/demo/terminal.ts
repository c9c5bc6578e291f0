// What the demo prints: stages with time spent and time left, tokens coloured by reward, a table.
const interactive = process.stdout.isTTY === true && !process.env.NO_COLOR;
const printEveryMs = interactive ? 200 : 5000;

export interface StageProgress {
  /** 0..1 */
  fraction?: number;
  etaSeconds?: number | null;
  note?: string;
}

export interface StageTime {
  name: string;
  seconds: number;
}

export const stageTimes: StageTime[] = [];

/** Runs one stage of the demo and keeps its line up to date. */
export async function stage<T>(
  name: string,
  work: (report: (progress: StageProgress) => void) => Promise<T>,
  summary: (result: T) => string,
): Promise<T> {
  const started = performance.now();
  const seconds = (): number => (performance.now() - started) / 1000;
  let shown = started;
  let last: StageProgress = {};
  const show = (): void => {
    shown = performance.now();
    const percent = last.fraction === undefined ? '' : ` ${Math.round(last.fraction * 100)} %`;
    const left = last.etaSeconds == null ? '' : `, about ${Math.ceil(last.etaSeconds)} s left`;
    write(`${name}:${percent}${last.note ? ` ${last.note}` : ''} (${seconds().toFixed(0)} s${left})`, false);
  };
  const ticker = setInterval(() => {
    if (performance.now() - shown >= printEveryMs) show();
  }, 100);
  try {
    const result = await work((progress) => {
      last = progress;
    });
    stageTimes.push({ name, seconds: seconds() });
    write(`${name}: ${summary(result)} (${seconds().toFixed(1)} s)`, true);
    return result;
  } finally {
    clearInterval(ticker);
  }
}

function write(line: string, final: boolean): void {
  if (interactive) process.stdout.write(`\r\x1b[2K${final ? '✓' : '…'} ${line}${final ? '\n' : ''}`);
  else process.stdout.write(`${final ? '✓' : '…'} ${line}\n`);
}

/** Tokens on a background that is the redder the lower the reward; without colours, bad tokens carry their reward. */
export function colourTokens(tokens: string[], rewards: number[], worst: number): string {
  return tokens
    .map((token, index) => {
      const badness = Math.min(1, Math.max(0, (rewards[index] ?? 0) / worst));
      if (interactive)
        return badness < 0.05
          ? token
          : `\x1b[48;2;${90 + Math.round(165 * badness)};30;40m\x1b[38;2;255;255;255m${token}\x1b[0m`;
      return badness < 0.25 ? token : `[${token}${(rewards[index] ?? 0).toFixed(1)}]`;
    })
    .join('');
}

export function printTable(rows: [label: string, value: string][]): void {
  const width = Math.max(...rows.map(([label]) => label.length));
  for (const [label, value] of rows) process.stdout.write(`  ${label.padEnd(width)}  ${value}\n`);
}

export function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
