"""Direct preference optimisation (Rafailov 2023): a policy from preferences alone, without a reward model.

On (y^e, y^l) of the edits, or on the preferred and the other response of pairs: what the reward models learn from, put
straight into the policy; the best start for fine-grained PPO (docs/experiments.md). The reference is the policy that
training starts from; its log-probabilities are computed once. Versions of an edit differ in few tokens, and pushing
those apart pushes all of y^e down with them, until the policy says neither; cross-entropy on y^e holds it
(`nll_weight`; Pang 2024).
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .alarms import Alarms, pause_point
from .batching import collate, epoch_batches, length_sorted, unpack
from .checkpoint import CheckpointStore, restore_training, training_tensors
from .data import Edit, Pair, file_digest, read_labels
from .failures import BadSpec
from .finetuning import finish, prepare
from .models import LanguageModel, load_policy, response_log_probs, save_policy, store_frozen, weights_digest
from .optimization import adamw, descend, set_learning_rate
from .parallel import Placed, loading_device, parts, place_module
from .protocol import Reporter, StopRequest
from .reward import learning_rate, select
from .reward_evaluation import LabelData, versions
from .rl_math import dpo_loss, dpo_margins, mean
from .sampling import response_kl, row_uniforms, sample_together
from .spec import DpoOptions, DpoSpec
from .workdir import finish_folder, run_identity

# Validation prompts that the policy answers for its KL.
KL_PROMPTS = 256
EVALUATION_BATCH = 64


def run(spec: DpoSpec, workdir: Path, device: torch.device, reporter: Reporter, stop: StopRequest) -> dict:
    options = spec.options
    model = load_policy(spec.policy, loading_device(device))
    network = model.network
    data = select(*read_labels(spec.labels, model.card.vocab_size), model.card.context_length, reporter)
    train, validation = (comparisons(spec.pairs, data, split) for split in ("train", "validation"))
    if not train:
        raise BadSpec(f"{spec.labels.name}: has no {spec.pairs} with split 'train' to learn from")

    prepare(model, options, spec.seed, device)
    placed = place_module(network, options.precision, device)
    if options.lora_rank:  # without its adapter, the policy is what it was
        reference, starting = network, placed.with_adapter(None)
    else:
        reference = load_policy(spec.policy, loading_device(device)).network.requires_grad_(False)
        store_frozen(reference, options.precision)
        starting = place_module(reference, options.precision, device)
    optimizer = adamw(network, options.learning_rate, options.weight_decay)
    identity = run_identity(spec, pairs=spec.pairs, rows=file_digest(spec.labels), base=weights_digest(model.folder))
    store = CheckpointStore(workdir, identity, reporter)
    alarms = Alarms(spec.alarms, reporter)
    step = 0
    if checkpoint := store.latest(required=spec.finish_at_checkpoint):
        restore_training(network, optimizer, checkpoint.tensors)
        alarms.restore(checkpoint.state["alarms"])
        step = checkpoint.step

    lengths = [c.length for c in train]
    steps_per_epoch = math.ceil(len(train) / options.batch_size)
    total_steps = step if spec.finish_at_checkpoint else steps_per_epoch * options.epochs
    reporter.progress(step, total_steps, "measure the starting policy")
    by_reference = starting(measured, reference, train if step < total_steps else [])
    validation_by_reference = starting(measured, reference, validation)

    def keep() -> None:
        store.save(step, training_tensors(network, optimizer), {"alarms": alarms.state()})

    def losses(rows: list[int], pairs: int, tokens: int) -> dict[str, Tensor]:
        """What rows add to the means over the `pairs` of their step, and over the `tokens` of the chosen responses."""
        return shares_of(network, [train[row] for row in rows], by_reference[:, rows], options, pairs, tokens)

    while step < total_steps:
        epoch, first = divmod(step, steps_per_epoch)
        for rows in epoch_batches(lengths, options.batch_size, spec.seed, epoch)[first:]:
            rate = learning_rate(step, total_steps, options)
            set_learning_rate(optimizer, rate)
            share = partial(losses, pairs=len(rows), tokens=sum(len(train[row].chosen) for row in rows))
            micro_batches = parts(rows, options.micro_batch_size)
            figures = descend(placed, optimizer, micro_batches, share, options.max_grad_norm)
            step += 1
            alarms.updated(step, figures)

            reporter.progress(step, total_steps, "train")
            if step % 10 == 0 or step == total_steps:
                reporter.metrics(step, figures | {"learning_rate": rate})
            due = step % options.checkpoint_every == 0 or step == total_steps
            pause_point(due, keep, alarms, stop)

    reporter.progress(step, total_steps, "evaluate")
    held_out = {}
    if validation:
        held_out = placed(held_out_means, network, validation, validation_by_reference, options)
        held_out["kl_per_response"] = spoken_kl(model, placed, starting, reference, validation, spec)
    metrics = {f"validation_{name}": value for name, value in held_out.items()}
    reporter.metrics(step, metrics)
    if finished := finish(model, options):
        with finish_folder(workdir, "model") as folder:
            save_policy(finished.model, folder)
            finished.save_adapter(folder, network.base_model_prefix)
    reporter.model("policy", "output/model", metrics)
    return {
        "steps": step,
        "pairs": spec.pairs,
        "train_pairs": len(train),
        "validation_pairs": len(validation),
        **metrics,
    }


@dataclass(frozen=True)
class Comparison:
    """Token ids of a prompt and of the response to it that is better, and of the one that is worse."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def length(self) -> int:
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def comparisons(pairs: str, data: LabelData, split: str) -> list[Comparison]:
    """`edits`: the edited over the original version; `preferences`: the preferred over the other response."""
    rows: list[Edit] | list[Pair] = data.edits if pairs == "edits" else data.pairs
    of_split = [row for row in rows if row.split == split]
    both = [versions(row) for row in of_split]
    return [Comparison(row.prompt_token_ids, c, r) for row, (r, c) in zip(of_split, both, strict=True)]


