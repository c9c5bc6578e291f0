// What a run may ask for: one strict schema per kind, with the trainer's own defaults and limits
// (runners/finegrain_trainer/spec.py; test/runner/spec-parity.test.ts keeps the two equal).
import { type Static, type TObject, Type } from 'typebox';
import { Problem } from '../errors.ts';
import { splits } from './snapshot-content.ts';

export const runKinds = ['sft', 'reward', 'ppo', 'dpo', 'generate'] as const;
export type RunKind = (typeof runKinds)[number];

const tokenLosses = ['survival', 'bt_hunk', 'bt_sum'] as const;
const sequenceLosses = ['seq_edits', 'seq_pairs'] as const;

/** What a model that was trained with this loss can do: reward each token, or a response as a whole. */
export function rewardRole(loss: string): 'token_reward' | 'sequence_reward' {
  return tokenLosses.some((known) => known === loss) ? 'token_reward' : 'sequence_reward';
}

/** What a run of this kind registers when it succeeds; null for nothing. */
export function modelRole(run: KindSpec): 'policy' | 'token_reward' | 'sequence_reward' | null {
  if (run.kind === 'generate') return null;
  return run.kind === 'reward' ? rewardRole(run.spec.loss!) : 'policy';
}

const closed = { additionalProperties: false } as const;

const count = (value: number, description: string, minimum = 1) =>
  Type.Optional(Type.Integer({ minimum, maximum: 2 ** 31 - 1, default: value, description }));
const atLeast = (minimum: number, value: number, description: string) =>
  Type.Optional(Type.Number({ minimum, default: value, description }));
const positive = (value: number, description: string) =>
  Type.Optional(Type.Number({ exclusiveMinimum: 0, default: value, description }));
const fraction = (value: number, description: string) =>
  Type.Optional(Type.Number({ minimum: 0, maximum: 1, default: value, description }));

const learningRate = 'AdamW peak; pretrained models want about a hundredth of this';
const gradientNorm = 'Gradients are scaled down to this norm';
const checkpoints = 'Steps between checkpoints';

/** What a run may take of memory, and whether it trains all weights. */
const scale = (atOnce: string) => ({
  micro_batch_size: count(0, `Rows that are computed at a time: less memory, the same step; 0: ${atOnce}`, 0),
  gradient_checkpointing: Type.Optional(
    Type.Boolean({
      default: false,
      description: 'Backward computes each layer anew: less memory, a third more time, the same step',
    }),
  ),
  precision: Type.Optional(
    Type.Enum(['fp32', 'bf16'], {
      default: 'fp32',
      description:
        '`bf16`: matrices are multiplied in bfloat16; what is trained, its moments, losses and rewards stay in float32',
    }),
  ),
  lora_rank: count(
    0,
    'Above 0: adapters of this rank are trained in place of all weights (LoRA). The model is merged with its adapter, which lies beside it in `adapter/`.',
    0,
  ),
  lora_alpha: positive(16, 'Adapters are scaled by lora_alpha / lora_rank'),
});

