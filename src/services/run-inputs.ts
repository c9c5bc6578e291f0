// What the names in a spec stand for when the run is created: digests and files, kept on the run, so that its runner
// needs no table and an alias that moves later changes no queued run. Everything that can be refused is refused here. Only
// the model of a run that has not ended yet is filled in later, by the transaction that ends that run.

import { selectArtifact } from '../db/artifacts.ts';
import { type ModelRow, selectModelByAlias } from '../db/models.ts';
import type { Transaction } from '../db/pool.ts';
import type { CheckpointFile } from '../db/run-execution.ts';
import { type RunRow, selectRun } from '../db/runs.ts';
import { formatId, parseId } from '../domain/ids.ts';
import { hasEnded, type RunState } from '../domain/run-states.ts';
import { notFound, unprocessable } from '../errors.ts';
import type { ModelFile } from '../storage/model-folder.ts';
import { type Caller, requireScope, type Services } from './context.ts';
import { findModelByAlias, findModelById, scoringAlias } from './models.ts';
import type { Gate } from './run-outcome.ts';
import { type KindSpec, modelRole, type PpoSpec, rewardRole } from './run-specs.ts';
import { completeCounts, type PartCounts, type SnapshotCounts, type Split } from './snapshot-content.ts';
import { findSnapshot } from './snapshots.ts';

/** A model of the project, at rest in the artifact store. */
export interface RegisteredModel {
  model_id: string;
  digest: string;
  tokenizer_digest: string;
  files: ModelFile[];
}

export interface ScratchConfig {
  hidden_size: number;
  num_layers: number;
  num_heads: number;
  vocab_size: number;
  context_length: number;
}

export type ModelInput =
  | RegisteredModel
  | { path: string }
  | { hub: string; revision: string }
  | { scratch: ScratchConfig };

/** By digest: the artifact of a snapshot, or NDJSON rows of the caller's. */
export type DataInput = { snapshot: string } | { rows: string };

/** The model of a run that has not ended yet; settle_dependents (migration 0009) puts a RegisteredModel in its place. */
export interface FutureModel {
  /** UUID */
  run_id: string;
}

/** Those that a runner gets have no FutureModel left. */
export interface RunInputs<Future = never> {
  /** what is trained, or sampled from */
  model: ModelInput | Future;
  /** ppo only */
  reward_model?: RegisteredModel | Future;
  /** generate, and the evaluation of ppo */
  kl_reference?: ModelInput | Future;
  /** the evaluation of ppo */
  judge?: RegisteredModel | Future;
  data: DataInput;
  /** ppo only */
  evaluation_data?: DataInput;
  /** of another run with equal spec and inputs: what this one makes a model of, without training further */
  checkpoint?: PromotedCheckpoint;
}

export interface PromotedCheckpoint {
  /** public id */
  run_id: string;
  step: number;
  files: CheckpointFile[];
}

export type PlannedInputs = RunInputs<FutureModel>;

/** UUIDs of the runs whose models are still to be made. */
export function awaitedRuns({ model, reward_model, kl_reference, judge }: PlannedInputs): string[] {
  return [model, reward_model, kl_reference, judge].flatMap((input) =>
    input && 'run_id' in input ? input.run_id : [],
  );
}

/**
 * @throws Problem not_found for a model, snapshot or artifact that this project does not have; unprocessable for one
 *   that cannot serve; missing_scope for `path`
 */
