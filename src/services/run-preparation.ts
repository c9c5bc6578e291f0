// The work folder of an attempt: spec.json, the input rows and the models, as the trainer reads them. Equal runs get
// equal rows on every machine, so that a checkpoint made on one can be continued on another.
import { createWriteStream } from 'node:fs';
import { mkdir, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import canonicalize from 'canonicalize';
import { loadModelTokenizer } from '../scoring/tokenizer.ts';
import type { ArtifactStore } from '../storage/artifact-store.ts';
import { materialiseModel } from '../storage/model-folder.ts';
import { labelRows } from './label-rows.ts';
import { writeNdjson } from './ndjson.ts';
import type { HeldRun, RunnerServices } from './run-execution.ts';
import type { DataInput, ModelInput } from './run-inputs.ts';
import type { KindSpec, SftSpec } from './run-specs.ts';
import { type SnapshotRow, type Split, snapshotRows } from './snapshot-content.ts';
import { demonstrationRows, promptRows } from './training-rows.ts';

/** Finds or fetches a model of a hub; answers its folder. */
export type LocateHubModel = (hub: string, revision: string) => Promise<string>;

/**
 * Fills `workFolder/input` and writes `workFolder/spec.json`; answers the path of the latter.
 * @throws Error, BadRow among them, that says what is wrong with an input
 */
export async function prepareRun(
  services: RunnerServices,
  run: HeldRun,
  workFolder: string,
  locateHubModel: LocateHubModel,
): Promise<string> {
  await mkdir(join(workFolder, 'input'), { recursive: true });
  const place = (name: string, model: ModelInput): Promise<object> =>
    placeModel(services, model, workFolder, `input/${name}`, locateHubModel);
  const { inputs } = run;
  const models = {
    model: await place('model', inputs.model),
    reward_model: inputs.reward_model && (await place('reward_model', inputs.reward_model)),
    kl_reference: inputs.kl_reference && (await place('kl_reference', inputs.kl_reference)),
    judge: inputs.judge && (await place('judge', inputs.judge)),
  };
  await writeRows(
    join(workFolder, rowsPath),
    await trainerRows(services, run, join(workFolder, 'input/model')),
  );
  if (run.kind === 'ppo' && run.spec.evaluation) {
    const { split } = run.spec.evaluation.prompts;
    await writeRows(
      join(workFolder, evaluationPath),
      promptsIn(services.artifacts, inputs.evaluation_data!, split),
    );
  }
  const path = join(workFolder, 'spec.json');
  await writeFile(path, JSON.stringify(trainerSpec(run, models, inputs.checkpoint !== undefined), null, 1));
  return path;
}

const rowsPath = 'input/rows.ndjson';
const evaluationPath = 'input/evaluation.ndjson';

function writeRows(path: string, rows: AsyncIterable<object>): Promise<void> {
  return pipeline(writeNdjson(rows), createWriteStream(path));
}

async function placeModel(
  services: RunnerServices,
  model: ModelInput,
  workFolder: string,
  path: string,
  locateHubModel: LocateHubModel,
): Promise<object> {
  if ('scratch' in model) return { scratch: model.scratch };
  const folder =
    'files' in model
      ? await materialiseModel(services.modelCache, services.artifacts, model)
      : 'hub' in model
        ? await locateHubModel(model.hub, model.revision)
        : model.path;
  if (!(await stat(folder).catch(() => null))?.isDirectory())
    throw new Error(`There is no model folder ${folder} on this runner.`);
  await symlink(folder, join(workFolder, path));
  return { path };
}

interface PlacedModels {
  model: object;
  reward_model?: object;
  kl_reference?: object;
  judge?: object;
}

/** @param finish to make a model of the checkpoint that lies in the work folder, and to train no further */
function trainerSpec(
  { kind, spec }: KindSpec,
  { model, reward_model, kl_reference, judge }: PlacedModels,
  finish: boolean,
): object {
  const common = {
    kind,
    seed: spec.seed,
    hyperparameters: spec.hyperparameters,
    alarms: 'alarms' in spec ? spec.alarms : undefined,
    ...(finish ? { finish_at_checkpoint: true } : {}),
  };
  switch (kind) {
    case 'sft':
      return { ...common, base_model: model, data: { examples: rowsPath } };
    case 'reward':
      return { ...common, base_model: model, loss: spec.loss, data: { labels: rowsPath } };
    case 'ppo':
      return {
        ...common,
        policy: model,
        reward_model,
        data: { prompts: rowsPath },
        evaluation: spec.evaluation && {
          prompts: evaluationPath,
          every: spec.evaluation.every,
          kl_reference,
          judge,
        },
      };
    case 'dpo':
      return { ...common, policy: model, pairs: spec.pairs, data: { labels: rowsPath } };
    case 'generate':
      return { ...common, model, kl_reference, data: { prompts: rowsPath } };
  }
}

async function trainerRows(
  services: RunnerServices,
  run: HeldRun,
  modelFolder: string,
): Promise<AsyncIterable<object>> {
  const { artifacts } = services;
  const source = run.inputs.data;
  const snapshot = 'snapshot' in source ? snapshotRows(artifacts, source.snapshot) : null;
  switch (run.kind) {
    case 'sft':
      return snapshot
        ? responsesOf(snapshot, run.spec.data.responses!)
        : uploadedDemonstrations(demonstrationRows(artifacts, (source as { rows: string }).rows));
    case 'reward':
      return labelRows(snapshot!, await loadModelTokenizer(modelFolder), run.spec.label_rule!);
    case 'dpo':
      return labelRows(snapshot!, await loadModelTokenizer(modelFolder), 'mix');
    case 'ppo':
    case 'generate':
      return promptsIn(artifacts, source, run.spec.prompts.split);
  }
}

/** @param split of a snapshot; rows of the caller's own have none */
export function promptsIn(artifacts: ArtifactStore, source: DataInput, split?: Split): AsyncIterable<object> {
  return 'snapshot' in source
    ? promptsOf(snapshotRows(artifacts, source.snapshot), split!)
    : uploadedPrompts(promptRows(artifacts, source.rows));
}

async function* uploadedDemonstrations(rows: ReturnType<typeof demonstrationRows>): AsyncGenerator<object> {
  for await (const { id, prompt, response, split } of rows)
    yield { id, prompt, response, split: split ?? 'train' };
}

async function* uploadedPrompts(rows: ReturnType<typeof promptRows>): AsyncGenerator<object> {
  for await (const { id, prompt } of rows) yield { id, prompt };
}

async function* responsesOf(
  rows: AsyncIterable<SnapshotRow>,
  which: NonNullable<SftSpec['data']['responses']>,
): AsyncGenerator<object> {
  for await (const { key, prompt, split, response_a, response_b, preference, edits } of rows) {
    const responses =
      which === 'edited'
        ? edits.map(({ edited_response }, index) => [`${key}-${index}`, edited_response])
        : which === 'all'
          ? [
              [`${key}-a`, response_a],
              [`${key}-b`, response_b],
            ]
          : preference === null
            ? []
            : [[key, preference === 'a' ? response_a : response_b]];
    for (const [id, response] of responses) yield { id, prompt, response, split };
  }
}

/** Every prompt once, under the key of the first pair that has it. */
async function* promptsOf(rows: AsyncIterable<SnapshotRow>, split: string): AsyncGenerator<object> {
  const seen = new Set<string>();
  for await (const row of rows) {
    const identity = canonicalize(row.prompt)!;
    if (row.split !== split || seen.has(identity)) continue;
    seen.add(identity);
    yield { id: row.key, prompt: row.prompt };
  }
}
