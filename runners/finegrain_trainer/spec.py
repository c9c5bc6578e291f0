"""spec.json as typed values. What this accepts, the rest of the trainer trusts; unknown keys are refused.

Defaults are those measured on the demo world (0.1-0.2 M parameters, ALGORITHM.md); a pretrained model of billions of
parameters wants learning rates about a hundred times smaller.
"""

import json
import math
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from .failures import BadSpec


def option(
    default: Any,
    *,
    above: float | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field with a default and the range that a spec may choose from."""
    return field(default=default, metadata={"above": above, "minimum": minimum, "maximum": maximum, "choices": choices})


@dataclass(frozen=True)
class Alarm:
    """When a run says that something is wrong, and what it does about it, once its progress is kept.

    `warn`: it goes on. `pause`: it waits for somebody, who resumes it. `stop`: it fails, and a retry goes on.
    """

    threshold: float
    action: str = "warn"


ACTIONS = ("warn", "pause", "stop")


# ---- hyperparameters, one dataclass per kind


@dataclass(frozen=True)
class SftOptions:
    # passes over the training rows
    epochs: int = option(3, minimum=1)
    # demonstrations per step
    batch_size: int = option(32, minimum=1)
    # AdamW peak: linear warm-up, then cosine to a tenth
    learning_rate: float = option(4e-3, above=0)
    warmup_steps: int = option(30, minimum=0)
    weight_decay: float = option(0.01, minimum=0)
    # gradients are scaled down to this norm
    max_grad_norm: float = option(1.0, above=0)
    # rows that are computed at a time: less memory, the same step; 0 = all of a step's
    micro_batch_size: int = option(0, minimum=0)
    # backward computes each layer anew: less memory, a third more time, the same step
    gradient_checkpointing: bool = option(False)
    # `bf16` = matrices are multiplied in bfloat16; what is trained, its moments, losses and rewards stay in float32
    precision: str = option("fp32", choices=("fp32", "bf16"))
    # above 0: adapters of this rank are trained in place of all weights (LoRA)
    lora_rank: int = option(0, minimum=0)
    # adapters are scaled by lora_alpha / lora_rank
    lora_alpha: float = option(16.0, above=0)
    # steps between checkpoints
    checkpoint_every: int = option(100, minimum=1)


@dataclass(frozen=True)
class RewardOptions:
    # passes over the training edits
    epochs: int = option(4, minimum=1)
    # edits per step; each brings both of its versions
    batch_size: int = option(16, minimum=1)
    # AdamW peak: linear warm-up, then linear to zero
    learning_rate: float = option(3e-3, above=0)
    warmup_steps: int = option(20, minimum=0)
    weight_decay: float = option(0.01, minimum=0)
    max_grad_norm: float = option(1.0, above=0)
    # survival: r_t = log(1 - p_t) is cut off here, so that one token cannot outweigh a response
    reward_clip: float = option(-4.0, maximum=-0.1)
    # bt_hunk, bt_sum: holds the rewards of kept tokens equal in both versions (lambda_0) ...
    consistency_weight: float = option(0.1, minimum=0)
    # ... and near zero (lambda_z)
    anchor_weight: float = option(0.1, minimum=0)
    # the share of labels, or of preferences, that is taken to be wrong
    label_smoothing: float = option(0.0, minimum=0, maximum=0.4)
    # what weighs as much as any other: each edit, or all edits of a pair together
    pair_weighting: str = option("edit", choices=("edit", "pair"))
    # seq_pairs, preferred_responses: what most annotators said is certain, or as likely as the share of their votes
    preference_labels: str = option("majority", choices=("majority", "votes"))
    # weight of the preferred responses y^w of the pairs: none of their tokens is edited away (survival), or each is
    # preferred over the other response as a whole (other losses); 0 = they take no part
    preferred_responses: float = option(0.0, minimum=0)
    # scalar heads on the backbone, each with a bootstrap of the training rows; a reward is their mean ...
    heads: int = option(1, minimum=1, maximum=64)
    # ... less so many of their standard deviations
    uncertainty_penalty: float = option(0.0, minimum=0)
    # epochs without a better bad_token_auc on validation rows (sequence losses: accuracy) after which training stops,
    # with the weights that did best; 0 = it takes all epochs and keeps the last
    patience: int = option(0, minimum=0)
    # rows that are computed at a time: less memory, the same step; 0 = all of a step's
    micro_batch_size: int = option(0, minimum=0)
    # backward computes each layer anew: less memory, a third more time, the same step
    gradient_checkpointing: bool = option(False)
    # `bf16` = matrices are multiplied in bfloat16; what is trained, its moments, losses and rewards stay in float32
    precision: str = option("fp32", choices=("fp32", "bf16"))
    # above 0: adapters of this rank are trained in place of all weights (LoRA)
    lora_rank: int = option(0, minimum=0)
    # adapters are scaled by lora_alpha / lora_rank
    lora_alpha: float = option(16.0, above=0)
    checkpoint_every: int = option(100, minimum=1)


@dataclass(frozen=True)
class PpoOptions:
    # rollout-and-update rounds
    steps: int = option(28, minimum=1)
    # responses per step
    batch_size: int = option(64, minimum=2)
    # responses to each prompt of a step; batch_size is a multiple of it
    samples_per_prompt: int = option(1, minimum=1)
    # passes over each batch of rollouts, and into how many minibatches each pass is cut
    epochs: int = option(2, minimum=1)
    minibatches: int = option(2, minimum=1)
    # AdamW, constant
    learning_rate: float = option(5e-4, above=0)
    weight_decay: float = option(0.0, minimum=0)
    max_grad_norm: float = option(1.0, above=0)
    # longest response; what is cut off here counts as truncated
    max_new_tokens: int = option(128, minimum=1)
    # sampling temperature; every log-probability is taken at it
    temperature: float = option(1.0, above=0)
    # price of one nat of k1 KL against the starting policy
    beta: float = option(0.1, minimum=0)
    # above 0: the price follows, so that a response has about so many nats of KL; `beta` is then the first one
    kl_target: float = option(0.0, minimum=0)
    # responses that the price takes to change by a fifth when KL is a fifth or more off the target
    kl_horizon: int = option(200, minimum=1)
    # what is taken off each token's reward: `batch` = its running mean under the policy, `slope` = what a token more
    # brings there, so that length by itself pays nothing, `zero` = nothing
    mu: str = option("batch", choices=("batch", "slope", "zero"))
    # samples of the starting policy that set the scale s (and the first mu)
    scale_samples: int = option(384, minimum=2)
    gamma: float = option(1.0, minimum=0, maximum=1)
    # lambda of generalised advantage estimation
    gae_lambda: float = option(0.95, minimum=0, maximum=1)
    # `gae` = of the critic; `leave_one_out` = without one: a response's total less the mean of the others to its prompt
    advantage: str = option("gae", choices=("gae", "leave_one_out"))
    # ratio clip, and how far a value may move from the one that the rollout saw
    clip: float = option(0.2, above=0)
    value_clip: float = option(0.2, above=0)
    value_coefficient: float = option(0.5, minimum=0)
    # charged on the last token of a response that did not end itself, in units of s
    truncation_cost: float = option(1.0, minimum=0)
    # where the reward of a response is paid: `token` = where the reward model says, `end` = summed on the last token,
    # `spread` = evenly on all tokens
    reward_placement: str = option("token", choices=("token", "end", "spread"))
    # `shared` = value head on the policy's backbone, `separate` = a network of its own
    critic: str = option("shared", choices=("shared", "separate"))
    # a token reward model that found edited tokens with a smaller bad_token_auc on its test split is refused where its
    # rewards are paid token by token (`reward_placement`): it would not pay (docs/experiments.md)
    minimum_bad_token_auc: float = option(0.75, minimum=0, maximum=1)
    # rows that are computed at a time: less memory, the same step; 0 = all of a minibatch's, on a CPU as many as have
    # 1,536 tokens
    micro_batch_size: int = option(0, minimum=0)
    # backward computes each layer anew: less memory, a third more time, the same step
    gradient_checkpointing: bool = option(False)
    # `bf16` = matrices are multiplied in bfloat16; what is trained, its moments, losses and rewards stay in float32
    precision: str = option("fp32", choices=("fp32", "bf16"))
    # above 0: adapters of this rank are trained in place of all weights (LoRA)
    lora_rank: int = option(0, minimum=0)
    # adapters are scaled by lora_alpha / lora_rank
    lora_alpha: float = option(16.0, above=0)
    checkpoint_every: int = option(5, minimum=1)
    # steps between rollouts that are kept to be looked at; 0 = none. They change nothing of the training.
    rollouts_every: int = option(5, minimum=0)


@dataclass(frozen=True)
class DpoOptions:
    # passes over the training pairs
    epochs: int = option(2, minimum=1)
    # pairs per step; each brings both of its responses
    batch_size: int = option(16, minimum=1)
    # AdamW peak: linear warm-up, then linear to zero
    learning_rate: float = option(5e-4, above=0)
    warmup_steps: int = option(20, minimum=0)
    weight_decay: float = option(0.0, minimum=0)
    max_grad_norm: float = option(1.0, above=0)
    # how strongly the policy is held to the one that it starts from
    beta: float = option(0.1, above=0)
    # the share of preferences that is taken to be wrong (conservative DPO)
    label_smoothing: float = option(0.0, minimum=0, maximum=0.4)
    # weight of the cross-entropy per token of the chosen responses; at 0 they become less likely with the rejected ones
    nll_weight: float = option(1.0, minimum=0)
    # rows that are computed at a time: less memory, the same step; 0 = all of a step's
    micro_batch_size: int = option(0, minimum=0)
    # backward computes each layer anew: less memory, a third more time, the same step
    gradient_checkpointing: bool = option(False)
    # `bf16` = matrices are multiplied in bfloat16; what is trained, its moments, losses and rewards stay in float32
    precision: str = option("fp32", choices=("fp32", "bf16"))
    # above 0: adapters of this rank are trained in place of all weights (LoRA)
    lora_rank: int = option(0, minimum=0)
    # adapters are scaled by lora_alpha / lora_rank
    lora_alpha: float = option(16.0, above=0)
    checkpoint_every: int = option(100, minimum=1)


@dataclass(frozen=True)
class GenerateOptions:
    # prompts decoded together
    batch_size: int = option(64, minimum=1)
    max_new_tokens: int = option(128, minimum=1)
    # 0 = always the most likely token
    temperature: float = option(1.0, minimum=0)


@dataclass(frozen=True)
class EvaluationOptions:
    # steps between evaluations; there is one before the first step and one after the last
    every: int = option(5, minimum=1)


# ---- alarms, by kind; each is raised once in a run


@dataclass(frozen=True)
class UpdateAlarms:
    # updates that were left out, as their loss or gradient was not a finite number
    non_finite: Alarm = Alarm(0.0, "stop")


@dataclass(frozen=True)
class RewardAlarms:
    non_finite: Alarm = Alarm(0.0, "stop")
    # held-out figures below which PPO seldom gains (the paper's alarm, and ALGORITHM 2)
    low_pair_accuracy: Alarm = Alarm(0.7)
    low_bad_token_auc: Alarm = Alarm(0.9)


@dataclass(frozen=True)
class PpoAlarms:
    non_finite: Alarm = Alarm(0.0, "stop")
    # nats of k1 KL per token: the policy has left the region where its rewards were learned
    high_kl: Alarm = Alarm(0.3)
    # mean length against the starting policy's, up or down
    length_drift: Alarm = Alarm(0.3)
    # by how much the share of one token among all sampled ones has grown
    token_farming: Alarm = Alarm(0.1)
    # rise of the mean raw reward over the mean of the steps before it, in standard deviations s of a response's
    reward_spike: Alarm = Alarm(1.0)
    # explained variance of the critic, mean over recent steps: below, it does harm
    value_collapse: Alarm = Alarm(-0.5)
    # before the first step: how much better than the starting policy's responses their abuses are paid, in units of s
    hackable_reward: Alarm = Alarm(0.5)
    # evaluations in the second half of the run: win rate over the starting policy's responses, as the judge (without
    # one: the reward model) sees it
    flat_win_rate: Alarm = Alarm(0.52)
    # evaluations: by how much the judge's win rate has fallen from its best while the rewards rose
    judge_falls: Alarm = Alarm(0.05)


# ---- models


@dataclass(frozen=True)
class LocalModel:
    path: Path


@dataclass(frozen=True)
class HubModel:
    hub: str
    revision: str


@dataclass(frozen=True)
class ScratchModel:
    """A Llama-shaped model with random weights, and a byte-level BPE trained on the training texts."""

    hidden_size: int = option(64, minimum=8, maximum=8192)
    num_layers: int = option(2, minimum=1, maximum=128)
    num_heads: int = option(2, minimum=1, maximum=128)
    # at least the 256 bytes and the special tokens
    vocab_size: int = option(512, minimum=262, maximum=262144)
    context_length: int = option(256, minimum=16, maximum=131072)


# ---- specs

# Losses whose models reward each token, and those whose models reward a response at its end (ALGORITHM 2).
TOKEN_LOSSES = ("survival", "bt_hunk", "bt_sum")
SEQUENCE_LOSSES = ("seq_edits", "seq_pairs")
# What dpo learns from: y^e over y^l, or the preferred response over the other one.
PAIRS = ("edits", "preferences")


@dataclass(frozen=True)
class SftSpec:
    seed: int
    # True: train no further than the checkpoint in the workdir has come; evaluate and export what it holds
    finish_at_checkpoint: bool
    base_model: LocalModel | HubModel | ScratchModel
    examples: Path
    options: SftOptions
    alarms: UpdateAlarms


@dataclass(frozen=True)
class RewardSpec:
    seed: int
    finish_at_checkpoint: bool
    base_model: LocalModel | HubModel
    loss: str
    labels: Path
    options: RewardOptions
    alarms: RewardAlarms


@dataclass(frozen=True)
class Evaluation:
    """What the policy says to other prompts while it is trained; KL to the start, and to `kl_reference` where given.

    `judge`: a reward model that training does not see, whose word is set against that of the one that is trained on.
    """

    prompts: Path
    kl_reference: LocalModel | HubModel | None
    judge: Path | None
    options: EvaluationOptions


@dataclass(frozen=True)
class PpoSpec:
    seed: int
    finish_at_checkpoint: bool
    policy: LocalModel | HubModel
    reward_model: Path
    prompts: Path
    evaluation: Evaluation | None
    options: PpoOptions
    alarms: PpoAlarms


@dataclass(frozen=True)
class DpoSpec:
    seed: int
    finish_at_checkpoint: bool
    policy: LocalModel | HubModel
    # of PAIRS
    pairs: str
    labels: Path
    options: DpoOptions
    alarms: UpdateAlarms


@dataclass(frozen=True)
class GenerateSpec:
    seed: int
    model: LocalModel | HubModel
    prompts: Path
    kl_reference: LocalModel | HubModel | None
    options: GenerateOptions


Spec = SftSpec | RewardSpec | PpoSpec | DpoSpec | GenerateSpec
OPTIONS = {
    "sft": SftOptions,
    "reward": RewardOptions,
    "ppo": PpoOptions,
    "dpo": DpoOptions,
    "generate": GenerateOptions,
}
ALARMS = {"sft": UpdateAlarms, "reward": RewardAlarms, "ppo": PpoAlarms, "dpo": UpdateAlarms}


def read_spec(path: Path, kind: str) -> Spec:
    """Reads and checks spec.json; raises BadSpec with the key that is wrong."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSpec(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadSpec(f"{path}: is not JSON: {error}") from error
    try:
        return parse_spec(raw, kind, path.parent)
    except BadSpec as error:
        raise BadSpec(f"{path.name}: {error}") from None


def parse_spec(raw: Any, kind: str, folder: Path) -> Spec:
    """The typed spec of `kind`; relative paths are taken from `folder`."""
    model_key = {"sft": "base_model", "reward": "base_model", "ppo": "policy", "dpo": "policy", "generate": "model"}[
        kind
    ]
    data_key = {"sft": "examples", "reward": "labels", "ppo": "prompts", "dpo": "labels", "generate": "prompts"}[kind]
    own_keys = {
        "sft": {"finish_at_checkpoint", "alarms"},
        "reward": {"finish_at_checkpoint", "alarms", "loss"},
        "ppo": {"finish_at_checkpoint", "alarms", "reward_model", "evaluation"},
        "dpo": {"finish_at_checkpoint", "alarms", "pairs"},
        "generate": {"kl_reference"},
    }[kind]
    spec = _object(raw, "", {"kind", "seed", "hyperparameters", "data", model_key} | own_keys)
    if spec.get("kind", kind) != kind:
        raise BadSpec(f"kind: is {spec['kind']!r}, but the command says {kind!r}")
    seed = spec.get("seed", 0)
    if type(seed) is not int or not 0 <= seed < 2**31:
        raise BadSpec(f"seed: expected an integer from 0 to 2147483647, got {seed!r}")
    data = _object(_required(spec, "data"), "data", {data_key})
    rows = _path(_required(data, data_key, "data."), f"data.{data_key}", folder)
    model = _model(_required(spec, model_key), model_key, folder, allow_scratch=kind == "sft")
    options = spec.get("hyperparameters", {})
    alarms = parse_alarms(ALARMS[kind], spec.get("alarms", {})) if kind in ALARMS else None
    finish = spec.get("finish_at_checkpoint", False)
    if type(finish) is not bool:
        raise BadSpec(f"finish_at_checkpoint: expected true or false, got {finish!r}")
    match kind:
        case "sft":
            sft_options = parse_options(SftOptions, options, "hyperparameters")
            if sft_options.lora_rank and isinstance(model, ScratchModel):
                raise BadSpec("hyperparameters.lora_rank: adapters need a base_model that was trained before")
            return SftSpec(seed, finish, model, rows, sft_options, alarms)
        case "reward":
            loss = spec.get("loss", "survival")
            if loss not in TOKEN_LOSSES + SEQUENCE_LOSSES:
                raise BadSpec(f"loss: expected one of {', '.join(TOKEN_LOSSES + SEQUENCE_LOSSES)}, got {loss!r}")
            reward_options = parse_options(RewardOptions, options, "hyperparameters")
            if reward_options.uncertainty_penalty > 0 and reward_options.heads < 2:
                raise BadSpec("hyperparameters.heads: uncertainty_penalty needs at least 2")
            if reward_options.preferred_responses > 0 and loss == "seq_pairs":
                raise BadSpec("hyperparameters.preferred_responses: seq_pairs learns from nothing else as it is")
            return RewardSpec(seed, finish, model, loss, rows, reward_options, alarms)
        case "ppo":
            reward_path = _model_folder(_required(spec, "reward_model"), "reward_model", folder)
            ppo_options = parse_options(PpoOptions, options, "hyperparameters")
            if ppo_options.minibatches > ppo_options.batch_size:
                raise BadSpec("hyperparameters.minibatches: cannot be more than batch_size")
            if ppo_options.batch_size % ppo_options.samples_per_prompt:
                raise BadSpec("hyperparameters.batch_size: must be a multiple of samples_per_prompt")
            if ppo_options.lora_rank and ppo_options.critic == "separate":
                raise BadSpec(
                    "hyperparameters.critic: with lora_rank there is one backbone, and the critic is `shared`"
                )
            if ppo_options.advantage == "leave_one_out" and ppo_options.samples_per_prompt < 2:
                raise BadSpec("hyperparameters.samples_per_prompt: leave_one_out needs at least 2")
            evaluation = _evaluation(spec["evaluation"], folder) if "evaluation" in spec else None
            return PpoSpec(seed, finish, model, reward_path, rows, evaluation, ppo_options, alarms)
        case "dpo":
            pairs = spec.get("pairs", "edits")
            if pairs not in PAIRS:
                raise BadSpec(f"pairs: expected one of {', '.join(PAIRS)}, got {pairs!r}")
            dpo_options = parse_options(DpoOptions, options, "hyperparameters")
            return DpoSpec(seed, finish, model, pairs, rows, dpo_options, alarms)
        case "generate":
            reference = _reference(spec, "", folder)
            generate_options = parse_options(GenerateOptions, options, "hyperparameters")
            if reference is not None and generate_options.temperature == 0:
                raise BadSpec("kl_reference: needs a temperature above 0; the likeliest tokens alone have no KL")
            return GenerateSpec(seed, model, rows, reference, generate_options)
    raise AssertionError(kind)


def parse_options(cls: type, raw: Any, where: str) -> Any:
    """An instance of the dataclass `cls` from a JSON object; every key is optional, checked by type and range."""
    values = _object(raw, where, {f.name for f in fields(cls)})
    types = get_type_hints(cls)
    checked = {}
    for f in fields(cls):
        if f.name in values:
            checked[f.name] = _check(values[f.name], types[f.name], f.metadata, f"{where}.{f.name}")
        else:
            assert f.default is not MISSING
    return cls(**checked)


def parse_alarms(cls: type, raw: Any) -> Any:
    """An instance of the dataclass `cls` from a JSON object {name: {threshold, action}}; every key is optional."""
    values = _object(raw, "alarms", {f.name for f in fields(cls)})
    alarms = {}
    for f in fields(cls):
        where = f"alarms.{f.name}"
        own = _object(values.get(f.name, {}), where, {"threshold", "action"})
        threshold = own.get("threshold", f.default.threshold)
        if type(threshold) not in (int, float) or not math.isfinite(threshold):
            raise BadSpec(f"{where}.threshold: expected a number, got {threshold!r}")
        action = own.get("action", f.default.action)
        if action not in ACTIONS:
            raise BadSpec(f"{where}.action: expected one of {', '.join(ACTIONS)}, got {action!r}")
        alarms[f.name] = Alarm(float(threshold), action)
    return cls(**alarms)


def _check(value: Any, expected: type, limits: Any, where: str) -> Any:
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected or (expected is float and not math.isfinite(value)):
        name = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}[expected]
        raise BadSpec(f"{where}: expected {name}, got {value!r}")
    if limits["choices"] is not None and value not in limits["choices"]:
        raise BadSpec(f"{where}: expected one of {', '.join(limits['choices'])}, got {value!r}")
    if limits["above"] is not None and not value > limits["above"]:
        raise BadSpec(f"{where}: must be above {limits['above']}, got {value!r}")
    if limits["minimum"] is not None and value < limits["minimum"]:
        raise BadSpec(f"{where}: must be at least {limits['minimum']}, got {value!r}")
    if limits["maximum"] is not None and value > limits["maximum"]:
        raise BadSpec(f"{where}: must be at most {limits['maximum']}, got {value!r}")
    return value


