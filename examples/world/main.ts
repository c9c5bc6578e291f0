// Command line of the demo world, for tuning by hand and for a look at its data. NDJSON in and out.

import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import { judge } from './annotators.ts';
import { demonstrationRows, editRow, type PairRow, pairRows, promptRows } from './data.ts';
import { assess } from './scorer.ts';

const usage = `The demo world: prompts with slots, responses with known defects, a hidden scorer, simulated annotators.

  node dist/examples/world/main.js COMMAND [--seed N] [--count N] [--purpose NAME]

Commands that write --count rows (default 10) drawn from --seed (default 0):
  pairs           two responses to a prompt, the votes of five annotators, the preference that follows
  demonstrations  prompts and responses to learn the task from
  prompts         prompts alone; --purpose names an independent set (default evaluation)

Commands that read NDJSON from standard input and write a row for each:
  edits           pairs -> the simulated editor's edit of the less-preferred response, drawn from --seed
                  (nothing for a pair without preference, or where the editor finds nothing to change)
  score           {prompt, response} -> the row with its hidden score and its defects
  judge           {id, prompt, candidate, baseline} -> {item_id, outcome}, as POST /v1/win-rates takes it
`;

type Options = { seed: number; count: number; purpose: string };

const generators: Record<string, (options: Options) => Iterable<unknown>> = {
  pairs: ({ seed, count }) => pairRows(seed, count),
  demonstrations: ({ seed, count }) => demonstrationRows(seed, count),
  prompts: ({ seed, count, purpose }) => promptRows(seed, count, purpose),
};

const transforms: Record<string, (row: never, options: Options) => unknown> = {
  edits: (pair: PairRow, { seed }) => editRow(seed, pair),
  score: (row: { prompt: string; response: string }) => ({ ...row, ...assess(row.prompt, row.response) }),
  judge: (row: { id: string; prompt: string; candidate: string; baseline: string }) => ({
    item_id: row.id,
    outcome: judge(row.prompt, row.candidate, row.baseline),
  }),
};

async function* transformed(transform: (typeof transforms)[string], options: Options) {
  for await (const line of createInterface({ input: process.stdin })) {
    if (line.trim() === '') continue;
    const row = transform(JSON.parse(line) as never, options);
    if (row !== undefined) yield row;
  }
}

async function* ndjson(rows: Iterable<unknown> | AsyncIterable<unknown>) {
  for await (const row of rows) yield `${JSON.stringify(row)}\n`;
}

function parseInteger(name: string, text: string): number {
  if (!/^\d+$/.test(text)) throw new Error(`${name} takes a whole number, not "${text}"`);
  return Number(text);
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      seed: { type: 'string', default: '0' },
      count: { type: 'string', default: '10' },
      purpose: { type: 'string', default: 'evaluation' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(usage);
    return;
  }
  const command = positionals.join(' ');
  const options = {
    seed: parseInteger('--seed', values.seed),
    count: parseInteger('--count', values.count),
    purpose: values.purpose,
  };
  const generator = Object.hasOwn(generators, command) ? generators[command] : undefined;
  const transform = Object.hasOwn(transforms, command) ? transforms[command] : undefined;
  if (generator === undefined && transform === undefined) {
    throw new Error(`No command "${command}"; --help lists them`);
  }
  const rows = generator?.(options) ?? transformed(transform!, options);
  await pipeline(Readable.from(ndjson(rows)), process.stdout);
}

main().catch((error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') return;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
});
