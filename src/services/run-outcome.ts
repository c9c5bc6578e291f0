// The end of a run that went well: its files go into the artifact store, its model is registered, its gate decides
// whether an alias moves; all of that becomes visible in one transaction.
import { realpath } from 'node:fs/promises';
import { join, sep } from 'node:path';
import { v7 as uuidv7 } from 'uuid';
import { modelDigest } from '../domain/model-digest.ts';
import { isModelFilePath } from '../storage/model-folder.ts';
import { untilNamed } from './named-artifacts.ts';
import { finish, type HeldRun, type RunnerServices, uploadFolder } from './run-execution.ts';
import { modelRole } from './run-specs.ts';
import type { RunArtifact } from './runs.ts';

/** What the trainer said that it made; paths are relative to the work folder. */
export interface TrainerOutputs {
  result: object;
  artifacts: { name: string; path: string; media_type: string }[];
  model: { role: string; path: string; metrics: Record<string, number | null> } | null;
}

const filesOfPolicy = ['config.json', 'model.safetensors', 'tokenizer.json', 'finegrain.json'];
const filesOfReward = [...filesOfPolicy, 'reward.onnx', 'golden.json'];
const filesOfRole = {
  policy: filesOfPolicy,
  token_reward: filesOfReward,
  sequence_reward: filesOfReward,
};

/** @throws Error when an output is missing or is not what the kind of run must make; nothing is registered then */
export async function finishSucceeded(
  services: RunnerServices,
  run: HeldRun,
  workFolder: string,
  outputs: TrainerOutputs,
): Promise<boolean> {
  const role = modelRole(run);
  if ((outputs.model?.role ?? null) !== role) {
    throw new Error(
      `A ${run.kind} run must make ${role ? `a ${role} model` : 'no model'}; the trainer made ${outputs.model?.role ?? 'none'}.`,
    );
  }
  return untilNamed(() => handIn(services, run, workFolder, role, outputs));
}

async function handIn(
  services: RunnerServices,
  run: HeldRun,
  workFolder: string,
  role: ReturnType<typeof modelRole>,
  outputs: TrainerOutputs,
): Promise<boolean> {
  const artifacts: RunArtifact[] = [];
  for (const { name, path, media_type } of outputs.artifacts) {
    const stored = await services.artifacts.putFile(await inside(workFolder, path));
    artifacts.push({ name, ...stored, media_type });
  }
  const model = outputs.model && role && (await uploadModel(services, run, workFolder, role, outputs.model));
  const gate = run.kind === 'reward' ? judge(run.spec.gate ?? {}, outputs.model!.metrics) : null;
  const ending = {
    outcome: 'succeeded' as const,
    result: {
      ...outputs.result,
      ...(outputs.model ? { metrics: outputs.model.metrics } : {}),
      ...(gate ? { gate } : {}),
    },
    failure: null,
    runArtifacts: artifacts,
    newArtifacts: artifacts,
    model,
    alias: 'alias' in run.spec && gate?.passed !== false ? (run.spec.alias ?? null) : null,
    events: gate && !gate.passed ? [gateAlarm(gate)] : [],
  };
  return finish(services, run, ending, [...artifacts, ...(model?.files ?? [])]);
}

async function uploadModel(
  services: RunnerServices,
  run: HeldRun,
  workFolder: string,
  role: keyof typeof filesOfRole,
  { path, metrics }: NonNullable<TrainerOutputs['model']>,
): Promise<{ id: string; files: { digest: string }[]; [field: string]: unknown }> {
  const files = await uploadFolder(services.artifacts, await inside(workFolder, path));
  const missing = filesOfRole[role].filter((name) => !files.some((file) => file.path === name));
  if (missing.length > 0) throw new Error(`The model lacks ${missing.join(', ')}.`);
  const odd = files.find((file) => !isModelFilePath(file.path));
  if (odd)
    throw new Error(`The model has a file with a name that cannot be stored: ${JSON.stringify(odd.path)}.`);
  return {
    id: uuidv7(),
    name: ('name' in run.spec && run.spec.name) || `${run.kind}-${run.id.slice(-12)}`,
    role,
    digest: modelDigest(files),
    tokenizer_digest: files.find((file) => file.path === 'tokenizer.json')!.digest,
    files,
    metrics,
  };
}

/** @throws Error for a path that leaves the work folder, or that is not there */
async function inside(workFolder: string, path: string): Promise<string> {
  const root = await realpath(workFolder);
  const real = await realpath(join(root, path));
  if (!real.startsWith(root + sep))
    throw new Error(`The trainer named a path outside its work folder: ${path}`);
  return real;
}

export interface Gate {
  passed: boolean;
  checks: { metric: string; value: number | null; minimum: number; passed: boolean }[];
}

/** A metric that could not be measured passes nothing. */
export function judge(
  gate: Record<string, number | undefined>,
  metrics: Record<string, number | null>,
): Gate {
  const checks = Object.entries(gate).flatMap(([metric, minimum]) => {
    const value = metrics[metric] ?? null;
    return minimum === undefined
      ? []
      : [{ metric, value, minimum, passed: value !== null && value >= minimum }];
  });
  return { passed: checks.every(({ passed }) => passed), checks };
}

function gateAlarm({ checks }: Gate): { type: 'alarm' } & Record<string, unknown> {
  const failed = checks.filter(({ passed }) => !passed);
  const reasons = failed.map(
    ({ metric, value, minimum }) =>
      `${metric} is ${value === null ? 'not measurable' : value.toFixed(3)}, ${minimum} is needed`,
  );
  return {
    type: 'alarm',
    code: 'gate_failed',
    detail: `The model is registered, but no alias moves to it: ${reasons.join('; ')}.`,
    step: null,
    value: failed[0]!.value,
    threshold: failed[0]!.minimum,
    action: 'warn',
  };
}
