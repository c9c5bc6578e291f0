// Python environments of our own with exactly the packages that a lock file names: the trainer's
// (runners/requirements.lock) and the fuzzer's (test/fuzz/requirements.lock), which would disagree in one.
// A stamp inside says for which lock file it is complete; one that was interrupted is thrown away and made anew.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { identityOf, isAlive, withLock } from './lock.mjs';
import { SetUpError, say, step } from './steps.mjs';

const minimumMinor = 11; // of Python 3, as runners/pyproject.toml says
const installPython =
  'Debian, Ubuntu: apt install python3 python3-venv; Fedora: dnf install python3; macOS: brew install python. ' +
  'Or set PYTHON to the one to use.';
const networkAdvice =
  'Run the command again to go on. Behind a proxy set HTTPS_PROXY; another package index is set with PIP_INDEX_URL.';

/**
 * Returns at once when the environment is there and fits.
 * @param purpose completes "the Python packages of …"
 */
export async function ensurePythonEnvironment(folder, lockFile, purpose) {
  if (isComplete(folder, lockFile)) return;
  await withLock(`${folder}.lock`, async () => {
    if (isComplete(folder, lockFile)) return; // by the process that we waited for
    await makeEnvironment(folder, lockFile, purpose);
  });
}

async function makeEnvironment(folder, lockFile, purpose) {
  const started = Date.now();
  const python = path.join(folder, 'bin', 'python');
  const unfinished = path.join(folder, 'finegrain-unfinished'); // holds which program is at work on the folder
  const onSpawn = (pid) => writeFileSync(unfinished, identityOf(pid));
  if (existsSync(unfinished) || !works(python)) {
    const base = findPython();
    endLeftProgram(unfinished);
    rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    mkdirSync(folder, { recursive: true });
    const venv = ['-m', 'venv', folder];
    await step(`Making a Python environment in ${folder}`, base, venv, { onSpawn, advice: installPython });
  }
  const pip = ['-m', 'pip', 'install', '--disable-pip-version-check', '--no-input', '--progress-bar=off'];
  const options = { onSpawn, advice: networkAdvice };
  // torch first and alone: its index may be another, and nothing else may ask for another build of it
  const torch = readFileSync(lockFile, 'utf8').match(/^torch==\S+/m)?.[0];
  if (torch) await step('Installing PyTorch', python, [...pip, ...torchArguments(torch)], options);
  const packages = [...pip, '-r', lockFile];
  await step(`Installing the Python packages of ${purpose}`, python, packages, options);
  writeFileSync(stampFile(folder), stamp(lockFile));
  rmSync(unfinished);
  const seconds = Math.round((Date.now() - started) / 1000);
  say(`The Python environment is ready (${seconds} s; later starts use it as it is).`);
}

/** A set-up that was killed may have left its pip at work on the folder that we make anew. */
function endLeftProgram(unfinished) {
  const identity = existsSync(unfinished) ? readFileSync(unfinished, 'utf8') : '';
  if (identity !== '' && isAlive(identity)) process.kill(Number.parseInt(identity, 10), 'SIGKILL');
}

function torchArguments(torch) {
  const index = process.env.TORCH_INDEX_URL;
  if (index) return [torch, '--index-url', index];
  if (process.platform === 'linux') {
    say('Unless pip is configured otherwise, PyTorch for Linux brings CUDA: gigabytes. Without a GPU, set');
    say("TORCH_INDEX_URL to the index of PyTorch's CPU builds, which its installation page names.");
  }
  return [torch];
}

function findPython() {
  const names = process.env.PYTHON
    ? [process.env.PYTHON]
    : ['python3', 'python', 'python3.13', 'python3.12', 'python3.11'];
  const found = [];
  for (const name of names) {
    const version = ask(name, 'import sys; print("%d.%d" % sys.version_info[:2])');
    if (version === null) continue;
    const [major, minor] = version.split('.').map(Number);
    if (major === 3 && minor >= minimumMinor) return withVenv(name, version);
    found.push(`${name} is ${version}`);
  }
  throw new SetUpError(
    `finegrain needs Python 3.${minimumMinor} or newer (${found.join(', ') || `none of ${names.join(', ')} runs`}). ${installPython}`,
  );
}

function withVenv(python, version) {
  if (ask(python, 'import ensurepip, venv; print("ok")') === 'ok') return python;
  throw new SetUpError(
    `${python} (Python ${version}) cannot make environments: its modules venv and ensurepip are missing. ` +
      `Debian and Ubuntu keep them in a package of their own: apt install python${version}-venv.`,
  );
}

function isComplete(folder, lockFile) {
  const python = path.join(folder, 'bin', 'python'); // a link that leads nowhere once its Python is uninstalled
  return (
    existsSync(python) &&
    existsSync(stampFile(folder)) &&
    readFileSync(stampFile(folder), 'utf8') === stamp(lockFile)
  );
}

function works(python) {
  return ask(python, 'import pip; print("ok")') === 'ok';
}

function ask(python, program) {
  const { status, stdout } = spawnSync(python, ['-c', program], { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : null;
}

const stampFile = (folder) => path.join(folder, 'finegrain-stamp');
const stamp = (lockFile) => `${createHash('sha256').update(readFileSync(lockFile)).digest('hex')}\n`;