/** By kind, every key optional, with the default that the trainer takes. */
export const hyperparameters = {
  sft: Type.Object(
    {
      epochs: count(3, 'Passes over the training rows'),
      batch_size: count(32, 'Demonstrations per step'),
      learning_rate: positive(4e-3, learningRate),
      warmup_steps: count(30, 'Linear warm-up', 0),
      weight_decay: atLeast(0, 0.01, 'AdamW'),
      max_grad_norm: positive(1, gradientNorm),
      ...scale('all of a step’s'),
      checkpoint_every: count(100, checkpoints),
    },
    closed,
  ),
  reward: Type.Object(
    {
      epochs: count(4, 'Passes over the training edits'),
      batch_size: count(16, 'Edits per step; each brings both of its versions'),
      learning_rate: positive(3e-3, learningRate),
      warmup_steps: count(20, 'Linear warm-up', 0),
      weight_decay: atLeast(0, 0.01, 'AdamW'),
      max_grad_norm: positive(1, gradientNorm),
      reward_clip: Type.Optional(
        Type.Number({
          maximum: -0.1,
          default: -4,
          description: '`survival`: rewards log(1 - p) are cut off here',
        }),
      ),
      consistency_weight: atLeast(
        0,
        0.1,
        '`bt_hunk`, `bt_sum`: holds the rewards of kept tokens equal in both versions',
      ),
      anchor_weight: atLeast(0, 0.1, '`bt_hunk`, `bt_sum`: holds the rewards of unlabelled tokens near zero'),
      label_smoothing: Type.Optional(
        Type.Number({
          minimum: 0,
          maximum: 0.4,
          default: 0,
          description: 'The share of labels, or of preferences, that is taken to be wrong',
        }),
      ),
      pair_weighting: Type.Optional(
        Type.Enum(['edit', 'pair'], {
          default: 'edit',
          description:
            'What weighs as much as any other: each edit, or all edits of a pair together (several annotators edited the same response)',
        }),
      ),
      preference_labels: Type.Optional(
        Type.Enum(['majority', 'votes'], {
          default: 'majority',
          description:
            '`seq_pairs`, `preferred_responses`: a preference is certain, or as likely as the share of the pair’s votes for it (certain without votes)',
        }),
      ),
      preferred_responses: atLeast(
        0,
        0,
        'Weight of the preferred responses of the pairs; 0: they take no part. `survival`: none of their tokens is edited away; other losses: each is preferred over the other response as a whole. Not for `seq_pairs`',
      ),
      heads: Type.Optional(
        Type.Integer({
          minimum: 1,
          maximum: 64,
          default: 1,
          description:
            'Scalar heads on one backbone, each trained on a bootstrap of the rows; a reward is the mean of theirs',
        }),
      ),
      uncertainty_penalty: atLeast(
        0,
        0,
        'So many standard deviations of the heads’ rewards are taken off each reward; needs 2 `heads` or more',
      ),
      patience: count(
        0,
        'Epochs without a better `bad_token_auc` on validation rows (sequence losses: accuracy) after which training stops, with the weights that did best; 0: all epochs, and the last weights',
        0,
      ),
      ...scale('all of a step’s'),
      checkpoint_every: count(100, checkpoints),
    },
    closed,
  ),
  ppo: Type.Object(
    {
      steps: count(28, 'Rollout-and-update rounds'),
      batch_size: count(64, 'Responses per step', 2),
      samples_per_prompt: count(1, 'Responses to each prompt of a step; batch_size is a multiple of it'),
      epochs: count(2, 'Passes over each batch of rollouts'),
      minibatches: count(2, 'Parts of each pass; at most batch_size'),
      learning_rate: positive(5e-4, 'AdamW, constant'),
      weight_decay: atLeast(0, 0, 'AdamW'),
      max_grad_norm: positive(1, gradientNorm),
      max_new_tokens: count(128, 'Longest response; a longer one counts as truncated'),
      temperature: positive(1, 'Of sampling, and of every log-probability'),
      beta: atLeast(0, 0.1, 'Price of one nat of KL against the starting policy'),
      kl_target: atLeast(
        0,
        0,
        'Above 0: the price of KL follows, so that a response has about so many nats of it; `beta` is then the first price',
      ),
      kl_horizon: count(
        200,
        'Responses that the price of KL takes to change by a fifth when KL is a fifth or more off `kl_target`',
      ),
      mu: Type.Optional(
        Type.Enum(['batch', 'slope', 'zero'], {
          default: 'batch',
          description:
            'Taken off each token’s reward: the running mean (`batch`), what a token more brings (`slope`, so that length by itself pays nothing), or nothing',
        }),
      ),
      scale_samples: count(384, 'Samples of the starting policy that set the reward scale', 2),
      gamma: fraction(1, 'Discount'),
      gae_lambda: fraction(0.95, 'λ of generalised advantage estimation'),
      advantage: Type.Optional(
        Type.Enum(['gae', 'leave_one_out'], {
          default: 'gae',
          description:
            '`gae`: of the critic; `leave_one_out`: without one, a response’s total less the mean of the others to its prompt (needs `samples_per_prompt` of 2 or more)',
        }),
      ),
      clip: positive(0.2, 'Of the probability ratio'),
      value_clip: positive(0.2, 'How far a value may move from the one that the rollout saw'),
      value_coefficient: atLeast(0, 0.5, 'Weight of the value loss'),
      truncation_cost: atLeast(0, 1, 'Charged on the last token of a response that did not end itself'),
      reward_placement: Type.Optional(
        Type.Enum(['token', 'end', 'spread'], {
          default: 'token',
          description:
            'Where the reward of a response is paid: where the reward model says (a sequence model: on the last token), all on the last token, or evenly on all tokens',
        }),
      ),
      critic: Type.Optional(
        Type.Enum(['shared', 'separate'], {
          default: 'shared',
          description: 'A value head on the policy’s backbone, or a network of its own',
        }),
      ),
      minimum_bad_token_auc: fraction(
        0.75,
        'A token reward model that found edited tokens with a smaller `bad_token_auc` is refused where its rewards are paid token by token (`reward_placement`): they would not pay. 0: any model',
      ),
      ...scale('all of a minibatch’s, on a CPU as many as have 1,536 tokens'),
      checkpoint_every: count(5, checkpoints),
      rollouts_every: count(
        5,
        'Steps between rollouts that are kept to be looked at (`GET /v1/runs/{run_id}/rollouts`); 0: none. They change nothing of the training.',
        0,
      ),
    },
    closed,
  ),
  dpo: Type.Object(
    {
      epochs: count(2, 'Passes over the training pairs'),
      batch_size: count(16, 'Pairs per step; each brings both of its responses'),
      learning_rate: positive(5e-4, learningRate),
      warmup_steps: count(20, 'Linear warm-up', 0),
      weight_decay: atLeast(0, 0, 'AdamW'),
      max_grad_norm: positive(1, gradientNorm),
      beta: positive(0.1, 'How strongly the policy is held to the one that it starts from'),
      label_smoothing: Type.Optional(
        Type.Number({
          minimum: 0,
          maximum: 0.4,
          default: 0,
          description: 'The share of preferences that is taken to be wrong',
        }),
      ),
      nll_weight: atLeast(
        0,
        1,
        'Weight of the cross-entropy per token of the chosen responses; at 0 they become less likely together with the rejected ones',
      ),
      ...scale('all of a step’s'),
      checkpoint_every: count(100, checkpoints),
    },
    closed,
  ),
  generate: Type.Object(
    {
      batch_size: count(64, 'Prompts decoded together'),
      max_new_tokens: count(128, 'Longest response'),
      temperature: atLeast(0, 1, '0: always the most likely token'),
    },
    closed,
  ),
} satisfies Record<RunKind, TObject>;

