"""Token-level reward model from edits: `survival`, the probability that an annotator leaves a token as it is.

Binary cross-entropy on both versions of each edit; the reward is log(1 - p), so its sum is the log-probability that a
response needs no edit. Ends with the held-out metrics and a checked ONNX graph (ALGORITHM 2).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .batching import collate, epoch_batches, length_sorted, unpack
from .checkpoint import CheckpointStore, restore_training, training_tensors
from .data import Edit, Message, Pair, Prompt, file_digest, read_labels
from .export import check_parity, export_onnx, golden_items
from .failures import BadSpec, Interrupted
from .metrics import accuracy, bad_token_auc
from .models import TokenRewardModel, load_policy, new_reward_model, save_reward_model, weights_digest, write_json
from .optimization import adamw, descend, set_learning_rate
from .protocol import Reporter, StopRequest
from .rl_math import survival_loss
from .spec import RewardOptions, RewardSpec
from .workdir import finish_folder, run_identity

# Below these a reward model is not worth a PPO run (the paper's alarm, and ALGORITHM 2).
MINIMUM = {"pair_accuracy": 0.70, "bad_token_auc": 0.90}
METRICS = ("edit_accuracy", "pair_accuracy", "bad_token_auc")
GOLDEN_EDITS = 5


def run(spec: RewardSpec, workdir: Path, device: torch.device, reporter: Reporter, stop: StopRequest) -> dict:
    options = spec.options
    base = load_policy(spec.base_model, device)
    data = select(*read_labels(spec.labels, base.card.vocab_size), base.card.context_length, reporter)
    train = [e for e in data.edits if e.split == "train" and e.usable]
    if not train:
        raise BadSpec(f"{spec.labels.name}: has no usable edits with split 'train'")
    model = new_reward_model(base, options.reward_clip, spec.seed).requires_grad_(True)

    optimizer = adamw(model, options.learning_rate, options.weight_decay)
    store = CheckpointStore(
        workdir, run_identity(spec, rows=file_digest(spec.labels), base=weights_digest(base.folder)), reporter
    )
    step = 0
    if checkpoint := store.latest():
        restore_training(model, optimizer, checkpoint.tensors)
        step = checkpoint.step

    lengths = [len(e.prompt_token_ids) + max(len(e.original.token_ids), len(e.edited.token_ids)) for e in train]
    steps_per_epoch = math.ceil(len(train) / options.batch_size)
    total_steps = steps_per_epoch * options.epochs
    while step < total_steps:
        epoch, first = divmod(step, steps_per_epoch)
        for rows in epoch_batches(lengths, options.batch_size, spec.seed, epoch)[first:]:
            rate = learning_rate(step, total_steps, options)
            set_learning_rate(optimizer, rate)
            loss = batch_loss(model, [train[row] for row in rows])
            grad_norm = descend(loss, model, optimizer, options.max_grad_norm, step + 1)
            step += 1

            reporter.progress(step, total_steps, "train")
            if step % 10 == 0 or step == total_steps:
                reporter.metrics(step, {"loss": loss.item(), "grad_norm": grad_norm, "learning_rate": rate})
            if step % options.checkpoint_every == 0 or step == total_steps or stop.requested:
                store.save(step, training_tensors(model, optimizer), {})
            if stop.requested:
                raise Interrupted

    reporter.progress(total_steps, total_steps, "evaluate")
    model.requires_grad_(False)
    report = {"format": 1, "loss": spec.loss, "training": {"edits": len(train), "steps": total_steps, **data.left_out}}
    for split in ("validation", "test"):
        report[split] = evaluate(model, data, split)
        reporter.metrics(total_steps, {f"{split}_{name}": report[split][name]["value"] for name in METRICS})
    headline = {name: headline_value(report, name) for name in METRICS}
    for name, threshold in MINIMUM.items():
        if headline[name] is not None and headline[name] < threshold:
            reporter.alarm(
                f"low_{name}",
                f"{name} is {headline[name]:.3f}; below {threshold} PPO seldom gains",
                step=total_steps,
                value=headline[name],
                threshold=threshold,
            )

    reporter.progress(total_steps, total_steps, "export")
    with finish_folder(workdir, "model") as folder:
        save_reward_model(model, base, folder)
        golden = golden_items(model, base.codec, golden_texts(data.edits), base.card.context_length)
        export_onnx(model, folder / "reward.onnx")
        report["onnx_difference"] = check_parity(model, folder / "reward.onnx", golden, base.card.context_length)
        write_json(folder / "golden.json", {"tolerance": 1e-4, "items": golden})
        write_json(folder / "report.json", report)
    reporter.model("token_reward", "output/model", headline)
    return {**headline, **report}


def batch_loss(model: TokenRewardModel, edits: list[Edit]) -> torch.Tensor:
    """The survival loss of some edits: both versions of each in one forward pass."""
    n = len(edits)
    batch = collate(
        [e.prompt_token_ids for e in edits] * 2,
        [e.original.token_ids for e in edits] + [e.edited.token_ids for e in edits],
        model.score.weight.device,
    )
    is_original = batch.is_response.clone()
    is_original[n:] = False
    labels = unpack(
        torch.tensor([float(label) for e in edits for label in e.original.labels], device=batch.ids.device), is_original
    )
    return survival_loss(model.edit_logits(batch.ids), labels, is_original, batch.is_response & ~is_original)


def learning_rate(step: int, total_steps: int, options: RewardOptions) -> float:
    """Linear warm-up, then linear to zero."""
    return options.learning_rate * min(1.0, (step + 1) / max(1, options.warmup_steps)) * (1 - step / total_steps)


# ---- data and evaluation


@dataclass(frozen=True)
class LabelData:
    """Rows that take part; `left_out` counts the others by reason."""

    edits: list[Edit]
    pairs: list[Pair]
    left_out: dict[str, int]


def select(edits: list[Edit], pairs: list[Pair], context_length: int, reporter: Reporter) -> LabelData:
    """Leaves out edits that change nothing and rows that do not fit the context."""
    changing = [e for e in edits if e.original.token_ids != e.edited.token_ids]
    fitting = [e for e in changing if _fits(e.prompt_token_ids, e.original, e.edited, context_length)]
    fitting_pairs = [p for p in pairs if _fits(p.prompt_token_ids, p.preferred, p.other, context_length)]
    left_out = {
        "unchanged_edits": len(edits) - len(changing),
        "too_long": len(changing) - len(fitting) + len(pairs) - len(fitting_pairs),
        "without_token_labels": sum(not e.usable for e in fitting),
    }
    if any(left_out.values()):
        reporter.log(f"left out of training: {left_out}", level="warning")
    return LabelData(fitting, fitting_pairs, left_out)


def evaluate(model: TokenRewardModel, data: LabelData, split: str) -> dict[str, Any]:
    """The three metrics on one split. Edits without token labels still count for edit_accuracy."""
    edits = [e for e in data.edits if e.split == split]
    pairs = [p for p in data.pairs if p.split == split]
    prompts = [row.prompt_token_ids for row in (*edits, *pairs)]
    worse = token_rewards(
        model, prompts, [r.token_ids for r in (*(e.original for e in edits), *(p.other for p in pairs))]
    )
    better = token_rewards(
        model, prompts, [r.token_ids for r in (*(e.edited for e in edits), *(p.preferred for p in pairs))]
    )
    sums_worse = np.array([rewards.sum(dtype=np.float64) for rewards in worse])
    sums_better = np.array([rewards.sum(dtype=np.float64) for rewards in better])
    labelled = [(-rewards, np.array(e.original.labels)) for e, rewards in zip(edits, worse, strict=False) if e.usable]
    n = len(edits)
    return {
        "edit_accuracy": accuracy(sums_better[:n], sums_worse[:n]),
        "pair_accuracy": accuracy(sums_better[n:], sums_worse[n:]),
        "bad_token_auc": bad_token_auc([badness for badness, _ in labelled], [labels for _, labels in labelled]),
    }


def token_rewards(model: TokenRewardModel, prompts: list[list[int]], responses: list[list[int]]) -> list[np.ndarray]:
    """Rewards of each response's tokens, in the order given."""
    rewards: list[np.ndarray] = [np.empty(0)] * len(responses)
    for rows in length_sorted([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)], batch_size=64):
        packed = model.response_rewards([prompts[row] for row in rows], [responses[row] for row in rows]).cpu().numpy()
        ends = np.cumsum([len(responses[row]) for row in rows])
        for row, values in zip(rows, np.split(packed, ends[:-1]), strict=True):
            rewards[row] = values
    return rewards


