// The checks of `npm test`: each runs a program and turns what it says into counts. A program that breaks, or that
// finds nothing to check, counts as one failure.
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { runProgram } from './programs.ts';

export interface Result {
  passed: number;
  failed: number;
  skipped: number;
  /** What the program printed: shown when something failed. */
  output: string;
}

const bin = (name: string) => path.resolve('node_modules', '.bin', name);
const verdict = (ok: boolean, output: string): Result => ({
  passed: ok ? 1 : 0,
  failed: ok ? 0 : 1,
  skipped: 0,
  output,
});

/** A program of node_modules that passes or fails as a whole. */
export async function program(name: string, args: string[]): Promise<Result> {
  const { code, output } = await runProgram(bin(name), args);
  return verdict(code === 0, output);
}

/** dependency-cruiser ends with 0 also when it could read no file at all, so what it read is counted too. */
export async function layerCheck(): Promise<Result> {
  const { code, output } = await runProgram(bin('depcruise'), [
    'src',
    'test',
    'examples',
    '--config',
    '.dependency-cruiser.cjs',
  ]);
  const [, modules, dependencies] = /\((\d+) modules, (\d+) dependencies cruised\)/.exec(output) ?? [];
  const sawSomething = Number(modules) > 0 && Number(dependencies) > 0;
  return verdict(
    code === 0 && sawSomething,
    sawSomething ? output : `${output}\nIt found no modules to check.`,
  );
}

export async function openApiLint(): Promise<Result> {
  const env = { ...process.env, REDOCLY_TELEMETRY: 'off', REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true' };
  const { code, output } = await runProgram(bin('redocly'), ['lint', 'openapi/openapi.json'], { env });
  return verdict(code === 0, output);
}

export async function ruff(python: string): Promise<Result> {
  const { code, output } = await runProgram(python, ['-m', 'ruff', 'check', 'runners']);
  return verdict(code === 0, output);
}

export async function pytest(
  python: string,
  files: string[],
  env: NodeJS.ProcessEnv,
  temporary: string,
): Promise<Result> {
  const report = path.join(temporary, 'pytest.xml');
  const targets = files.length > 0 ? files : ['runners/tests'];
  const args = [
    '-m',
    'pytest',
    '--rootdir=runners',
    '--config-file=runners/pyproject.toml',
    '-q',
    `--junitxml=${report}`,
  ];
  const { code, output } = await runProgram(python, [...args, ...targets], { env });
  const suite = existsSync(report) ? (/<testsuite [^>]*>/.exec(readFileSync(report, 'utf8'))?.[0] ?? '') : '';
  const count = (name: string) => Number(new RegExp(` ${name}="(\\d+)"`).exec(suite)?.[1] ?? 0);
  const failed = count('failures') + count('errors');
  const passed = count('tests') - failed - count('skipped');
  return orBroken({ passed, failed, skipped: count('skipped'), output }, code);
}

/** Counts are assertions, as tap counts them. */
export async function tap(files: string[], env: NodeJS.ProcessEnv, temporary: string): Promise<Result> {
  const report = path.join(temporary, 'all.tap');
  const args = ['--jobs=2', '--timeout=300', '--reporter=terse', `--output-file=${report}`, '--no-color'];
  const { code, output } = await runProgram(bin('tap'), [...args, ...files], { env });
  const text = existsSync(report) ? readFileSync(report, 'utf8') : '';
  const summary = text.match(/^# \{ total: .*\}$/gm)?.at(-1) ?? '';
  const count = (name: string) => Number(new RegExp(`\\b${name}: (\\d+)`).exec(summary)?.[1] ?? 0);
  const skipped = count('skip') + count('todo');
  return orBroken({ passed: count('pass'), failed: count('fail'), skipped, output }, code);
}

/** A runner that ends badly without naming a failure, or that found no test, is a failure itself. */
function orBroken(result: Result, code: number): Result {
  if (result.failed > 0) return result;
  if (code !== 0)
    return {
      ...result,
      failed: 1,
      output: `${result.output}\nThe test runner ended with exit code ${code}.`,
    };
  if (result.passed > 0) return result;
  return { ...result, failed: 1, output: `${result.output}\nNo test was found.` };
}
