// What a machine without a GPU can show of FINEGRAIN_SCORING_PROVIDER=cuda: nothing of this was seen on one.
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { pino } from 'pino';
import t from 'tap';
import { readConfig } from '../../src/config.ts';
import { openScoringEngine, type Sequence } from '../../src/scoring/engine.ts';
import { openSampleModel, shippedSampleFolder } from '../../src/services/sample-model.ts';
import { openArtifactStore } from '../../src/storage/artifact-store.ts';
import { storeTinyModel } from '../support/models.ts';

const providers = `bin/napi-v6/linux/${process.arch}/libonnxruntime_providers_cuda.so`;
const onnxruntime = dirname(createRequire(import.meta.url).resolve('onnxruntime-node/package.json'));
const hasCuda = existsSync(join(onnxruntime, providers));

const sequence: Sequence = { promptIds: [1, 4, 40], responseIds: [41, 42, 43] };
const never = new AbortController().signal;

t.test('the setting is read, with what a process on a GPU has to know and no more', (t) => {
  const environment = {
    LD_LIBRARY_PATH: '/opt/cuda/lib',
    CUDA_VISIBLE_DEVICES: '1',
    NVIDIA_VISIBLE_DEVICES: 'all',
  };
  const others = { DATABASE_URL: 'postgres://user:secret@host/db', FINEGRAIN_SECRET_KEY: '', PATH: '/bin' };
  const given = { ...environment, ...others };
  t.same(readConfig(given).scoring.provider, { name: 'cpu', environment: {} });
  t.same(readConfig({ ...given, FINEGRAIN_SCORING_PROVIDER: 'cuda' }).scoring.provider, {
    name: 'cuda',
    environment,
  });
  t.throws(() => readConfig({ FINEGRAIN_SCORING_PROVIDER: 'gpu' }), {
    message: 'FINEGRAIN_SCORING_PROVIDER must be one of cpu, cuda, not "gpu".',
  });
  t.end();
});

t.test(
  'a graph for CPUs stays there; one that cannot be loaded on CUDA is refused with the reason',
  async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'finegrain-provider-'));
    const artifacts = openArtifactStore(join(folder, 'artifacts'));
    const sample = await openSampleModel(shippedSampleFolder, artifacts);
    await sample!.store();
    const engineOn = (name: 'cpu' | 'cuda') => {
      const engine = openScoringEngine({
        modelCacheFolder: join(folder, 'models'),
        artifacts,
        log: pino({ level: 'silent' }),
        maxScorers: 1,
        memoryBytes: 4 * 1024 ** 3,
        provider: { name, environment: {} },
      });
      t.teardown(() => engine.close());
      return engine;
    };
    t.teardown(() => rm(folder, { recursive: true }));
    const [cpu, cuda] = [engineOn('cpu'), engineOn('cuda')];
    t.same(await cuda.score(sample!.row, [sequence], never), await cpu.score(sample!.row, [sequence], never));

    const tiny = await storeTinyModel(artifacts);
    t.match(await cpu.score(tiny, [sequence], never), [{ rewards: Float32Array }]);
    if (hasCuda) return t.comment('ONNX Runtime has its CUDA provider here');
    await t.rejects(cuda.score(tiny, [sequence], never), {
      code: 'unprocessable',
      message:
        /reward\.onnx cannot be loaded on cuda, as FINEGRAIN_SCORING_PROVIDER asks for: .*Failed to load shared library/,
    });
    t.match(cuda.stateOf(tiny), { code: 'unprocessable' });
  },
);