const alarm = (threshold: number, description: string, action: 'warn' | 'pause' | 'stop' = 'warn') =>
  Type.Optional(
    Type.Object(
      {
        threshold: Type.Optional(Type.Number({ default: threshold })),
        action: Type.Optional(Type.Enum(['warn', 'pause', 'stop'], { default: action })),
      },
      { ...closed, description },
    ),
  );

const nonFinite = alarm(
  0,
  'More updates than this were left out, as their loss or gradient was not a finite number',
  'stop',
);
const alarmsMeaning = {
  ...closed,
  description:
    'What the run watches for. Each alarm is raised once: an event with its evidence, and in `alarms` of the run. `warn`: the run goes on; `pause`: it keeps a checkpoint and waits until somebody resumes it; `stop`: it keeps a checkpoint and fails with the reason `alarm` (`non_finite`: `unstable`), and a retry goes on from there.',
};

/** By kind, every key optional, with the threshold and the action that the trainer takes. */
export const alarms = {
  sft: Type.Object({ non_finite: nonFinite }, alarmsMeaning),
  reward: Type.Object(
    {
      non_finite: nonFinite,
      low_pair_accuracy: alarm(0.7, 'Held-out `pair_accuracy` below this: PPO seldom gains'),
      low_bad_token_auc: alarm(0.9, 'Held-out `bad_token_auc` below this: PPO seldom gains'),
    },
    alarmsMeaning,
  ),
  dpo: Type.Object({ non_finite: nonFinite }, alarmsMeaning),
  ppo: Type.Object(
    {
      non_finite: nonFinite,
      high_kl: alarm(0.3, 'Nats of KL per token above this'),
      length_drift: alarm(
        0.3,
        'Mean length against the starting policy’s, up or down by more than this share',
      ),
      token_farming: alarm(0.1, 'The share of one token among all sampled ones has grown by more than this'),
      reward_spike: alarm(
        1,
        'The mean raw reward has risen over the mean of the five steps before it by more than so many standard deviations of a response’s',
      ),
      value_collapse: alarm(-0.5, 'Explained variance of the critic, mean over five steps, below this'),
      hackable_reward: alarm(
        0.5,
        'Before the first step: saying nothing, stopping half way, saying everything twice or one token on and on is paid better than the policy’s responses, by more than so many standard deviations of a response’s reward',
      ),
      flat_win_rate: alarm(
        0.52,
        'With `evaluation`, in the second half of the run: the win rate over the starting policy’s responses is below this, as the judge sees it (without one, the reward model)',
      ),
      judge_falls: alarm(
        0.05,
        'With `evaluation.judge`: its win rate has fallen from its best by more than this, while the rewards rose',
      ),
    },
    alarmsMeaning,
  ),
} satisfies Record<Exclude<RunKind, 'generate'>, TObject>;

