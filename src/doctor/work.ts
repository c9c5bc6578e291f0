// What computes: the trainer's Python, the scorer, and the service itself.
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { pino } from 'pino';
import type { Config } from '../config.ts';
import { trainerEnvironment } from '../runner/trainer-process.ts';
import { openScoringEngine } from '../scoring/engine.ts';
import { openSampleModel, shippedSampleFolder } from '../services/sample-model.ts';
import { openArtifactStore } from '../storage/artifact-store.ts';
import { type Check, type Finding, failed, ok, warning } from './check.ts';

export function workChecks(config: Config): Check[] {
  return [
    { name: 'python', limitSeconds: 90, run: () => checkTrainer(config) },
    { name: 'scoring', limitSeconds: 60, run: checkScoring },
    { name: 'service', run: () => checkService(config) },
  ];
}

const lockFile = new URL('../../runners/requirements.lock', import.meta.url);
const packages = ['torch', 'transformers', 'tokenizers', 'safetensors', 'numpy', 'onnx', 'onnxruntime'];
const program = `
import importlib, json, pkgutil, sys
import finegrain_trainer, torch
from importlib.metadata import version
for module in pkgutil.iter_modules(finegrain_trainer.__path__):
    if module.name != '__main__':
        importlib.import_module('finegrain_trainer.' + module.name)
cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({'python': sys.version.split()[0], 'cuda': cuda, 'versions': {name: version(name) for name in sys.argv[1:]}}))
`;

async function checkTrainer({ runner }: Config): Promise<Finding> {
  const { python, hardware } = runner;
  const install =
    'Install runners/requirements.lock into a Python from 3.11 on and set FINEGRAIN_PYTHON to it; "npm start -- --with-runner" does it by itself.';
  if (!existsSync(python))
    return warning(
      `there is no ${python}: no runner can train on this machine`,
      `Without runners here ignore it. ${install}`,
    );
  let found: { python: string; cuda: string[]; versions: Record<string, string> };
  try {
    const options = { env: trainerEnvironment(runner.trainerEnvironment), timeout: 80_000 };
    found = JSON.parse((await promisify(execFile)(python, ['-c', program, ...packages], options)).stdout);
  } catch (error) {
    const said = String((error as { stderr?: string }).stderr || (error as Error).message).trim();
    return failed(`${python} cannot load the trainer: ${said.split('\n').at(-1)}`, install);
  }
  const device = found.cuda.length > 0 ? found.cuda.join(', ') : 'CPU only';
  const detail = `Python ${found.python}, torch ${found.versions.torch}, ${device}`;
  if (hardware.includes('cuda') && found.cuda.length === 0)
    return failed(
      `${detail}, but FINEGRAIN_RUNNER_HARDWARE offers cuda`,
      'Install a CUDA build of torch and the driver of the GPU, or offer cpu only.',
    );
  const wanted = await readFile(lockFile, 'utf8');
  const others = Object.entries(found.versions).filter(
    ([name, version]) => !wanted.includes(`\n${name}==${version.split('+')[0]}\n`),
  );
  if (others.length === 0) return ok(detail);
  return warning(
    `${detail}; other versions than the tested ones: ${others.map(([name, version]) => `${name} ${version}`).join(', ')}`,
    `pip install -r runners/requirements.lock`,
  );
}

/** As the service does it: a scorer process of its own, whose answers must be those in the model's golden.json. */
async function checkScoring(): Promise<Finding> {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-doctor-'));
  const artifacts = openArtifactStore(join(folder, 'artifacts'));
  const log = pino({ level: 'silent' });
  const engine = openScoringEngine({
    modelCacheFolder: join(folder, 'models'),
    artifacts,
    log,
    maxScorers: 1,
    memoryBytes: Number.POSITIVE_INFINITY,
  });
  try {
    const sample = await openSampleModel(shippedSampleFolder, artifacts);
    if (!sample)
      return warning('there is no sample model', `Restore ${shippedSampleFolder} of this installation.`);
    await sample.store();
    const started = performance.now();
    const sequence = { promptIds: [1], responseIds: [10, 11, 12] };
    const [score] = await engine.score(sample.row, [sequence], new AbortController().signal);
    if (!score || 'error' in score) throw new Error(score?.error.detail);
    return ok(
      `the sample model scores as it should, ${Math.round(performance.now() - started)} ms from a cold start`,
    );
  } catch (error) {
    return failed(
      `the sample model does not score: ${(error as Error).message}`,
      'Restore models/, run npm ci (onnxruntime-node needs glibc on Linux), or look whether memory is short.',
    );
  } finally {
    await engine.close();
    await rm(folder, { recursive: true, force: true });
  }
}

async function checkService({ host, port }: Config): Promise<Finding> {
  if (port === 0) return ok('PORT is 0: any free port');
  const address = `http://${['0.0.0.0', '::'].includes(host) ? '127.0.0.1' : host}:${port}`;
  const ask = async (path: string) => {
    const response = await fetch(address + path, { signal: AbortSignal.timeout(4_000) });
    return (await response.json()) as { status?: string; ready?: boolean; checks?: object };
  };
  const health = await ask('/healthz').catch(() => null);
  if (health?.status === 'ok') {
    const { ready, checks } = await ask('/readyz');
    if (ready) return ok(`finegrain answers at ${address} and is ready`);
    return failed(
      `what answers at ${address} is not ready: ${JSON.stringify(checks)}`,
      'What its checks say; or, if that is no finegrain, set PORT to another port.',
    );
  }
  const trouble = await tryToListen(host, port);
  if (trouble === null) return ok(`port ${port} of ${host} is free`);
  if (trouble === 'EADDRINUSE')
    return failed(
      `another program holds port ${port} of ${host}`,
      'Set PORT to another one, or end that program.',
    );
  return failed(`finegrain cannot listen on port ${port} of ${host}: ${trouble}`, 'Correct HOST and PORT.');
}

/** The code of what went wrong, or null. */
function tryToListen(host: string, port: number): Promise<string | null> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    probe.listen(port, host, () => probe.close(() => resolve(null)));
  });
}
