"""Reward models from edits and preferences: one loop, five losses (ALGORITHM 2).

Token by token: `survival` (default; binary cross-entropy of "an annotator edits this token away", the reward is
log(1 - p)), `bt_hunk` and `bt_sum` (Bradley-Terry on the labelled tokens of each hunk, or of all together; the
paper's). At the end of the response, the baselines: `seq_edits` and `seq_pairs` (Bradley-Terry on y^e over y^l, or on
the preferences alone). Ends with the held-out metrics and, for token rewards, a checked ONNX graph.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .alarms import Alarms, pause_point
from .batching import collate, epoch_batches, unpack
from .checkpoint import Checkpoint, CheckpointStore, restore_training, training_tensors
from .data import Edit, Message, Pair, Prompt, file_digest, read_labels
from .ensemble import head_agreement
from .failures import BadSpec
from .finetuning import finish, finished_reward_model, prepare
from .int8 import Example
from .models import RewardModel, load_policy, new_reward_model, save_reward_model, weights_digest, write_json
from .optimization import adamw, descend, set_learning_rate
from .parallel import collected, loading_device, parts, place_module, shard_like
from .protocol import Reporter, StopRequest
from .reward_evaluation import LabelData, breakdown, compared, figures, judge, metrics, versions, write_worst
from .rl_math import (
    hunk_preference_loss,
    kept_loss,
    last_places,
    masked_mean,
    mean,
    preference_loss,
    survival_loss,
)
from .row_weights import row_weights
from .servable import write_graphs
from .spec import SEQUENCE_LOSSES, TOKEN_LOSSES, RewardOptions, RewardSpec
from .workdir import finish_folder, run_identity

METRICS = ("edit_accuracy", "pair_accuracy", "bad_token_auc")
# Which of them says when a loss has learned what it can (`patience`).
WATCHED = dict.fromkeys(TOKEN_LOSSES, "bad_token_auc") | {"seq_edits": "edit_accuracy", "seq_pairs": "pair_accuracy"}
GOLDEN_EDITS = 5
INT8_EDITS = 400
# Keeps the rewards of sequence models near zero, as preferences say nothing about their level.
CENTRING = 0.001


def run(spec: RewardSpec, workdir: Path, device: torch.device, reporter: Reporter, stop: StopRequest) -> dict:
    options = spec.options
    base = load_policy(spec.base_model, loading_device(device))
    data = select(*read_labels(spec.labels, base.card.vocab_size), base.card.context_length, reporter)
    train = training_rows(spec.loss, data)
    if not train:
        raise BadSpec(f"{spec.labels.name}: has no rows with split 'train' that the loss {spec.loss} could learn from")
    preferred = preferred_rows(spec.loss, data) if options.preferred_responses > 0 else []
    if options.preferred_responses > 0 and not preferred:
        raise BadSpec(f"hyperparameters.preferred_responses: {spec.labels.name} has none with split 'train'")
    if options.preference_labels == "votes":
        check_votes(spec, train if spec.loss == "seq_pairs" else preferred)
    weights = row_weights(train, options.pair_weighting, options.heads, spec.seed)
    preferred_weights = row_weights(preferred, "edit", options.heads, spec.seed + 1)
    prepare(base, options, spec.seed, device)
    model = new_reward_model(base, spec.loss, options, spec.seed)
    placed = place_module(model, options.precision, device)
    optimizer = adamw(model, options.learning_rate, options.weight_decay)
    store = CheckpointStore(
        workdir,
        run_identity(spec, loss=spec.loss, rows=file_digest(spec.labels), base=weights_digest(base.folder)),
        reporter,
    )
    alarms = Alarms(spec.alarms, reporter)
    step, best = 0, Best()
    if checkpoint := store.latest(required=spec.finish_at_checkpoint):
        best = Best.restore(checkpoint, model)
        alarms.restore(checkpoint.state["alarms"])
        restore_training(model, optimizer, checkpoint.tensors)
        step = checkpoint.step

    def keep() -> None:
        tensors = training_tensors(model, optimizer) | best.tensors()
        store.save(step, tensors, {"best": best.state(), "alarms": alarms.state()})

    def on_validation() -> dict[str, float | None]:
        return figures(placed(judge, model, data, "validation"), model.role == "token_reward")

    watched = WATCHED[spec.loss]
    if options.patience and on_validation()[watched] is None:
        raise BadSpec(f"hyperparameters.patience: {spec.labels.name} has no rows with split 'validation' to judge by")

    def losses(rows: list[int], counts: dict[str, int]) -> dict[str, Tensor]:
        """Numbers from len(train) on are those of preferred responses; a micro batch has none or nothing else."""
        if rows[0] < len(train):
            return {"loss": batch_loss(model, [train[row] for row in rows], options, weights[rows], counts)}
        rows = [row - len(train) for row in rows]
        of_preferred = [preferred[row] for row in rows]
        loss = preferred_loss(model, of_preferred, options, preferred_weights[rows], counts["preferred"])
        return {"loss": options.preferred_responses * loss}

    lengths = [len(row.prompt_token_ids) + max(map(len, versions(row))) for row in train]
    steps_per_epoch = math.ceil(len(train) / options.batch_size)
    # spread over the steps of an epoch
    preferred_lengths = [len(p.prompt_token_ids) + max(map(len, versions(p))) for p in preferred]
    preferred_per_step = math.ceil(len(preferred) / steps_per_epoch)
    total_steps = step if spec.finish_at_checkpoint else steps_per_epoch * options.epochs
    while step < total_steps and not 0 < options.patience <= best.age:
        epoch, first = divmod(step, steps_per_epoch)
        batches = epoch_batches(lengths, options.batch_size, spec.seed, epoch)
        more = epoch_batches(preferred_lengths, preferred_per_step, spec.seed, epoch) if preferred else []
        for rows, others in list(zip_longest(batches, more, fillvalue=[]))[first:]:
            rate = learning_rate(step, total_steps, options)
            set_learning_rate(optimizer, rate)
            counts = loss_counts(spec.loss, [train[row] for row in rows], [preferred[row] for row in others])
            micro_batches = parts(rows, options.micro_batch_size)
            if others:
                micro_batches += parts([len(train) + row for row in others], options.micro_batch_size)
            share = partial(losses, counts=counts)
            of_step = descend(placed, optimizer, micro_batches, share, options.max_grad_norm)
            step += 1
            alarms.updated(step, of_step)

            reporter.progress(step, total_steps, "train")
            if step % 10 == 0 or step == total_steps:
                reporter.metrics(step, of_step | {"learning_rate": rate})
            ends_epoch = step % steps_per_epoch == 0
            if ends_epoch and (step < total_steps or options.patience):
                now = on_validation()
                reporter.metrics(step, {f"validation_{name}": value for name, value in now.items()})
                if options.patience:
                    best.see(model, now[watched])
            due = step % options.checkpoint_every == 0 or step == total_steps
            pause_point(due, keep, alarms, stop)

    reporter.progress(step, total_steps, "evaluate")
    best.put_back(model)
    unit = "pairs" if spec.loss == "seq_pairs" else "edits"
    report = {"format": 1, "loss": spec.loss, "training": {unit: len(train), "steps": step, **data.left_out}}
    if preferred:
        report["training"]["preferred_responses"] = len(preferred)
    if best.weights:
        report["training"]["best_validation"] = {watched: best.value}
    judged = {split: placed(judge, model, data, split) for split in ("validation", "test")}
    for split, rows in judged.items():
        report[split] = metrics(rows, model.role == "token_reward")
        reporter.metrics(step, {f"{split}_{name}": report[split][name]["value"] for name in METRICS})
    report["breakdown"] = {split: breakdown(rows, model) for split, rows in judged.items()}
    if model.heads > 1:
        for split, rows in judged.items():
            report["breakdown"][split]["heads"] = placed(head_agreement, model, rows)
    headline = report["headline"] = {name: headline_value(report, name) for name in METRICS}
    for name in ("pair_accuracy", "bad_token_auc"):
        alarms.below(f"low_{name}", step, headline[name], f"with so small a {name} PPO seldom gains")
    if alarms.halt:
        keep()
        raise alarms.halt

    reporter.progress(step, total_steps, "export")
    head = collected(dict(model.score.named_parameters()))
    finished = finish(base, options)
    if not finished:
        return {}
    model = finished_reward_model(model, finished, head).requires_grad_(False)
    with finish_folder(workdir, "model") as folder:
        texts, examples = golden_texts(data.edits or data.pairs), int8_examples(data.edits)
        graphs = write_graphs(model, folder, base.codec, texts, base.card.context_length, examples)
        report |= {"onnx_difference": graphs.difference, "int8": graphs.onnx.get("int8")}
        save_reward_model(model, base, folder, graphs.onnx)
        finished.save_adapter(folder, "model", {f"score.{name}": tensor for name, tensor in head.items()})
        write_json(folder / "report.json", report)
        write_worst(judged["test"] or judged["validation"], base.codec, folder / "errors.ndjson")
    reporter.model(model.role, "output/model", headline)
    return headline | report


@dataclass
class Best:
    """What did best on the validation split, at the end of which epoch; kept only where training may stop early."""

    value: float | None = None
    # epochs since then
    age: int = 0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def restore(cls, checkpoint: Checkpoint, model: RewardModel) -> "Best":
        kept = {n.removeprefix("best."): t for n, t in checkpoint.tensors.items() if n.startswith("best.")}
        weights = {name: shard_like(p, kept[name]) for name, p in model.named_parameters() if name in kept}
        return cls(weights=weights, **checkpoint.state["best"])

    def tensors(self) -> dict[str, torch.Tensor]:
        return collected({f"best.{name}": tensor for name, tensor in self.weights.items()})

    def state(self) -> dict[str, Any]:
        return {} if self.value is None else {"value": self.value, "age": self.age}

    def see(self, model: RewardModel, value: float) -> None:
        """At the end of an epoch."""
        if self.value is None or value > self.value:
            self.value, self.age = value, 0
            self.weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        else:
            self.age += 1

    @torch.no_grad()
    def put_back(self, model: RewardModel) -> None:
        parameters = dict(model.named_parameters())
        for name, tensor in self.weights.items():
            parameters[name].copy_(tensor)


def loss_counts(loss: str, rows: list[Edit] | list[Pair], preferred: list[Pair]) -> dict[str, int]:
    """What the terms of a loss are averaged over in a step that has these rows, whatever micro batches they come in."""
    of_preferred = sum(len(pair.preferred.token_ids) for pair in preferred) if loss == "survival" else len(preferred)
    counts = {"preferred": of_preferred}
    if loss in SEQUENCE_LOSSES:
        return counts | {"pairs": len(rows)}
    if loss == "survival":
        return counts | {
            side: sum(len(getattr(row, side).token_ids) for row in rows) for side in ("original", "edited")
        }
    tokens = labelled = matched = 0
    for row in rows:
        tokens += len(row.original.token_ids) + len(row.edited.token_ids)
        labelled += sum(number > 0 for side in ("bad", "good") for number in hunk_numbers(row, side))
        matched += max(match_numbers(row, "original"))
    with_hunks = sum(any(hunk.bad or hunk.good for hunk in row.hunks) for row in rows)
    return counts | {"pairs": with_hunks, "matched": matched, "unlabelled": tokens - labelled}


def batch_loss(
    model: RewardModel,
    rows: list[Edit] | list[Pair],
    options: RewardOptions,
    weights: Tensor,
    counts: dict[str, int],
) -> Tensor:
    """What some edits (`seq_pairs`: pairs) add to the loss of a step with such `counts`: the worse versions, then the
    better ones, in one forward pass.

    `weights` [rows, heads]; the mean of what each head has.
    """
    n = len(rows)
    worse, better = zip(*map(versions, rows), strict=True)
    batch = collate([row.prompt_token_ids for row in rows] * 2, [*worse, *better], model.score.weight.device)
    z_of_heads, weights = model.logits(batch.ids), weights.to(batch.ids.device)
    smoothing = options.label_smoothing

    def on_tokens(values: list[list[int]]) -> Tensor:
        """One number for each response token, laid out as the batch."""
        return unpack(torch.tensor([v for row in values for v in row], device=batch.ids.device), batch.is_response)

    if model.role == "sequence_reward":
        ends = last_places(batch.is_response)
        wrong_way = wrong_preferences(rows, options, batch.ids.device) if model.loss == "seq_pairs" else smoothing

        def loss(z: Tensor, weights: Tensor) -> Tensor:
            at_end = z[ends]
            level = mean((at_end[:n] + at_end[n:]) ** 2 * weights, counts["pairs"])
            preference = preference_loss(at_end[n:], at_end[:n], wrong_way, weights, counts["pairs"])
            return preference + CENTRING * level

    elif model.loss == "survival":
        is_original = batch.is_response.clone()
        is_original[n:] = False
        labels = on_tokens([*(row.original.labels for row in rows), *([0] * len(ids) for ids in better)]).float()

        def loss(z: Tensor, weights: Tensor) -> Tensor:
            is_edited = batch.is_response & ~is_original
            tokens = counts["original"], counts["edited"]
            return survival_loss(z, labels, is_original, is_edited, smoothing, weights.repeat(2), tokens)

    else:
        labelled = on_tokens([hunk_numbers(row, side) for side in ("bad", "good") for row in rows])
        hunks = labelled if model.loss == "bt_hunk" else labelled.clamp(max=1)
        matched = on_tokens([match_numbers(row, side) for side in ("original", "edited") for row in rows])
        count = int(matched.max())
        both = torch.arange(1, count + 1, device=matched.device)[None] <= matched[:n].amax(1, keepdim=True)

        def loss(z: Tensor, weights: Tensor) -> Tensor:
            by_match = torch.zeros(2 * n, count + 1, device=z.device).scatter_add(1, matched, z)[:, 1:]
            apart = (by_match[:n] - by_match[n:]) ** 2
            unlabelled = batch.is_response & (labelled == 0)
            return (
                hunk_preference_loss(z[n:], z[:n], hunks[n:], hunks[:n], smoothing, weights, counts["pairs"])
                + options.consistency_weight * masked_mean(apart, both, weights, counts["matched"])
                + options.anchor_weight * masked_mean(z**2, unlabelled, weights.repeat(2), counts["unlabelled"])
            )

    return mean_of_heads(loss, z_of_heads, weights)


def preferred_loss(
    model: RewardModel, pairs: list[Pair], options: RewardOptions, weights: Tensor, count: int
) -> Tensor:
    """What the preferred responses y^w of some pairs say: of `survival`, that nobody edits a token of theirs away; of
    other losses, that their reward in total is above that of the other response. `weights` [pairs, heads]; `count`: of
    how many tokens, or pairs, in all."""
    n = len(pairs)
    preferred, others = ([getattr(pair, side).token_ids for pair in pairs] for side in ("preferred", "other"))
    prompts, device = [pair.prompt_token_ids for pair in pairs], model.score.weight.device
    weights = weights.to(device)
    if model.loss == "survival":
        batch = collate(prompts, preferred, device)
        z = model.logits(batch.ids)
        return mean_of_heads(
            lambda z, w: kept_loss(z, batch.is_response, options.label_smoothing, w, count), z, weights
        )
    batch = collate(prompts * 2, [*others, *preferred], device)
    paid, wrong_way = model.paid(batch.is_response), wrong_preferences(pairs, options, device)

    def loss(z: Tensor, weights: Tensor) -> Tensor:
        totals = (z * paid).sum(1)
        return preference_loss(totals[n:], totals[:n], wrong_way, weights, count)

    return mean_of_heads(loss, model.logits(batch.ids), weights)


def mean_of_heads(loss: Callable[[Tensor, Tensor], Tensor], z: Tensor, weights: Tensor) -> Tensor:
    """Of `loss` of z [batch, time] and row weights, for z [batch, time, heads] and weights [rows, heads]."""
    losses = [loss(z[..., head], weights[:, head]) for head in range(z.shape[-1])]
    return sum(losses[1:], losses[0]) / len(losses)


def wrong_preferences(pairs: list[Pair], options: RewardOptions, device: torch.device) -> float | Tensor:
    """The share of preferences taken to be the wrong way round; [pairs] where votes say it of each."""
    if options.preference_labels == "majority":
        return options.label_smoothing
    shares = [1.0 if pair.vote_share is None else pair.vote_share for pair in pairs]
    wrong = 1 - torch.tensor(shares, device=device)
    return wrong * (1 - options.label_smoothing) + (1 - wrong) * options.label_smoothing


def hunk_numbers(edit: Edit, side: str) -> list[int]:
    """For each token of y^l (`bad`) or y^e (`good`) the number of the hunk that labels it, from 1; else 0."""
    numbers = [0] * len((edit.original if side == "bad" else edit.edited).token_ids)
    for number, hunk in enumerate(edit.hunks, start=1):
        for place in getattr(hunk, side):
            numbers[place] = number
    return numbers


def match_numbers(edit: Edit, side: str) -> list[int]:
    """For each token of y^l (`original`) or y^e (`edited`) the number of its matched pair, from 1; 0 inside hunks."""
    inside = {place for hunk in edit.hunks for place in getattr(hunk, side)}
    numbers, count = [], 0
    for place in range(len(getattr(edit, side).token_ids)):
        count += place not in inside
        numbers.append(0 if place in inside else count)
    return numbers


def learning_rate(step: int, total_steps: int, options: RewardOptions) -> float:
    """Linear warm-up, then linear to zero."""
    return options.learning_rate * min(1.0, (step + 1) / max(1, options.warmup_steps)) * (1 - step / total_steps)


# ---- data and evaluation


def training_rows(loss: str, data: LabelData) -> list[Edit] | list[Pair]:
    """What a loss learns from: edits with token labels, every edit, or pairs."""
    if loss == "seq_pairs":
        return [p for p in data.pairs if p.split == "train"]
    edits = [e for e in data.edits if e.split == "train"]
    if loss == "seq_edits":
        return edits
    usable = [e for e in edits if e.usable]
    if loss != "survival" and any(not e.hunks for e in usable):
        raise BadSpec(f"the loss {loss} needs the hunks of each edit, and some rows have none")
    return usable


def preferred_rows(loss: str, data: LabelData) -> list[Pair]:
    """Pairs whose preferred response takes part; one that was edited itself has tokens that somebody edited away."""
    edited = {(e.pair, tuple(e.original.token_ids)) for e in data.edits if loss == "survival"}
    pairs = [p for p in data.pairs if p.split == "train"]
    return [p for p in pairs if (p.id, tuple(p.preferred.token_ids)) not in edited]


def check_votes(spec: RewardSpec, pairs: list[Pair]) -> None:
    """Raises BadSpec where preferences cannot be as likely as votes say."""
    if all(pair.vote_share is None for pair in pairs):
        raise BadSpec(f"hyperparameters.preference_labels: {spec.labels.name} has no pairs with votes to learn from")


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


def headline_value(report: dict[str, Any], name: str) -> float | None:
    """The value on the test split; on validation where the test split cannot say."""
    test = report["test"][name]["value"]
    return test if test is not None else report["validation"][name]["value"]


def golden_texts(rows: list[Edit] | list[Pair]) -> list[tuple[Prompt, Any, str]]:
    """Texts for golden.json: held-out rows over the range of lengths, and the texts that tokenizers trip over."""
    held_out = [row for row in rows if row.split != "train"] or rows
    by_length = sorted(held_out, key=lambda row: len(compared(row)[0].token_ids))
    chosen = [by_length[i * (len(by_length) - 1) // GOLDEN_EDITS] for i in range(GOLDEN_EDITS)]
    texts = [(row.prompt, _raw(row.prompt), text.text) for row in chosen for text in compared(row)]
    traps = ["", "\r\n  spaces\tand lines\n", "naïve 👩‍👩‍👧 日本語", "<|eos|><|user|></s><pad>"]
    return texts + [((Message("user", "Hi"),), "Hi", trap) for trap in traps]


def int8_examples(edits: list[Edit]) -> list[Example]:
    """Held-out originals, with their labels where they have some."""
    held_out = [e for e in edits if e.split != "train"] or edits
    return [
        Example(e.prompt_token_ids, e.original.token_ids, e.original.labels if e.usable else None)
        for e in held_out[:INT8_EDITS]
    ]


def _raw(prompt: Prompt) -> Any:
    if len(prompt) == 1 and prompt[0].role == "user":
        return prompt[0].content
    return [{"role": message.role, "content": message.content} for message in prompt]


def _fits(prompt: list[int], a: Any, b: Any, context_length: int) -> bool:
    return len(prompt) + max(len(a.token_ids), len(b.token_ids)) <= context_length