/** Of `evaluation` in a ppo spec, beside its prompts and its reference. */
export const evaluationOptions = {
  every: count(5, 'Steps between evaluations; there is one before the first step and one after the last'),
};

/** A Llama-shaped model with random weights and a byte-level BPE trained on the training texts. */
export const scratchModel = Type.Object(
  {
    hidden_size: Type.Optional(
      Type.Integer({ minimum: 8, maximum: 8192, default: 64, description: 'A multiple of 2 · num_heads' }),
    ),
    num_layers: Type.Optional(Type.Integer({ minimum: 1, maximum: 128, default: 2 })),
    num_heads: Type.Optional(Type.Integer({ minimum: 1, maximum: 128, default: 2 })),
    vocab_size: Type.Optional(Type.Integer({ minimum: 262, maximum: 262_144, default: 512 })),
    context_length: Type.Optional(Type.Integer({ minimum: 16, maximum: 131_072, default: 256 })),
  },
  { ...closed, description: 'Random weights, and a byte-level BPE trained on the training texts' },
);

const modelId = Type.Optional(
  Type.String({
    maxLength: 100,
    description: 'A registered model',
    examples: ['model_019356f0a1b27c3d8e4f5a6b7c8d9e0f'],
  }),
);
const alias = Type.Optional(
  Type.String({
    maxLength: 100,
    description: 'What the alias names when the run is created',
    examples: ['policy'],
  }),
);
const runId = Type.Optional(
  Type.String({
    maxLength: 100,
    description:
      'The model that this run makes. While it has not ended, the new run waits for it, and fails when it does, or when its model does not pass its gate.',
    examples: ['run_019356f0a1b27c3d8e4f5a6b7c8d9e0f'],
  }),
);
const storedModelForms = { model_id: modelId, alias, run_id: runId };
const anyModelForms = {
  ...storedModelForms,
  path: Type.Optional(
    Type.String({
      pattern: '^/',
      maxLength: 4096,
      description:
        'A model folder on the runner’s machine, absolute. Needs the scope `operator`, as it reads the host.',
    }),
  ),
  hub: Type.Optional(
    Type.String({
      pattern: '^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$',
      maxLength: 200,
      description: 'A Hugging Face hub model, with `revision`',
      examples: ['org/name'],
    }),
  ),
  revision: Type.Optional(
    Type.String({
      pattern: '^[A-Za-z0-9][A-Za-z0-9._/-]*$',
      maxLength: 200,
      description: 'With `hub`: a commit, so that the run can be repeated',
    }),
  ),
};
const oneForm = { ...closed, minProperties: 1 };

const StoredModel = Type.Object(storedModelForms, {
  ...oneForm,
  description: 'Exactly one of `model_id`, `alias`, `run_id`',
  examples: [{ alias: 'token-reward' }],
});
const AnyModel = Type.Object(anyModelForms, {
  ...oneForm,
  description: 'Exactly one of `model_id`, `alias`, `run_id`, `path`, `hub` with `revision`',
  examples: [{ alias: 'policy' }],
});
const StartModel = Type.Object(
  { ...anyModelForms, scratch: Type.Optional(scratchModel) },
  {
    ...oneForm,
    description: 'Exactly one of `model_id`, `alias`, `run_id`, `path`, `hub` with `revision`, `scratch`',
    examples: [{ scratch: { hidden_size: 64, num_layers: 2, num_heads: 2 } }],
  },
);

const snapshotId = Type.String({
  maxLength: 100,
  description: 'A snapshot of this project',
  examples: ['snap_019356f0a1b27c3d8e4f5a6b7c8d9e0f'],
});
const artifact = (description: string) =>
  Type.String({ pattern: '^sha256:[0-9a-f]{64}$', description, examples: [`sha256:${'ab'.repeat(32)}`] });

