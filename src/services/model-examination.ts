// A model from files that a project has uploaded, looked at before it is registered: everything that can be told without
// running it. What the graph computes is compared with golden.json when it is loaded (scoring/engine.ts).
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, posix } from 'node:path';
import { Type } from 'typebox';
import { selectArtifacts } from '../db/artifacts.ts';
import type { ModelRow } from '../db/models.ts';
import { modelDigest } from '../domain/model-digest.ts';
import { notFound, unprocessable } from '../errors.ts';
import { isElsewhere } from '../scoring/engine.ts';
import { checkGoldenTokens, readGolden } from '../scoring/golden.ts';
import { ModelRefused, readModelJson } from '../scoring/model-json.ts';
import { readModelManifest } from '../scoring/model-manifest.ts';
import { loadModelTokenizer } from '../scoring/tokenizer.ts';
import { checkSafetensors, externalDataOf, type RangedFile } from '../scoring/weight-files.ts';
import { isModelFilePath, type ModelFile, materialiseModel } from '../storage/model-folder.ts';
import type { Caller, Services } from './context.ts';
import { examineServer } from './model-servers.ts';

export interface NewModel {
  name: string;
  role: ModelRow['role'];
  files: { path: string; digest: string }[];
  metrics?: Record<string, number | null>;
}

/** What is registered of it. */
export type ExaminedModel = Pick<
  ModelRow,
  'name' | 'role' | 'digest' | 'tokenizer_digest' | 'files' | 'metrics'
>;

export const maxModelFiles = 200;
export const maxModelGiB = 64;
const maxTokenizerBytes = 64 * 1024 ** 2;
const maxJsonBytes = 16 * 1024 ** 2;

/** What may not be in a model, by the end of its name: loading it would run what is in it. */
const pickles = /\.(bin|pt|pth|pkl|pickle|ckpt|joblib|npy|npz)$/i;

export const exportCommand = 'python -m finegrain_trainer export --model FOLDER --output NEW_FOLDER';

/**
 * Everything that can be refused is refused here, before the transaction that registers the model.
 * @throws Problem not_found for an artifact that the project has not uploaded; unprocessable; missing_scope for a model
 * that names a secret
 */
export async function examineModel(
  services: Services,
  caller: Caller,
  { name, role, files: named, metrics = {} }: NewModel,
): Promise<ExaminedModel> {
  checkPaths(named);
  const rows = await services.db.transaction(caller.projectId, (tx) =>
    selectArtifacts(
      tx,
      named.map(({ digest }) => digest),
    ),
  );
  const bytesOf = new Map(rows.map(({ digest, bytes }) => [digest, bytes]));
  const files = named.map(({ path, digest }, index): ModelFile => {
    const bytes = bytesOf.get(digest);
    if (bytes === undefined) throw notFound('artifact', digest, `/files/${index}/digest`);
    return { path, digest, bytes };
  });
  files.sort((a, b) => (a.path < b.path ? -1 : 1));
  if (files.reduce((sum, { bytes }) => sum + bytes, 0) > maxModelGiB * 1024 ** 3)
    throw unprocessable('/files', `are more than ${maxModelGiB} GiB together`);
  const digest = modelDigest(files);
  try {
    await examineFolder(services, caller, role, { digest, files });
  } catch (error) {
    if (!(error instanceof ModelRefused)) throw error;
    throw unprocessable('/files', `are not a ${role} model: ${error.message}`);
  }
  const tokenizer = files.find(({ path }) => path === 'tokenizer.json')!;
  return { name, role, digest, tokenizer_digest: tokenizer.digest, files, metrics };
}

/** @throws Problem unprocessable */
function checkPaths(files: NewModel['files']): void {
  const taken = new Map<string, string>(); // as a file system without upper case sees them
  for (const [index, { path }] of files.entries()) {
    const pointer = `/files/${index}/path`;
    if (!isModelFilePath(path))
      throw unprocessable(
        pointer,
        'is no path within a folder: parts of letters, digits, "_", "-" and ".", none of which begins or ends with a dot, between "/"',
      );
    if (pickles.test(path))
      throw unprocessable(
        pointer,
        'has the name of a pickle, or of an array file that may hold one: whoever loads it runs what is in it. Weights come as safetensors or ONNX; weights beside a graph may be called ….onnx.data',
      );
    const folded = path.toLowerCase();
    const other = taken.get(folded);
    if (other !== undefined) throw unprocessable(pointer, `is there already: ${other}`);
    taken.set(folded, path);
  }
  for (const [index, { path }] of files.entries())
    for (let folder = posix.dirname(path.toLowerCase()); folder !== '.'; folder = posix.dirname(folder))
      if (taken.has(folder))
        throw unprocessable(`/files/${index}/path`, `lies in ${taken.get(folder)}, which is a file`);
}

