// Runs test files, each by plain Node, and reads their TAP. tap's own runner would hook into every module of every test
// and of the programs that they start, to know what covers what: on Node 20 two CPU seconds a process.
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Parser, type Result as TestPoint } from 'tap-parser';
import type { Result } from './checks.ts';
import { type Ended, runProgram } from './programs.ts';

const jobs = 3; // two cores, and tests that wait
const limitSeconds = 300; // a file; a busy machine is slow

/**
 * Without `files` all tests run, those of *.slow.test.ts only with `slow`, the quick ones of a folder in one process. Counts are
 * assertions. A file that breaks, or
 * asserts nothing, counts as one failure.
 */
export async function runTestFiles(
  files: string[],
  env: NodeJS.ProcessEnv,
  { slow }: { slow: boolean },
): Promise<Result> {
  const left = files.length > 0 ? files.map(compiled) : joinQuickTests(slow);
  const total: Result = { passed: 0, failed: 0, skipped: 0, output: '' };
  const work = async () => {
    for (let file = left.shift(); file !== undefined; file = left.shift()) {
      const result = await runTestFile(file, env);
      total.passed += result.passed;
      total.failed += result.failed;
      total.skipped += result.skipped;
      total.output += result.output;
    }
  };
  await Promise.all(Array.from({ length: jobs }, work));
  return total;
}

async function runTestFile(file: string, env: NodeJS.ProcessEnv): Promise<Result> {
  const settings = { ...env, TAP: '1', TAP_TIMEOUT: String(limitSeconds) };
  const overdue = (limitSeconds + 30) * 1000; // it did not keep its own limit
  return readTap(file, await runProgram(process.execPath, [file], settings, overdue));
}

function readTap(file: string, { code, stdout, stderr }: Ended): Result {
  const points = Parser.parse(stdout, { flat: true }).flatMap(([event, point]) =>
    event === 'assert' ? [point as TestPoint] : [],
  );
  const skipped = points.filter((point) => point.skip || point.todo);
  const failed = points.filter((point) => !point.ok && !skipped.includes(point));
  const result = {
    passed: points.length - skipped.length - failed.length,
    failed: failed.length,
    skipped: skipped.length,
    output: failed.map((point) => describe(file, point)).join(''),
  };
  const broken = failed.length === 0 && (code !== 0 || points.length === 0);
  if (broken) {
    result.failed = 1;
    result.output = `${file} ended with exit code ${code} after ${points.length} assertions.\n${stdout.slice(-4000)}\n`;
  }
  if (result.failed > 0 && stderr.trim() !== '')
    result.output += `${file} wrote to stderr:\n${stderr.slice(-4000)}\n`;
  return result;
}

function describe(file: string, { name, diag }: TestPoint): string {
  const { at, diff, stack, source: _, ...rest } = diag ?? {};
  const place = at ? `${at.fileName}:${at.lineNumber}:${at.columnNumber}` : file;
  const more = Object.keys(rest).length > 0 ? JSON.stringify(rest, null, 2) : '';
  return `${[`${file}: ${name}`, place, diff ?? stack, more].filter(Boolean).join('\n')}\n\n`;
}

// a file of these folders takes less time than its process takes to start; but for those that are slow
const quickFolders = ['domain', 'http', 'jobs'];
const notQuick =
  /\/(artifact-uploads|edit-work-concurrency|encoding|evaluations|hostile|idempotency|operation|run-stream|webhook-delivery)\./;

/** Writes files that import the quick tests, up to twelve each. @returns all that is to run */
function joinQuickTests(slow: boolean): string[] {
  const folder = path.join('.tap', 'together');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  let left = readdirSync('test', { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.ts') && (slow || !name.endsWith('.slow.test.ts')))
    .map((name) => compiled(`test/${name}`))
    .sort();
  const together: string[] = [];
  for (const name of quickFolders) {
    const quick = left.filter((file) => file.startsWith(`dist/test/${name}/`) && !notQuick.test(file));
    left = left.filter((file) => !quick.includes(file));
    for (let n = 0; n < quick.length; n += 12) {
      const joined = path.join(folder, `${name}-${n}.mjs`);
      const imports = quick.slice(n, n + 12).map((file) => `import '../../${file}';\n`);
      writeFileSync(joined, imports.join(''));
      together.push(joined);
    }
  }
  return [...left, ...together];
}

/** What the build makes of a test file. */
function compiled(file: string): string {
  return path.join('dist', path.relative('.', file).replace(/\.ts$/, '.js'));
}