const Demonstrations = Type.Object(
  {
    demonstrations: Type.Optional(
      artifact(
        'An NDJSON artifact with rows `{prompt, response, id?, split?}`; `split` is `train` unless given',
      ),
    ),
    snapshot_id: Type.Optional(snapshotId),
    responses: Type.Optional(
      Type.Enum(['edited', 'preferred', 'all'], {
        description:
          'With `snapshot_id`: the edited versions (unless given), the preferred responses, or both responses of every pair',
      }),
    ),
  },
  { ...oneForm, description: 'Exactly one of `demonstrations`, `snapshot_id`' },
);
const Prompts = Type.Object(
  {
    snapshot_id: Type.Optional(snapshotId),
    split: Type.Optional(
      Type.Enum([...splits], {
        description:
          'With `snapshot_id`: whose prompts; unless given `train` for ppo, `validation` for its evaluation and `test` for generate',
      }),
    ),
    prompts: Type.Optional(artifact('An NDJSON artifact with rows `{prompt, id?}`')),
  },
  {
    ...oneForm,
    description: 'Exactly one of `snapshot_id`, `prompts`. A snapshot’s prompts come once each.',
  },
);

const KlReference = Type.Optional(
  Type.Object(anyModelForms, {
    ...oneForm,
    description:
      'The model that KL is measured against: one of `model_id`, `alias`, `run_id`, `path`, `hub` with `revision`, with the policy’s tokenizer',
    examples: [{ alias: 'policy' }],
  }),
);

const Judge = Type.Optional(
  Type.Object(storedModelForms, {
    ...oneForm,
    description:
      'A reward model that training does not see, best of other pairs: what it says is set against what the policy is trained on. Exactly one of `model_id`, `alias`, `run_id`',
    examples: [{ alias: 'judge' }],
  }),
);

const seed = Type.Optional(
  Type.Integer({
    minimum: 0,
    maximum: 2 ** 31 - 1,
    default: 0,
    description: 'Equal seeds on equal machines give equal weights',
  }),
);
const modelTail = {
  name: Type.Optional(
    Type.String({
      minLength: 1,
      maxLength: 200,
      description: 'Name of the model; made from kind and run unless given',
    }),
  ),
  alias: Type.Optional(
    Type.String({
      pattern: '^[a-z0-9][a-z0-9._-]{0,99}$',
      description: 'Moved to the model when the run succeeds and its gate, if it has one, is passed',
    }),
  ),
};

export const SftSpec = Type.Object(
  {
    base_model: StartModel,
    data: Demonstrations,
    seed,
    hyperparameters: Type.Optional(hyperparameters.sft),
    alarms: Type.Optional(alarms.sft),
    ...modelTail,
  },
  {
    ...closed,
    $id: 'SftSpec',
    description: 'Supervised fine-tuning on demonstrations, or on the responses of a snapshot',
    examples: [
      {
        base_model: { alias: 'policy' },
        data: { snapshot_id: 'snap_019356f0a1b27c3d8e4f5a6b7c8d9e0f', responses: 'edited' },
        alias: 'policy',
      },
    ],
  },
);

export const RewardSpec = Type.Object(
  {
    base_model: AnyModel,
    snapshot_id: snapshotId,
    loss: Type.Optional(
      Type.Enum([...tokenLosses, ...sequenceLosses], {
        default: 'survival',
        description:
          'Rewards for each token: `survival`, r = log(1 - p) with p the probability that an annotator edits the token away; `bt_hunk`, `bt_sum`: Bradley-Terry on the changed tokens of each hunk, or of all together. One reward at the end of the response, as baselines: `seq_edits`, `seq_pairs`: Bradley-Terry on the edited over the original response, or on the preferred over the other one. A model of those cannot score token by token, but serves a ppo run.',
      }),
    ),
    label_rule: Type.Optional(
      Type.Enum(['mix', 'all', 'none'], {
        default: 'mix',
        description:
          'Which tokens of an insertion carry the label: the first one and the token that skipped it, all, or none',
      }),
    ),
    gate: Type.Optional(
      Type.Object(
        {
          pair_accuracy: fraction(0.7, 'Least share of held-out pairs that are ordered right'),
          bad_token_auc: Type.Optional(
            Type.Number({
              minimum: 0,
              maximum: 1,
              description:
                'Least AUC of finding the tokens that were edited away; not asked for unless given',
              examples: [0.9],
            }),
          ),
        },
        { ...closed, description: 'What the model must reach before the alias moves' },
      ),
    ),
    seed,
    hyperparameters: Type.Optional(hyperparameters.reward),
    alarms: Type.Optional(alarms.reward),
    ...modelTail,
  },
  {
    ...closed,
    $id: 'RewardSpec',
    description: 'A reward model from the edits (`seq_pairs`: the preferences) of a snapshot',
    examples: [
      {
        base_model: { alias: 'policy' },
        snapshot_id: 'snap_019356f0a1b27c3d8e4f5a6b7c8d9e0f',
        gate: { pair_accuracy: 0.7, bad_token_auc: 0.9 },
        alias: 'token-reward',
      },
    ],
  },
);

