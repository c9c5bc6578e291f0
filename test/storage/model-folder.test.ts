import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { Readable } from 'node:stream';
import t, { type Test } from 'tap';
import { modelDigest } from '../../src/domain/model-digest.ts';
import { openArtifactStore } from '../../src/storage/artifact-store.ts';
import { isModelFilePath, materialiseModel } from '../../src/storage/model-folder.ts';

async function open(t: Test, paths: string[]) {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-models-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const artifacts = openArtifactStore(join(folder, 'artifacts'));
  const cache = join(folder, 'models');
  const files = await Promise.all(
    paths.map(async (path) => ({ path, ...(await artifacts.put(Readable.from([`content of ${path}`]))) })),
  );
  return { artifacts, cache, model: { digest: modelDigest(files), files } };
}

t.test('the files lie under their names, in a folder named by the digest', async (t) => {
  const { artifacts, cache, model } = await open(t, ['config.json', 'onnx/reward.onnx']);
  const folder = await materialiseModel(cache, artifacts, model);
  t.equal(basename(folder), model.digest.slice('sha256:'.length));
  t.equal(await readFile(join(folder, 'onnx/reward.onnx'), 'utf8'), 'content of onnx/reward.onnx');
  t.equal((await stat(join(folder, 'config.json'))).nlink, 2, 'a link, not a copy');
  t.equal(await materialiseModel(cache, artifacts, model), folder);
});

t.test('many at once give one folder and leave nothing beside it', async (t) => {
  const { artifacts, cache, model } = await open(t, ['a', 'b', 'c']);
  const folders = await Promise.all(
    Array.from({ length: 8 }, () => materialiseModel(cache, artifacts, model)),
  );
  t.equal(new Set(folders).size, 1);
  t.same(await readdir(cache), [basename(folders[0]!)]);
});

t.test('a model that is not complete leaves no folder', async (t) => {
  const { artifacts, cache, model } = await open(t, ['a']);
  const lost = { path: 'b', digest: `sha256:${'0'.repeat(64)}`, bytes: 1 };
  await t.rejects(materialiseModel(cache, artifacts, { ...model, files: [...model.files, lost] }));
  t.same(await readdir(cache), []);
});

t.test('a path that leaves the folder is refused', async (t) => {
  const { artifacts, cache, model } = await open(t, ['a']);
  for (const path of ['../a', '/a', 'a/../../b', '', 'a/', 'a//b', '.', 'a\\b', 'a\0', 'c:a', '.hidden']) {
    t.notOk(isModelFilePath(path), JSON.stringify(path));
    const files = [{ ...model.files[0]!, path }];
    await t.rejects(materialiseModel(cache, artifacts, { ...model, files }), {
      message: /not inside its folder/,
    });
  }
  t.notOk(existsSync(cache));
});

t.test('the digest of a model does not depend on the order of its files', async (t) => {
  const { model } = await open(t, ['b', 'a', 'ä', 'Z']);
  t.equal(modelDigest([...model.files].reverse()), model.digest);
  t.not(modelDigest(model.files.slice(1)), model.digest);
  // printf '[{"bytes":1,"digest":"sha256:0","path":"a"}]' | sha256sum
  t.equal(
    modelDigest([{ path: 'a', digest: 'sha256:0', bytes: 1 }]),
    'sha256:f9a142f76deaf82909f2060db1e91844250ccad7940f628b08a29e5c12046018',
  );
});