def sequence_log_probs(network: PreTrainedModel, rows: list[Comparison]) -> Tensor:
    """Log-probabilities [2, n] of the chosen responses and of the rejected ones, summed over their tokens."""
    responses = [c.chosen for c in rows] + [c.rejected for c in rows]
    batch = collate([c.prompt for c in rows] * 2, responses, network.device)
    return unpack(response_log_probs(network, batch), batch.is_response).sum(1).view(2, -1)


@torch.no_grad()
def measured(network: PreTrainedModel, rows: list[Comparison]) -> Tensor:
    """`sequence_log_probs` of all rows: the same for the whole run, and for one that was resumed."""
    out = torch.zeros(2, len(rows), device=network.device)
    for batch in length_sorted([c.length for c in rows], EVALUATION_BATCH):
        out[:, batch] = sequence_log_probs(network, [rows[row] for row in batch])
    return out


def shares_of(
    network: PreTrainedModel,
    rows: list[Comparison],
    by_reference: Tensor,
    options: DpoOptions,
    pairs: int,
    tokens: int,
) -> dict[str, Tensor]:
    """What some comparisons, with the reference's log-probabilities [2, n], add to the loss and to what there is to say
    of it: means over `pairs`, and over the `tokens` of their chosen responses."""
    log_probs = sequence_log_probs(network, rows)
    margins = dpo_margins(log_probs, by_reference, options.beta)
    nll = -log_probs[0].sum() / tokens
    moved = (log_probs - by_reference).detach()
    won = (margins > 0).float() + 0.5 * (margins == 0).float()
    return {
        "loss": dpo_loss(margins, options.label_smoothing, pairs) + options.nll_weight * nll,
        "accuracy": mean(won, pairs),
        "margin": mean(margins, pairs),
        "chosen_log_ratio": mean(moved[0], pairs),
        "rejected_log_ratio": mean(moved[1], pairs),
        "chosen_log_prob_per_token": -nll,
    }


@torch.no_grad()
def held_out_means(
    network: PreTrainedModel, rows: list[Comparison], by_reference: Tensor, options: DpoOptions
) -> dict[str, float]:
    """What `shares_of` says of held-out comparisons."""
    tokens = sum(len(c.chosen) for c in rows)
    shares = [
        shares_of(network, [rows[row] for row in batch], by_reference[:, batch], options, len(rows), tokens)
        for batch in length_sorted([c.length for c in rows], EVALUATION_BATCH)
    ]
    return {name: sum(share[name].item() for share in shares) for name in shares[0]}


def spoken_kl(
    model: LanguageModel,
    placed: Placed,
    starting: Placed,
    reference: PreTrainedModel,
    rows: list[Comparison],
    spec: DpoSpec,
) -> float:
    """How far the policy has moved where it speaks itself: k1, nats a response, over responses to the first prompts, as
    long as the longest that was compared."""
    prompts = [c.prompt for c in rows[:KL_PROMPTS]]
    room = model.card.context_length - max(map(len, prompts))
    budget = min(room, max(max(len(c.chosen), len(c.rejected)) for c in rows))

    def log_probs(asked: list[list[int]], responses: list[list[int]]) -> Tensor:
        return response_log_probs(reference, collate(asked, responses, reference.device))

    kl = 0.0
    for batch in length_sorted([len(ids) for ids in prompts], EVALUATION_BATCH):
        uniforms = torch.stack([row_uniforms(spec.seed, row, budget) for row in batch])
        asked = [prompts[row] for row in batch]
        sampled = sample_together(placed, model.network, asked, uniforms, model.card.eos_token_id, temperature=1.0)
        with torch.no_grad():
            kl += response_kl(sampled, starting(log_probs, asked, sampled.lists())).sum().item()
    return kl / len(prompts)