export async function resolveInputs(
  services: Services,
  tx: Transaction,
  caller: Caller,
  run: KindSpec,
): Promise<PlannedInputs> {
  switch (run.kind) {
    case 'sft': {
      const { base_model, data } = run.spec;
      if (run.spec.alias) await checkAlias(tx, run.spec.alias, 'policy');
      return {
        model: await resolveModel(services, tx, caller, base_model, 'policy', '/spec/base_model'),
        data: data.demonstrations
          ? await resolveRows(tx, data.demonstrations, '/spec/data/demonstrations')
          : await resolveSnapshot(tx, data.snapshot_id!, '/spec/data/snapshot_id', ({ splits }) =>
              data.responses === 'edited'
                ? lacksEdits(splits.train)
                : data.responses === 'preferred'
                  ? lacksDecidedPairs(splits.train)
                  : splits.train.pairs === 0 && 'has no pair in its train part',
            ),
      };
    }
    case 'reward': {
      const { base_model, snapshot_id } = run.spec;
      if (run.spec.alias) await checkAlias(tx, run.spec.alias, rewardRole(run.spec.loss!));
      return {
        model: await resolveModel(services, tx, caller, base_model, 'policy', '/spec/base_model'),
        data: await resolveSnapshot(tx, snapshot_id, '/spec/snapshot_id', ({ splits }) =>
          run.spec.loss === 'seq_pairs'
            ? lacksDecidedPairs(splits.train)
            : run.spec.loss === 'seq_edits'
              ? lacksEdits(splits.train)
              : lacksTokenLabels(splits.train),
        ),
      };
    }
    case 'ppo': {
      if (run.spec.alias) await checkAlias(tx, run.spec.alias, 'policy');
      const model = await resolveModel(services, tx, caller, run.spec.policy, 'policy', '/spec/policy');
      const reward_model = await resolveStored(
        services,
        tx,
        run.spec.reward_model,
        rewardRoles,
        '/spec/reward_model',
        (row) => cannotFindTokens(row, run.spec.hyperparameters!),
      );
      const inputs = {
        model,
        reward_model,
        data: await resolvePrompts(tx, run.spec.prompts, '/spec/prompts'),
      };
      const { evaluation } = run.spec;
      if (!evaluation) return inputs;
      const pointer = '/spec/evaluation';
      return {
        ...inputs,
        ...(await resolveReference(
          services,
          tx,
          caller,
          evaluation.kl_reference,
          model,
          `${pointer}/kl_reference`,
        )),
        ...(evaluation.judge && {
          judge: await resolveStored(services, tx, evaluation.judge, rewardRoles, `${pointer}/judge`),
        }),
        evaluation_data: await resolvePrompts(tx, evaluation.prompts, `${pointer}/prompts`),
      };
    }
    case 'dpo': {
      const { policy, snapshot_id, pairs, alias } = run.spec;
      if (alias) await checkAlias(tx, alias, 'policy');
      return {
        model: await resolveModel(services, tx, caller, policy, 'policy', '/spec/policy'),
        data: await resolveSnapshot(tx, snapshot_id, '/spec/snapshot_id', ({ splits }) =>
          pairs === 'edits' ? lacksEdits(splits.train) : lacksDecidedPairs(splits.train),
        ),
      };
    }
    case 'generate': {
      const model = await resolveModel(services, tx, caller, run.spec.model, 'policy', '/spec/model');
      return {
        model,
        ...(await resolveReference(services, tx, caller, run.spec.kl_reference, model, '/spec/kl_reference')),
        data: await resolvePrompts(tx, run.spec.prompts, '/spec/prompts'),
      };
    }
  }
}

async function resolveReference(
  services: Services,
  tx: Transaction,
  caller: Caller,
  reference: ModelReference | undefined,
  policy: ModelInput | FutureModel,
  pointer: string,
): Promise<Pick<PlannedInputs, 'kl_reference'>> {
  if (!reference) return {};
  const kl_reference = await resolveModel(services, tx, caller, reference, 'policy', pointer);
  checkTokenizer(policy, kl_reference, pointer);
  return { kl_reference };
}

/** Models of a path, of a hub or of a run to come are compared by the trainer. */
function checkTokenizer(policy: object, other: object, pointer: string): void {
  const known = 'tokenizer_digest' in policy && 'tokenizer_digest' in other;
  if (known && policy.tokenizer_digest !== other.tokenizer_digest) {
    throw unprocessable(
      pointer,
      'has another tokenizer than the policy; train it from a model with that tokenizer',
    );
  }
}

const rewardRoles: Role[] = ['token_reward', 'sequence_reward'];

/** Why dense PPO would not gain by a model; false when it may. The trainer says so of models that are still to be made. */
function cannotFindTokens(
  { role, metrics }: ModelRow,
  { minimum_bad_token_auc, reward_placement }: NonNullable<PpoSpec['hyperparameters']>,
): string | false {
  const found = metrics.bad_token_auc;
  return (
    role === 'token_reward' &&
    reward_placement === 'token' &&
    typeof found === 'number' &&
    found < minimum_bad_token_auc! &&
    `finds edited tokens with a bad_token_auc of ${found.toFixed(3)}; below ${minimum_bad_token_auc} (hyperparameters.minimum_bad_token_auc) token rewards do not pay. Train it on more edits, or have its total paid at the end (hyperparameters.reward_placement)`
  );
}

interface ModelReference {
  model_id?: string;
  alias?: string;
  run_id?: string;
  path?: string;
  hub?: string;
  revision?: string;
  scratch?: object;
}

type Role = ModelRow['role'];