def _model(raw: Any, where: str, folder: Path, allow_scratch: bool) -> Any:
    keys = {"path", "hub", "revision"} | ({"scratch"} if allow_scratch else set())
    source = _object(raw, where, keys)
    if set(source) == {"path"}:
        return LocalModel(_path(source["path"], f"{where}.path", folder))
    if set(source) == {"hub", "revision"}:
        for key in ("hub", "revision"):
            if not isinstance(source[key], str) or not source[key]:
                raise BadSpec(f"{where}.{key}: expected a non-empty string, got {source[key]!r}")
        return HubModel(source["hub"], source["revision"])
    if set(source) == {"scratch"}:
        scratch = parse_options(ScratchModel, source["scratch"], f"{where}.scratch")
        if scratch.hidden_size % (2 * scratch.num_heads) != 0:
            raise BadSpec(f"{where}.scratch.hidden_size: must be a multiple of 2 * num_heads (rotary pairs)")
        return scratch
    forms = '{"path"}, {"hub", "revision"}' + (' or {"scratch"}' if allow_scratch else "")
    raise BadSpec(f"{where}: expected one of {forms}, got the keys {sorted(source)}")


def _evaluation(raw: Any, folder: Path) -> Evaluation:
    keys = _object(raw, "evaluation", {"prompts", "kl_reference", "judge", "every"})
    return Evaluation(
        _path(_required(keys, "prompts", "evaluation."), "evaluation.prompts", folder),
        _reference(keys, "evaluation.", folder),
        _model_folder(keys["judge"], "evaluation.judge", folder) if "judge" in keys else None,
        parse_options(EvaluationOptions, {k: v for k, v in keys.items() if k == "every"}, "evaluation"),
    )


