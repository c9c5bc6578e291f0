// What a policy was made by: the reward models that trained it, over all the runs that led to it. A judge among them is
// circular: it says again what the policy was trained to please.
import { selectModel } from '../db/models.ts';
import type { Transaction } from '../db/pool.ts';
import { selectRun, selectRunInputs } from '../db/runs.ts';
import { parseId } from '../domain/ids.ts';
import type { ModelInput, PlannedInputs } from './run-inputs.ts';

export interface PolicyLineage {
  /** it comes from a run, so that another training seed would have made another policy */
  trained: boolean;
  /** digests of the reward models that any of its runs was paid by: one may be registered twice */
  rewardModels: string[];
}

const longestLineage = 100;

/** @param runId UUID of a run that writes responses with a policy, or makes one */
export async function lineageOf(tx: Transaction, runId: string): Promise<PolicyLineage> {
  const rewardModels = new Set<string>();
  let trained = false;
  let next: string | null = runId;
  for (let length = 0; next !== null && length < longestLineage; length++) {
    const run = await selectRunInputs(tx, next);
    if (!run) break;
    if (run.kind !== 'generate') trained = true;
    const { model, reward_model } = run.inputs as PlannedInputs;
    const paidBy = reward_model && (await digestOf(tx, reward_model));
    if (paidBy) rewardModels.add(paidBy);
    next = await runThatMade(tx, model);
  }
  return { trained, rewardModels: [...rewardModels] };
}

type Input = ModelInput | { run_id: string };

/** null: not made yet, or none of this project's */
async function digestOf(tx: Transaction, input: Input): Promise<string | null> {
  if ('model_id' in input) return input.digest;
  if (!('run_id' in input)) return null;
  const run = await selectRun(tx, input.run_id);
  const model = run?.model_id ? await selectModel(tx, run.model_id) : undefined;
  return model?.digest ?? null;
}

async function runThatMade(tx: Transaction, input: Input): Promise<string | null> {
  if ('run_id' in input) return input.run_id;
  if (!('model_id' in input)) return null;
  const model = await selectModel(tx, parseId('model', input.model_id)!);
  return model?.run_id ?? null;
}
