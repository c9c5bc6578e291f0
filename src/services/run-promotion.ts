// A model from a checkpoint: a new run of the same kind with the same spec and inputs, whose trainer takes the checkpoint up,
// trains no further, and ends as every run does: with an export, an evaluation on held-out data, a gate and a model.
import { v7 as uuidv7 } from 'uuid';
import { type CheckpointRow, selectRunInputs } from '../db/run-watching.ts';
import { selectLiveRunners } from '../db/runners.ts';
import { insertRun } from '../db/runs.ts';
import { Problem } from '../errors.ts';
import type { Caller, Services } from './context.ts';
import { checkAlias, type PromotedCheckpoint, type RunInputs } from './run-inputs.ts';
import { type KindSpec, modelRole } from './run-specs.ts';
import { findCheckpoint } from './run-watching.ts';
import { findRun, holdInputs, type Run, renderRun } from './runs.ts';

export interface Promotion {
  name?: string;
  alias?: string;
}

/**
 * Queues the run that makes a model of a checkpoint. An alias moves only when it is asked for here.
 * @throws Problem not_found; unprocessable for a kind that makes no model, an alias of another role, missing files
 */
export async function promoteCheckpoint(
  services: Services,
  caller: Caller,
  id: string,
  step: number,
  { name, alias }: Promotion,
): Promise<Run> {
  const { db: database } = services;
  const found = await database.transaction(caller.projectId, async (tx) => {
    const row = await findRun(tx, id);
    const checkpoint = await findCheckpoint(tx, row.id, step);
    const run = { kind: row.kind, spec: row.spec } as KindSpec; // written by createRun, which parsed them
    const role = modelRole(run);
    if (role === null)
      throw new Problem('unprocessable', `A ${run.kind} run makes no model; there is nothing to promote.`);
    if (alias !== undefined) await checkAlias(tx, alias, role, '/alias');
    const inputs = (await selectRunInputs(tx, row.id)) as RunInputs; // whoever has a checkpoint has been claimed
    return { row, checkpoint, run, inputs };
  });
  const { row, checkpoint, run, inputs } = found;
  await checkFiles(services, checkpoint);
  const { alias: _, ...spec } = run.spec as KindSpec['spec'] & { alias?: string; name?: string };
  const promoted: PromotedCheckpoint = { run_id: id, step, files: checkpoint.files };
  const modelName =
    name ?? (spec.name === undefined ? undefined : `${spec.name.slice(0, 170)} at step ${step}`);
  return database.transaction(caller.projectId, async (tx) => {
    const started = { ...inputs, checkpoint: promoted };
    await holdInputs(tx, services.artifacts, started);
    const inserted = await insertRun(tx, {
      projectId: caller.projectId,
      id: uuidv7(),
      kind: run.kind,
      spec: {
        ...spec,
        ...(modelName === undefined ? {} : { name: modelName }),
        ...(alias === undefined ? {} : { alias }),
      },
      inputs: started,
      after: [],
      hardware: row.hardware,
      labels: row.labels,
      priority: row.priority,
      timeLimitSeconds: row.time_limit_seconds,
      maxAttempts: row.max_attempts,
    });
    return renderRun(inserted, [], await selectLiveRunners(tx));
  });
}

async function checkFiles({ artifacts }: Services, { step, files }: CheckpointRow): Promise<void> {
  for (const { path, digest } of files) {
    if (await artifacts.has(digest)) continue;
    throw new Problem(
      'unprocessable',
      `The file ${path} of the checkpoint of step ${step} is missing from the artifact store.`,
    );
  }
}