async function resolveModel(
  services: Services,
  tx: Transaction,
  caller: Caller,
  model: ModelReference,
  role: Role,
  pointer: string,
): Promise<ModelInput | FutureModel> {
  if (model.scratch) return { scratch: model.scratch as ScratchConfig };
  if (model.hub) return { hub: model.hub, revision: model.revision! };
  if (model.path) {
    requireScope(caller, 'operator'); // the folder is the host's, not the project's
    return { path: model.path };
  }
  return resolveStored(services, tx, model, [role], pointer);
}

async function resolveStored(
  services: Services,
  tx: Transaction,
  { model_id, alias, run_id }: ModelReference,
  roles: Role[],
  pointer: string,
  refusal: (row: ModelRow) => string | false = () => false,
): Promise<RegisteredModel | FutureModel> {
  if (run_id !== undefined) {
    const run = await findModelRun(tx, run_id, roles, `${pointer}/run_id`);
    if (run.model_id === null) return { run_id: run.id };
    model_id = formatId('model', run.model_id);
  }
  const row =
    model_id === undefined
      ? await findModelByAlias(services, tx, alias!)
      : await findModelById(services, tx, model_id);
  if (!row) {
    if (model_id !== undefined) throw notFound('model', model_id, `${pointer}/model_id`);
    throw unprocessable(`${pointer}/alias`, `names no model of this project: ${JSON.stringify(alias)}`);
  }
  if (!roles.includes(row.role))
    throw unprocessable(pointer, `has the role ${row.role}; a ${roles.join(' or ')} is needed here`);
  const reason = refusal(row);
  if (reason) throw unprocessable(pointer, reason);
  return {
    model_id: formatId('model', row.id),
    digest: row.digest,
    tokenizer_digest: row.tokenizer_digest,
    files: row.files,
  };
}

/** A run whose model can serve: it makes one of these roles, and has it or will. */
async function findModelRun(tx: Transaction, id: string, roles: Role[], pointer: string): Promise<RunRow> {
  const uuid = parseId('run', id);
  const row = uuid ? await selectRun(tx, uuid) : undefined;
  if (!row) throw notFound('run', id, pointer);
  const role = modelRole(row as unknown as KindSpec);
  if (role === null || !roles.includes(role))
    throw unprocessable(
      pointer,
      `makes ${role ? `a ${role} model` : 'no model'}; a ${roles.join(' or ')} is needed here`,
    );
  if ((row.result as { gate?: Gate } | null)?.gate?.passed === false)
    throw unprocessable(
      pointer,
      'has a model that did not pass its gate; name it by model_id to use it all the same',
    );
  if (row.model_id === null && hasEnded(row.state as RunState))
    throw unprocessable(pointer, `has ended as ${row.state} and has no model; retry it first`);
  return row;
}

/** An alias that serves one role is not handed to a model of another. */
export async function checkAlias(
  tx: Transaction,
  alias: string,
  role: Role,
  pointer = '/spec/alias',
): Promise<void> {
  const current =
    (await selectModelByAlias(tx, alias))?.role ?? (alias === scoringAlias ? 'token_reward' : role);
  if (current !== role)
    throw unprocessable(pointer, `names a ${current} model; this run makes a ${role} model`);
}

async function resolveSnapshot(
  tx: Transaction,
  id: string,
  pointer: string,
  lacks: (counts: SnapshotCounts) => string | false,
): Promise<DataInput> {
  const row = await findSnapshot(tx, id, pointer);
  const lack = lacks(completeCounts(row.counts as SnapshotCounts));
  if (lack) throw unprocessable(pointer, lack);
  return { snapshot: row.digest };
}

const lacksDecidedPairs = ({ pairs, undecided }: PartCounts): string | false =>
  pairs === undecided && 'has no pair with a preference in its train part';

const lacksEdits = ({ edits }: PartCounts): string | false =>
  edits === 0 && 'has no accepted edit in its train part';

/** Rewrites only compare whole responses. */
const lacksTokenLabels = ({ edits, rewrites }: PartCounts): string | false =>
  edits === rewrites && 'has no minimal edit in its train part, so no token labels';

async function resolveRows(tx: Transaction, digest: string, pointer: string): Promise<DataInput> {
  if (!(await selectArtifact(tx, digest))) throw notFound('artifact', digest, pointer);
  return { rows: digest };
}

function resolvePrompts(
  tx: Transaction,
  source: { snapshot_id?: string; split?: Split; prompts?: string },
  pointer: string,
): Promise<DataInput> {
  if (source.prompts) return resolveRows(tx, source.prompts, `${pointer}/prompts`);
  const split = source.split!;
  return resolveSnapshot(
    tx,
    source.snapshot_id!,
    `${pointer}/snapshot_id`,
    ({ splits }) => splits[split].pairs === 0 && `has no pair in its ${split} part`,
  );
}
