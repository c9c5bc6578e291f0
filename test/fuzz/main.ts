// schemathesis against the running service, authenticated, in all its phases: what is sent follows from the OpenAPI
// document (also what breaks it), and every answer must keep to the document. Ends with `N passed, N failed`, test cases.
//
//   npm run test:fuzz [-- --seeds 1,2,3 --examples 50 --phases examples,coverage]       `npm test` runs a short one
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { endAllPrograms, runProgram } from '../support/programs.ts';
import { type FuzzedService, startFuzzedService } from './service.ts';

interface Report {
  exit_code: number;
  test_cases: { generated: number; with_failures: number; errored: number };
  phases: Record<string, { status: string }>;
}

const { values: options } = parseArgs({
  options: {
    seeds: { type: 'string', default: '1,2,3,4,5' },
    examples: { type: 'string', default: '50' },
    phases: { type: 'string', default: 'examples,coverage,fuzzing,stateful' },
  },
});
const dataDir = path.resolve(process.env.FINEGRAIN_DATA_DIR || '.finegrain');
const schemathesis =
  process.env.FINEGRAIN_SCHEMATHESIS || path.join(dataDir, 'fuzz-python', 'bin', 'schemathesis');

for (const signal of ['SIGINT', 'SIGTERM', 'disconnect']) process.on(signal, () => endAllPrograms());

const folder = await mkdtemp(path.join(tmpdir(), 'finegrain-fuzz-'));
const totals = { passed: 0, failed: 0 };
try {
  const service = await startFuzzedService(path.join(folder, 'data'));
  try {
    const config = path.join(folder, 'schemathesis.toml');
    await writeFile(config, configFor(service));
    for (const seed of options.seeds.split(',').map(Number)) await fuzz(service, config, seed);
  } finally {
    await service.stop();
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
console.log(`${totals.passed} passed, ${totals.failed} failed`);
process.exit(totals.failed > 0 ? 1 : 0);

async function fuzz({ url }: FuzzedService, config: string, seed: number): Promise<void> {
  const report = path.join(folder, `report-${seed}.json`);
  const args = ['--config-file', config, 'run', `${url}/openapi.json`, '--seed', String(seed)];
  const output = ['--report', 'json', '--report-json-path', report, '--no-color'];
  const env = {
    ...process.env,
    SCHEMATHESIS_HOOKS: 'finegrain_hooks',
    PYTHONPATH: 'test/fuzz',
    PYTHONDONTWRITEBYTECODE: '1',
  };
  const extent = ['--max-examples', options.examples, '--phases', options.phases];
  const ended = await runProgram(schemathesis, [...args, ...extent, ...output], env);
  const { test_cases, phases } = await readReport(report, ended);
  const failed = test_cases.with_failures + test_cases.errored;
  totals.passed += test_cases.generated - failed;
  totals.failed += failed > 0 ? failed : Number(ended.code !== 0);
  const named = Object.entries(phases).map(([name, { status }]) => `${name} ${status}`);
  console.log(
    `seed ${seed}: ${test_cases.generated} test cases, ${failed} failed or broken (${named.join(', ')})`,
  );
  if (ended.code !== 0) console.log(`${ended.stdout}\n${ended.stderr}`);
}

async function readReport(file: string, ended: { stdout: string; stderr: string }): Promise<Report> {
  return readFile(file, 'utf8').then(JSON.parse, () => {
    throw new Error(`schemathesis did not run: ${ended.stderr || ended.stdout}`);
  });
}

/** Parameters take ids of resources that exist half of the time, else almost everything would be a 404. */
function configFor({ key, ids }: FuzzedService): string {
  const dictionaries = Object.entries(ids).map(
    ([name, values]) => `[dictionaries.${name}]\nvalues = ${JSON.stringify(values)}\n`,
  );
  const parameters = Object.keys(ids).map(
    (name) => `${name} = { dictionary = "${name}", probability = 0.5 }`,
  );
  return `continue-on-failure = true
request-timeout = 30
suppress-health-check = ["all"]

[headers]
Authorization = "Bearer ${key}"

[checks.positive_data_acceptance]
# 422: it fits the schema, and cannot be done for a reason that no schema can say. 412: an ETag that was made up.
# 413: each part fits, and all of it is too large. 416: a range that the content does not have
expected-statuses = ["2xx", "3xx", 401, 403, 404, 409, 412, 413, 416, 422, 429, "5xx"]

[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 412, 413, 414, 415, 422, 428, 429, 431, "5xx"]

[parameters]
${parameters.join('\n')}

${dictionaries.join('\n')}`;
}