/** @throws ModelRefused, Problem missing_scope */
async function examineFolder(
  services: Services,
  caller: Caller,
  role: ModelRow['role'],
  { digest, files }: { digest: string; files: ModelFile[] },
): Promise<void> {
  const { artifacts } = services;
  const texts = files.filter(({ path }) => readNames.includes(path));
  for (const { path, bytes } of texts) {
    const most = path === 'tokenizer.json' ? maxTokenizerBytes : maxJsonBytes;
    if (bytes > most) throw new ModelRefused(`${path} has ${bytes} bytes, more than ${most}`);
  }
  const aside = await mkdtemp(join(tmpdir(), 'finegrain-model-'));
  try {
    const folder = await materialiseModel(aside, artifacts, { digest, files: texts });
    const { graphs, server } = await examineTexts(folder, role, files);
    if (role !== 'policy')
      for (const { file } of Object.values(graphs)) await examineGraph(artifacts, files, file);
    if (server) {
      if (role !== 'token_reward')
        throw new ModelRefused('finegrain.json at /http: is for token_reward models');
      if (!isElsewhere({ digest, files }))
        throw new ModelRefused('finegrain.json at /http: names a server, and there is an ONNX graph, too');
      await examineServer(services, caller, server);
    }
    await examineWeights(artifacts, folder, role, files);
  } finally {
    await rm(aside, { recursive: true, force: true });
  }
}

const shardIndex = 'model.safetensors.index.json';
const readNames = ['config.json', 'finegrain.json', 'tokenizer.json', 'golden.json', shardIndex];
const AnyObject = Type.Object({});

/** config.json, finegrain.json, tokenizer.json and golden.json. @throws ModelRefused */
async function examineTexts(folder: string, role: ModelRow['role'], files: ModelFile[]) {
  await readModelJson(folder, 'config.json', AnyObject);
  const has = (path: string): boolean => files.some((file) => file.path === path);
  if (role !== 'policy' && !has('finegrain.json'))
    throw new ModelRefused(`finegrain.json is missing. ${advice(role)}`);
  const manifest = await readModelManifest(folder);
  if (manifest.role !== null && manifest.role !== role)
    throw new ModelRefused(`finegrain.json says that it is a ${manifest.role} model`);
  const tokenizer = await loadModelTokenizer(folder);
  if (role === 'token_reward' && !manifest.graphs.fp32 && !manifest.server)
    throw new ModelRefused(`finegrain.json names no ONNX graph and no server. ${advice(role)}`);
  if (role === 'token_reward' || (role === 'sequence_reward' && manifest.graphs.fp32)) {
    if (!has('golden.json')) throw new ModelRefused(`golden.json is missing. ${advice(role)}`);
    await checkGoldenTokens(await readGolden(folder), tokenizer);
  }
  return manifest;
}

const advice = (role: ModelRow['role']): string =>
  role === 'token_reward'
    ? `The trainer makes reward.onnx, golden.json and finegrain.json of a reward model in safetensors: ${exportCommand}.`
    : 'A reward run writes it into the folder of its model.';

/** @throws ModelRefused unless the graph and all that it reads are files of the model */
async function examineGraph(
  artifacts: Services['artifacts'],
  files: ModelFile[],
  path: string,
): Promise<void> {
  const graph = files.find((file) => file.path === path);
  if (!graph)
    throw new ModelRefused(
      `the graph ${path} that finegrain.json names is missing. ${advice('token_reward')}`,
    );
  if (!path.endsWith('.onnx')) throw new ModelRefused(`the graph ${path} is not called ….onnx`);
  for (const location of await externalDataOf(ranged(artifacts, graph))) {
    const beside = posix.join(posix.dirname(path), location);
    if (!files.some((file) => file.path === beside))
      throw new ModelRefused(`${path} reads weights of ${beside}, which is missing`);
  }
}

const Index = Type.Object({ weight_map: Type.Record(Type.String(), Type.String()) });

/** @throws ModelRefused */
async function examineWeights(
  artifacts: Services['artifacts'],
  folder: string,
  role: ModelRow['role'],
  files: ModelFile[],
): Promise<void> {
  const weights = files.filter(({ path }) => path.endsWith('.safetensors'));
  for (const file of weights) await checkSafetensors(ranged(artifacts, file));
  if (role === 'token_reward') return; // its graph has them
  const has = (path: string): boolean => weights.some((file) => file.path === path);
  if (has('model.safetensors')) return;
  if (role === 'sequence_reward' || !files.some(({ path }) => path === shardIndex))
    throw new ModelRefused('model.safetensors is missing');
  const { weight_map } = await readModelJson(folder, shardIndex, Index);
  const missing = Object.values(weight_map).find((path) => !has(path));
  if (missing !== undefined)
    throw new ModelRefused(`${missing.slice(0, 200)}, which ${shardIndex} names, is missing`);
}

const ranged = (artifacts: Services['artifacts'], { path, digest, bytes }: ModelFile): RangedFile => ({
  path,
  bytes,
  async read(start, end) {
    const chunks: Buffer[] = [];
    if (start < end) for await (const chunk of artifacts.read(digest, { start, end })) chunks.push(chunk);
    return Buffer.concat(chunks);
  },
});
