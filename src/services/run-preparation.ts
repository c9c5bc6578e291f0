// The work folder of an attempt: spec.json, the input rows and the models, as the trainer reads them. Equal runs get
// equal rows on every machine, so that a checkpoint made on one can be continued on another.
import { createWriteStream } from 'node:fs';
import { mkdir, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import canonicalize from 'canonicalize';
import { loadModelTokenizer } from '../scoring/tokenizer.ts';
import { materialiseModel } from '../storage/model-folder.ts';
import { labelRows } from './label-rows.ts';
import { writeNdjson } from './ndjson.ts';
import type { HeldRun, RunnerServices } from './run-execution.ts';
import type { ModelInput } from './run-inputs.ts';
import type { KindSpec, SftSpec } from './run-specs.ts';
import { type SnapshotRow, snapshotRows } from './snapshot-content.ts';
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
  const input = join(workFolder, 'input');
  await mkdir(input, { recursive: true });
  const model = await placeModel(services, run.inputs.model, join(input, 'model'), locateHubModel);
  const rows = await trainerRows(services, run, join(input, 'model'));
  await pipeline(writeNdjson(rows), createWriteStream(join(input, 'rows.ndjson')));
  if (run.inputs.reward_model) {
    await placeModel(services, run.inputs.reward_model, join(input, 'reward_model'), locateHubModel);
  }
  const path = join(workFolder, 'spec.json');
  await writeFile(path, JSON.stringify(trainerSpec(run, model), null, 1));
  return path;
}

async function placeModel(
  services: RunnerServices,
  model: ModelInput,
  link: string,
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
  await symlink(folder, link);
  return { path: 'input/model' };
}

const data = { path: 'input/rows.ndjson' };

function trainerSpec({ kind, spec }: KindSpec, model: object): object {
  const common = { kind, seed: spec.seed, hyperparameters: spec.hyperparameters };
  switch (kind) {
    case 'sft':
      return { ...common, base_model: model, data: { examples: data.path } };
    case 'reward':
      return { ...common, base_model: model, loss: spec.loss, data: { labels: data.path } };
    case 'ppo':
      return {
        ...common,
        policy: model,
        reward_model: { path: 'input/reward_model' },
        data: { prompts: data.path },
      };
    case 'generate':
      return { ...common, model, data: { prompts: data.path } };
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
    case 'ppo':
    case 'generate':
      return snapshot
        ? promptsOf(snapshot, run.spec.prompts.split!)
        : uploadedPrompts(promptRows(artifacts, (source as { rows: string }).rows));
  }
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