def _reference(raw: dict[str, Any], prefix: str, folder: Path) -> Any:
    if "kl_reference" not in raw:
        return None
    return _model(raw["kl_reference"], f"{prefix}kl_reference", folder, allow_scratch=False)


def _model_folder(raw: Any, where: str, folder: Path) -> Path:
    """The folder of a reward model, which no hub has."""
    return _path(_required(_object(raw, where, {"path"}), "path", f"{where}."), f"{where}.path", folder)


def _object(raw: Any, where: str, allowed: set[str]) -> dict[str, Any]:
    prefix = f"{where}: " if where else ""
    if not isinstance(raw, dict):
        raise BadSpec(f"{prefix}expected an object, got {type(raw).__name__}")
    unknown = sorted(set(raw) - allowed)
    if unknown:
        raise BadSpec(f"{prefix}unknown key {unknown[0]!r}; known are {', '.join(sorted(allowed))}")
    return raw


def _required(raw: dict[str, Any], key: str, prefix: str = "") -> Any:
    if key not in raw:
        raise BadSpec(f"{prefix}{key}: is required")
    return raw[key]


def _path(raw: Any, where: str, folder: Path) -> Path:
    if not isinstance(raw, str) or not raw:
        raise BadSpec(f"{where}: expected a path, got {raw!r}")
    path = folder / raw
    if not path.exists():
        raise BadSpec(f"{where}: {raw} does not exist")
    return path