export const PpoSpec = Type.Object(
  {
    policy: AnyModel,
    reward_model: StoredModel,
    prompts: Prompts,
    evaluation: Type.Optional(
      Type.Object(
        { prompts: Prompts, kl_reference: KlReference, judge: Judge, ...evaluationOptions },
        {
          ...closed,
          description:
            'Responses to prompts of their own while the policy is trained, as the artifact `evaluations.ndjson` (rows `{step, samples, id, prompt, response, token_ids, finish_reason, kl, kl_to_reference?, reward, judge_reward?}`): the learning curve for a judge. `kl` is measured against the policy that the run starts from, `kl_to_reference` against `kl_reference` where that is given; `reward` is the sum of the reward model, `judge_reward` that of `judge`. Among the metrics: `evaluation_win_rate` over the starting policy’s responses as the reward model sees it, `evaluation_judge_win_rate` as the judge does.',
        },
      ),
    ),
    seed,
    hyperparameters: Type.Optional(hyperparameters.ppo),
    alarms: Type.Optional(alarms.ppo),
    ...modelTail,
  },
  {
    ...closed,
    $id: 'PpoSpec',
    description:
      'Fine-grained PPO: every token gets its own reward. With a sequence reward model it is the usual PPO, paid at the end. A reward model with another tokenizer than the policy’s is taken, too: its rewards are carried over by the characters of the text.',
    examples: [
      {
        policy: { alias: 'policy' },
        reward_model: { alias: 'token-reward' },
        prompts: { snapshot_id: 'snap_019356f0a1b27c3d8e4f5a6b7c8d9e0f', split: 'train' },
        name: 'policy-ppo',
      },
    ],
  },
);

export const DpoSpec = Type.Object(
  {
    policy: AnyModel,
    snapshot_id: snapshotId,
    pairs: Type.Optional(
      Type.Enum(['edits', 'preferences'], {
        default: 'edits',
        description:
          '`edits`: the edited over the original version of each accepted edit; `preferences`: the preferred over the other response of each decided pair',
      }),
    ),
    seed,
    hyperparameters: Type.Optional(hyperparameters.dpo),
    alarms: Type.Optional(alarms.dpo),
    ...modelTail,
  },
  {
    ...closed,
    $id: 'DpoSpec',
    description:
      'Direct preference optimisation: a policy from the edits or the preferences of a snapshot, without a reward model; its policy is a good start for fine-grained PPO',
    examples: [
      {
        policy: { alias: 'policy' },
        snapshot_id: 'snap_019356f0a1b27c3d8e4f5a6b7c8d9e0f',
        pairs: 'edits',
        hyperparameters: { beta: 0.1 },
        name: 'policy-dpo',
      },
    ],
  },
);

export const GenerateSpec = Type.Object(
  {
    model: AnyModel,
    prompts: Prompts,
    kl_reference: KlReference,
    seed,
    hyperparameters: Type.Optional(hyperparameters.generate),
  },
  {
    ...closed,
    $id: 'GenerateSpec',
    description:
      'Responses of a policy, as the artifact `responses.ndjson`; with `kl_reference` each row has its `kl`, the log-probability of the response less the one that the reference gives it',
    examples: [
      {
        model: { alias: 'policy' },
        prompts: { snapshot_id: 'snap_019356f0a1b27c3d8e4f5a6b7c8d9e0f', split: 'test' },
      },
    ],
  },
);

