// `npm run bench:alignment -- DATA`: how well the changed spans of an alignment agree with what people marked as errors, and
// how long it takes, beside Myers and Python's difflib on the same words. DATA is NDJSON with `rejected`, `chosen` and
// `error_spans`. Writes its part of bench/RESULTS.md.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ALIGNMENT_VERSION } from '../../src/domain/alignment.ts';
import { describeMachine, writePart } from '../report.ts';
import { bootstrap, countHits, type Hits, type HumanEdit, parseHumanEdits, scoreOf } from './human-spans.ts';
import { type Method, type Methods, openMethods } from './methods.ts';
import { measureSpeed } from './speed.ts';

const bar = 0.93;

const [path] = process.argv.slice(2);
if (path === undefined) {
  console.log(`Usage: npm run bench:alignment -- DATA

  DATA  a file of one JSON object a line: rejected, chosen, and error_spans, a list of
        [start, end, type] in code points of rejected`);
  process.exit(2);
}
const edits = parseHumanEdits(await readFile(path, 'utf8'));
const python =
  process.env.FINEGRAIN_PYTHON || join(process.env.FINEGRAIN_DATA_DIR || '.finegrain', 'python/bin/python');
const machine = describeMachine();
const methods = await openMethods(python);
try {
  const where = `${machine}, ${methods.pythonVersion}`;
  const part = [
    '# Alignment',
    `Made by \`npm run bench:alignment\` with version ${ALIGNMENT_VERSION} of the algorithm; ${where}.`,
    await measureAgreement(methods, edits),
    await measureSpeed(methods, edits),
  ].join('\n\n');
  console.log(`\n${part}`);
  await writePart('alignment', part);
} finally {
  methods.close();
}

async function hitsOf(method: Method, edits: HumanEdit[]): Promise<Hits[]> {
  const hits: Hits[] = [];
  for (const { rejected, chosen, errorSpans } of edits) {
    const answer = await method(rejected, chosen);
    if (answer === null) throw new Error('A method reached its time limit on a pair of ordinary length.');
    hits.push(countHits(rejected, answer.changedOriginal, errorSpans));
  }
  return hits;
}

async function measureAgreement({ ours, myers, difflib }: Methods, edits: HumanEdit[]): Promise<string> {
  const everything = edits.map(({ rejected, errorSpans }) =>
    countHits(rejected, [[0, rejected.length]], errorSpans),
  );
  const own = await hitsOf(ours, edits);
  const rows = [
    { name: 'everything marked', hits: everything },
    { name: 'Myers (`diff` of npm)', hits: await hitsOf(myers, edits) },
    { name: 'difflib, autojunk off', hits: await hitsOf(difflib, edits) },
    { name: 'ours', hits: own },
  ].map(({ name, hits }) => {
    const { precision, recall, f1 } = scoreOf(hits);
    const interval = bootstrap([hits], ([one]) => one!);
    const ahead = bootstrap([own, hits], ([first, second]) => first! - second!);
    const lead = scoreOf(own).f1 - f1;
    return `| ${name} | ${fixed(precision)} | ${fixed(recall)} | ${fixed(f1)} ${range(interval)} | ${hits === own ? '–' : `${fixed(lead)} ${range(ahead)}`} |`;
  });
  const { f1 } = scoreOf(own);
  return [
    '## Agreement with human error spans',
    `${edits.length} model answers that people corrected, and where they saw errors; tokens \`\\w+|[^\\w\\s]\` of the answer, micro-averaged, items
without errors or without a change as they are. Intervals: 95 %, bootstrap over items, the same draws for every method.`,
    `| | precision | recall | F1 | ours ahead by |
| --- | --- | --- | --- | --- |
${rows.join('\n')}`,
    `- **${f1 >= bar ? 'reached' : 'missed'}**: F1 at least ${bar}: ${fixed(f1)}`,
  ].join('\n\n');
}

function fixed(share: number): string {
  return share
    .toFixed(3)
    .replace(/^(-?)0/, '$1')
    .replace('-', '−');
}

function range([low, high]: [number, number]): string {
  return `[${fixed(low)}, ${fixed(high)}]`;
}
