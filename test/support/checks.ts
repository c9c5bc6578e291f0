// The checks of `npm test`: each runs a program and turns what it says into counts. A program that breaks, or that
// finds nothing to check, counts as one failure.
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { type Ended, runProgram } from './programs.ts';

export interface Result {
  passed: number;
  failed: number;
  skipped: number;
  /** What the program printed: shown when something failed. */
  output: string;
}

const bin = (name: string) => path.resolve('node_modules', '.bin', name);
const said = ({ stdout, stderr }: Ended) => `${stdout}\n${stderr}`.trim();

/** A program of node_modules that passes or fails as a whole. */
export async function program(name: string, args: string[], env?: NodeJS.ProcessEnv): Promise<Result> {
  const ended = await runProgram(bin(name), args, env);
  return asOne(ended.code === 0, said(ended));
}

/** TypeScript 7 takes a third of the time; the layer check reads with 5, whose program has the same name. */
export const typeCheck = () => program('../typescript-native/bin/tsc', ['--noEmit']);

/** dependency-cruiser ends with 0 also when it could read no file at all, so what it read is counted too. */
export async function layerCheck(): Promise<Result> {
  const ended = await runProgram(bin('depcruise'), [
    'src',
    'test',
    'examples',
    '--config',
    '.dependency-cruiser.cjs',
  ]);
  const [, modules, dependencies] =
    /\((\d+) modules, (\d+) dependencies cruised\)|$/.exec(ended.stdout) ?? [];
  if (!(Number(modules) > 0 && Number(dependencies) > 0))
    return asOne(false, `${said(ended)}\nNothing was checked.`);
  return asOne(ended.code === 0, said(ended));
}

export function openApiLint(): Promise<Result> {
  const env = { ...process.env, REDOCLY_TELEMETRY: 'off', REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true' };
  return program('redocly', ['lint', 'openapi/openapi.json'], env);
}

export async function ruff(python: string): Promise<Result> {
  const ended = await runProgram(python, [
    '-m',
    'ruff',
    'check',
    'runners',
    'test/fuzz',
    'test/images',
    'bench',
  ]);
  return asOne(ended.code === 0, said(ended));
}

export async function pytest(
  python: string,
  files: string[],
  env: NodeJS.ProcessEnv,
  { slow, temporary }: { slow: boolean; temporary: string },
): Promise<Result> {
  const report = path.join(temporary, 'pytest.xml');
  const args = [
    '-m',
    'pytest',
    '--rootdir=runners',
    '--config-file=runners/pyproject.toml',
    `--junitxml=${report}`,
    ...(slow ? ['-m', 'slow or not slow'] : []),
  ];
  const ended = await runProgram(python, [...args, ...(files.length > 0 ? files : ['runners/tests'])], env);
  const suite = existsSync(report) ? (/<testsuite [^>]*>/.exec(readFileSync(report, 'utf8'))?.[0] ?? '') : '';
  const count = (name: string) => Number(new RegExp(` ${name}="(\\d+)"`).exec(suite)?.[1] ?? 0);
  const failed = count('failures') + count('errors');
  const skipped = count('skipped');
  return orBroken(
    { passed: count('tests') - failed - skipped, failed, skipped, output: said(ended) },
    ended.code,
  );
}

/** Counts are test cases, as schemathesis counts them. */
export async function fuzzer(options: string[], env: NodeJS.ProcessEnv): Promise<Result> {
  return counted(await runProgram(process.execPath, ['dist/test/fuzz/main.js', ...options], env));
}

/** Dockerfiles, their scripts, the compose file and the manifests, each by its linter or schema. */
export async function imagesLint(python: string): Promise<Result> {
  return counted(await runProgram(python, ['test/images/lint.py']));
}

/** The result of a program whose last line is `N passed, N failed`. */
function counted(ended: Ended): Result {
  const [, passed, failed] = /^(\d+) passed, (\d+) failed$/m.exec(ended.stdout) ?? [];
  const result = {
    passed: Number(passed ?? 0),
    failed: Number(failed ?? 0),
    skipped: 0,
    output: said(ended),
  };
  return orBroken(result, ended.code);
}

function asOne(ok: boolean, output: string): Result {
  return { passed: ok ? 1 : 0, failed: ok ? 0 : 1, skipped: 0, output };
}

/** A test runner that ends badly without naming a failure, or that found no test, is a failure itself. */
function orBroken(result: Result, code: number): Result {
  if (result.failed > 0) return result;
  if (code === 0 && result.passed > 0) return result;
  const reason = code === 0 ? 'No test was found.' : `The test runner ended with exit code ${code}.`;
  return { ...result, failed: 1, output: `${result.output}\n${reason}` };
}