export type SftSpec = Static<typeof SftSpec>;
export type RewardSpec = Static<typeof RewardSpec>;
export type PpoSpec = Static<typeof PpoSpec>;
export type DpoSpec = Static<typeof DpoSpec>;
export type GenerateSpec = Static<typeof GenerateSpec>;

/** A kind with its spec, as the request's schema lets it in. */
export type KindSpec =
  | { kind: 'sft'; spec: SftSpec }
  | { kind: 'reward'; spec: RewardSpec }
  | { kind: 'ppo'; spec: PpoSpec }
  | { kind: 'dpo'; spec: DpoSpec }
  | { kind: 'generate'; spec: GenerateSpec };

type StartModel = Static<typeof StartModel>;
type Defaulted<T> = { [K in keyof T]-?: T[K] };

/**
 * The spec with every default filled in: what the run will do even if defaults change later.
 * @throws Problem unprocessable for what a schema cannot say: forms that exclude each other, related numbers
 */
export function resolveSpec(run: KindSpec): KindSpec {
  switch (run.kind) {
    case 'sft': {
      const { spec } = run;
      const model = oneModel(spec.base_model, '/spec/base_model');
      const scratch = model.scratch && withDefaults(scratchModel, model.scratch);
      if (scratch && scratch.hidden_size % (2 * scratch.num_heads) !== 0) {
        throw invalid('/spec/base_model/scratch/hidden_size', 'must be a multiple of 2 · num_heads');
      }
      if (scratch && spec.hyperparameters?.lora_rank) {
        throw invalid('/spec/hyperparameters/lora_rank', 'needs a base_model that was trained before');
      }
      exactlyOne(spec.data, ['demonstrations', 'snapshot_id'], '/spec/data');
      if (spec.data.demonstrations !== undefined && spec.data.responses !== undefined) {
        throw invalid('/spec/data/responses', 'goes with snapshot_id only');
      }
      const data = spec.data.demonstrations
        ? spec.data
        : { ...spec.data, responses: spec.data.responses ?? 'edited' };
      return {
        kind: 'sft',
        spec: {
          ...spec,
          ...resolvedTail('sft', spec),
          alarms: resolvedAlarms(alarms.sft, spec.alarms),
          base_model: scratch ? { scratch } : model,
          data,
        },
      };
    }
    case 'reward': {
      const { spec } = run;
      oneModel(spec.base_model, '/spec/base_model');
      const loss = spec.loss ?? 'survival';
      if (spec.gate?.bad_token_auc !== undefined && rewardRole(loss) === 'sequence_reward') {
        throw invalid(
          '/spec/gate/bad_token_auc',
          `cannot be asked of the loss ${loss}, which finds no tokens`,
        );
      }
      const tail = resolvedTail('reward', spec);
      const { heads, uncertainty_penalty, preferred_responses } = tail.hyperparameters;
      if (uncertainty_penalty > 0 && heads < 2) {
        throw invalid('/spec/hyperparameters/heads', 'uncertainty_penalty needs at least 2');
      }
      if (preferred_responses > 0 && loss === 'seq_pairs') {
        throw invalid(
          '/spec/hyperparameters/preferred_responses',
          'seq_pairs learns from nothing else as it is',
        );
      }
      return {
        kind: 'reward',
        spec: {
          ...spec,
          ...tail,
          alarms: resolvedAlarms(alarms.reward, spec.alarms),
          loss,
          label_rule: spec.label_rule ?? 'mix',
          gate: { pair_accuracy: 0.7, ...spec.gate },
        },
      };
    }
    case 'ppo': {
      const { spec } = run;
      oneModel(spec.policy, '/spec/policy');
      oneModel(spec.reward_model, '/spec/reward_model');
      const tail = { ...resolvedTail('ppo', spec), alarms: resolvedAlarms(alarms.ppo, spec.alarms) };
      const { minibatches, batch_size, samples_per_prompt, advantage, critic, lora_rank } =
        tail.hyperparameters;
      if (minibatches > batch_size) {
        throw invalid('/spec/hyperparameters/minibatches', 'cannot be more than batch_size');
      }
      if (batch_size % samples_per_prompt !== 0) {
        throw invalid('/spec/hyperparameters/batch_size', 'must be a multiple of samples_per_prompt');
      }
      if (advantage === 'leave_one_out' && samples_per_prompt < 2) {
        throw invalid('/spec/hyperparameters/samples_per_prompt', 'leave_one_out needs at least 2');
      }
      if (lora_rank > 0 && critic === 'separate') {
        throw invalid('/spec/hyperparameters/critic', 'with lora_rank there is one backbone: it is `shared`');
      }
      const prompts = onePromptSource(spec.prompts, 'train', '/spec/prompts');
      if (!spec.evaluation) return { kind: 'ppo', spec: { ...spec, ...tail, prompts } };
      const { kl_reference, judge } = spec.evaluation;
      if (kl_reference) oneModel(kl_reference, '/spec/evaluation/kl_reference');
      if (judge) oneModel(judge, '/spec/evaluation/judge');
      const evaluation = {
        ...withDefaults(Type.Object(evaluationOptions), spec.evaluation),
        prompts: onePromptSource(spec.evaluation.prompts, 'validation', '/spec/evaluation/prompts'),
      };
      return { kind: 'ppo', spec: { ...spec, ...tail, prompts, evaluation } };
    }
    case 'dpo': {
      const { spec } = run;
      oneModel(spec.policy, '/spec/policy');
      return {
        kind: 'dpo',
        spec: {
          ...spec,
          ...resolvedTail('dpo', spec),
          alarms: resolvedAlarms(alarms.dpo, spec.alarms),
          pairs: spec.pairs ?? 'edits',
        },
      };
    }
    case 'generate': {
      const { spec } = run;
      oneModel(spec.model, '/spec/model');
      if (spec.kl_reference) oneModel(spec.kl_reference, '/spec/kl_reference');
      const tail = resolvedTail('generate', spec);
      if (spec.kl_reference && tail.hyperparameters.temperature === 0) {
        throw invalid(
          '/spec/kl_reference',
          'needs a temperature above 0; the likeliest tokens alone have no KL',
        );
      }
      return {
        kind: 'generate',
        spec: { ...spec, ...tail, prompts: onePromptSource(spec.prompts, 'test', '/spec/prompts') },
      };
    }
  }
}

