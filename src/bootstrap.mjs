// `npm run demo`, `npm start`, `npm test` and the benchmarks begin here, in a fresh clone too: plain JavaScript without packages that
// makes what is missing (npm packages, the Python environment), then runs the program and ends as it ends.
//
//   node src/bootstrap.mjs demo|start|test|sample-model|… [--with-runner] [arguments of the program]
//
// Reads FINEGRAIN_DATA_DIR, FINEGRAIN_PYTHON (a ready environment: none is made), PYTHON (which Python makes ours),
// TORCH_INDEX_URL (where pip looks for torch, such as PyTorch's index of CPU builds) and FINEGRAIN_PGBOUNCER.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { ensureNpmPackages } from './bootstrap/npm-packages.mjs';
import { ensurePgbouncer } from './bootstrap/pgbouncer.mjs';
import { runProgram } from './bootstrap/program.mjs';
import { ensurePythonEnvironment } from './bootstrap/python-environment.mjs';
import { ensureS3Server } from './bootstrap/s3-server.mjs';
import { endSetUp, SetUpError, say } from './bootstrap/steps.mjs';

const minimumNode = [20, 20];
const programs = {
  demo: { entry: 'dist/examples/demo.js', needsPython: true },
  'sample-model': { entry: 'dist/examples/sample-model.js', needsPython: true },
  start: { entry: 'dist/src/main-api.js', needsPython: false }, // serves and scores without Python; runs need it
  test: {
    entry: 'dist/test/run.js',
    needsPython: true,
    needsFuzzer: true,
    needsLinters: true,
    withPooler: true,
    withS3: true,
  },
  'test:fuzz': { entry: 'dist/test/fuzz/main.js', needsPython: false, needsFuzzer: true },
  'test:images': { entry: 'dist/test/images/main.js', needsPython: false },
  'test:soak': { entry: 'dist/test/soak/main.js', needsPython: true, withPooler: true },
  'bench:loop': { entry: 'dist/bench/loop/main.js', needsPython: true },
  'bench:queue': { entry: 'dist/bench/queue/main.js', needsPython: false },
  'bench:import': { entry: 'dist/bench/import/main.js', needsPython: false },
  'bench:claims': { entry: 'dist/bench/edit-work/main.js', needsPython: false },
  'bench:alignment': { entry: 'dist/bench/alignment/main.js', needsPython: true },
  'bench:score': { entry: 'dist/bench/score/main.js', needsPython: true, needsScorePeer: true },
  'bench:train': { entry: 'dist/bench/train/main.js', needsPython: true, needsTrainPeer: true },
  'bench:controls': { entry: 'dist/bench/loop/controls.js', needsPython: true },
  'bench:pipeline': { entry: 'dist/bench/pipeline/main.js', needsPython: true },
  'bench:reward': { entry: 'dist/bench/reward/main.js', needsPython: true },
  'bench:statistics': { entry: 'dist/bench/statistics/main.js', needsPython: false },
};

async function main([command, ...rest]) {
  const program = Object.hasOwn(programs, command ?? '') ? programs[command] : undefined;
  if (!program)
    throw new SetUpError(
      `Usage: node src/bootstrap.mjs ${Object.keys(programs).join('|')} [--with-runner] [arguments]`,
    );
  checkNode(process.versions.node);
  process.chdir(fileURLToPath(new URL('..', import.meta.url)));
  const withRunner = program.needsPython || rest.includes('--with-runner');
  const dataDir = path.resolve(process.env.FINEGRAIN_DATA_DIR || '.finegrain');

  await ensureNpmPackages({ forDevelopment: command !== 'start' }); // tests, charts
  build();
  if (process.env.FINEGRAIN_PYTHON) checkGivenPython(process.env.FINEGRAIN_PYTHON);
  else if (withRunner)
    await ensurePythonEnvironment(path.join(dataDir, 'python'), 'runners/requirements.lock', 'the trainer');
  const fuzzPython = path.join(dataDir, 'fuzz-python');
  if (program.needsFuzzer)
    await ensurePythonEnvironment(fuzzPython, 'test/fuzz/requirements.lock', 'the fuzzer');
  if (program.needsScorePeer) {
    const peer = path.join(dataDir, 'score-peer-python');
    await ensurePythonEnvironment(peer, 'bench/score/requirements.lock', "bench:score's peer");
  }
  if (program.needsTrainPeer) {
    const peer = path.join(dataDir, 'train-peer-python');
    await ensurePythonEnvironment(peer, 'bench/train/requirements.lock', "bench:train's peer");
  }
  const lintPython = path.join(dataDir, 'lint-python');
  if (program.needsLinters)
    await ensurePythonEnvironment(lintPython, 'test/images/requirements.lock', 'the linters of docker/');
  const pgbouncer = program.withPooler ? await ensurePgbouncer(path.join(dataDir, 'pgbouncer')) : null;
  if (pgbouncer !== null) process.env.FINEGRAIN_PGBOUNCER = pgbouncer;
  if (program.withS3) await ensureS3Server(path.join(dataDir, 's3-server'));
  process.env.NODE_COMPILE_CACHE ||= path.join(dataDir, 'compile-cache'); // what Node 22 and newer compiled
  endSetUp();
  return runProgram(
    program.entry,
    rest.filter((argument) => argument !== '--with-runner'),
  );
}

function checkNode(version) {
  const [major, minor] = version.split('.').map(Number);
  if (major > minimumNode[0] || (major === minimumNode[0] && minor >= minimumNode[1])) return;
  throw new SetUpError(
    `finegrain needs Node ${minimumNode.join('.')} or newer; this is Node ${version} (${process.execPath}).`,
  );
}

/** In a process of its own: it needs the packages. It says itself what it did and what is wrong. */
function build() {
  const { status } = spawnSync(process.execPath, ['src/build.mjs'], { stdio: 'inherit' });
  if (status !== 0) throw new SetUpError('finegrain runs from what the build makes.');
}

function checkGivenPython(python) {
  if (!existsSync(python)) throw new SetUpError(`FINEGRAIN_PYTHON is ${python}, and there is no such file.`);
}

main(process.argv.slice(2)).then(
  (code) => process.exit(code),
  (error) => {
    say(error instanceof SetUpError ? error.message : String(error?.stack ?? error));
    process.exit(1);
  },
);