def headline_value(report: dict[str, Any], name: str) -> float | None:
    """The value on the test split; on validation where the test split cannot say."""
    test = report["test"][name]["value"]
    return test if test is not None else report["validation"][name]["value"]


def golden_texts(edits: list[Edit]) -> list[tuple[Prompt, Any, str]]:
    """Texts for golden.json: held-out edits over the range of lengths, and the texts that tokenizers trip over."""
    held_out = [e for e in edits if e.split != "train"] or edits
    by_length = sorted(held_out, key=lambda e: len(e.original.token_ids))
    chosen = [by_length[i * (len(by_length) - 1) // GOLDEN_EDITS] for i in range(GOLDEN_EDITS)]
    texts = [(e.prompt, _raw(e.prompt), text) for e in chosen for text in (e.original.text, e.edited.text)]
    traps = ["", "\r\n  spaces\tand lines\n", "naïve 👩‍👩‍👧 日本語", "<|eos|><|user|></s><pad>"]
    return texts + [((Message("user", "Hi"),), "Hi", trap) for trap in traps]


def _raw(prompt: Prompt) -> Any:
    if len(prompt) == 1 and prompt[0].role == "user":
        return prompt[0].content
    return [{"role": message.role, "content": message.content} for message in prompt]


def _fits(prompt: list[int], a: Any, b: Any, context_length: int) -> bool:
    return len(prompt) + max(len(a.token_ids), len(b.token_ids)) <= context_length