function resolvedTail<Kind extends RunKind>(
  kind: Kind,
  spec: { seed?: number; hyperparameters?: object },
): { seed: number; hyperparameters: Defaulted<Static<(typeof hyperparameters)[Kind]>> } {
  return {
    seed: spec.seed ?? 0,
    hyperparameters: withDefaults(hyperparameters[kind], spec.hyperparameters ?? {}),
  };
}

/** Every alarm of the kind with its threshold and its action. */
function resolvedAlarms(schema: TObject, given: object = {}): object {
  const all = Object.entries(schema.properties).map(([code, each]) => [
    code,
    withDefaults(each as TObject, (given as Record<string, object>)[code] ?? {}),
  ]);
  return Object.fromEntries(all);
}

function withDefaults<Schema extends TObject>(schema: Schema, values: object): Defaulted<Static<Schema>> {
  const defaults = Object.entries(schema.properties).map(([key, property]) => [
    key,
    (property as { default?: unknown }).default,
  ]);
  return { ...Object.fromEntries(defaults), ...values } as Defaulted<Static<Schema>>;
}

function oneModel(model: StartModel, pointer: string): StartModel {
  const { hub, revision } = model;
  if ((hub === undefined) !== (revision === undefined))
    throw invalid(pointer, 'needs hub and revision together');
  exactlyOne(model, ['model_id', 'alias', 'run_id', 'path', 'hub', 'scratch'], pointer);
  return model;
}

function onePromptSource(
  source: Static<typeof Prompts>,
  split: (typeof splits)[number],
  pointer: string,
): Static<typeof Prompts> {
  exactlyOne(source, ['snapshot_id', 'prompts'], pointer);
  if (source.prompts === undefined) return { ...source, split: source.split ?? split };
  if (source.split !== undefined) throw invalid(`${pointer}/split`, 'goes with snapshot_id only');
  return source;
}

function exactlyOne(value: object, names: string[], pointer: string): void {
  const given = Object.keys(value).filter((key) => names.includes(key));
  if (given.length !== 1) {
    throw invalid(
      pointer,
      given.length === 0 ? `names none of ${names.join(', ')}` : `names both ${given.join(' and ')}`,
    );
  }
}

function invalid(pointer: string, detail: string): Problem {
  return new Problem('unprocessable', `${pointer}: ${detail}.`, {
    errors: [{ pointer, detail, in: 'body' }],
  });
}
