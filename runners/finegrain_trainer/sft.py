"""Supervised fine-tuning: next-token cross-entropy on the responses of demonstrations, on nothing else.

Left out: packing; rows of like length share a minibatch instead.
"""

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .alarms import Alarms, pause_point
from .batching import collate, epoch_batches, length_sorted
from .checkpoint import CheckpointStore, restore_training, training_tensors
from .data import Example, file_digest, read_examples
from .failures import BadSpec
from .finetuning import finish, prepare
from .models import (
    LanguageModel,
    load_policy,
    response_log_probs,
    save_policy,
    scratch_policy,
    weights_digest,
)
from .optimization import adamw, descend, set_learning_rate
from .parallel import first_goes_first, loading_device, parts, place_module
from .protocol import Reporter, StopRequest
from .spec import ScratchModel, SftOptions, SftSpec
from .workdir import finish_folder, run_identity

Tokens = tuple[list[int], list[int]]  # prompt, response with EOS


def run(spec: SftSpec, workdir: Path, device: torch.device, reporter: Reporter, stop: StopRequest) -> dict:
    options = spec.options
    examples = read_examples(spec.examples)
    train_texts = [e for e in examples if e.split == "train"]
    if not train_texts:
        raise BadSpec(f"{spec.examples.name}: has no rows with split 'train'")
    if isinstance(spec.base_model, ScratchModel):
        texts = (text for e in train_texts for text in (*(m.content for m in e.prompt), e.response))
        with first_goes_first():
            model = scratch_policy(spec.base_model, texts, spec.seed, workdir, loading_device(device))
    else:
        model = load_policy(spec.base_model, loading_device(device))
    network = model.network
    train, validation = (_tokenise(model, examples, split, reporter) for split in ("train", "validation"))
    if not train:
        raise BadSpec(f"{spec.examples.name}: no training row fits the context of {model.card.context_length} tokens")

    parameters = network.num_parameters()
    prepare(model, options, spec.seed, device)
    placed = place_module(network, options.precision, device)
    optimizer = adamw(network, options.learning_rate, options.weight_decay)
    base = weights_digest(model.folder) | (vars(spec.base_model) if isinstance(spec.base_model, ScratchModel) else {})
    identity = run_identity(spec, rows=file_digest(spec.examples), base=base)
    store = CheckpointStore(workdir, identity, reporter)
    alarms = Alarms(spec.alarms, reporter)
    step = 0
    if checkpoint := store.latest(required=spec.finish_at_checkpoint):
        restore_training(network, optimizer, checkpoint.tensors)
        alarms.restore(checkpoint.state["alarms"])
        step = checkpoint.step

    def keep() -> None:
        store.save(step, training_tensors(network, optimizer), {"alarms": alarms.state()})

    def losses(rows: list[int], tokens: int) -> dict[str, Tensor]:
        """What rows add to the mean over the `tokens` of their step."""
        batch = collate([train[row][0] for row in rows], [train[row][1] for row in rows], device)
        return {"loss": -response_log_probs(network, batch).sum() / tokens}

    lengths = [len(prompt) + len(response) for prompt, response in train]
    steps_per_epoch = math.ceil(len(train) / options.batch_size)
    total_steps = step if spec.finish_at_checkpoint else steps_per_epoch * options.epochs
    while step < total_steps:
        epoch, first = divmod(step, steps_per_epoch)
        for rows in epoch_batches(lengths, options.batch_size, spec.seed, epoch)[first:]:
            rate = learning_rate(step, total_steps, options)
            set_learning_rate(optimizer, rate)
            tokens = sum(predicted_tokens(*train[row]) for row in rows)
            micro_batches = parts(rows, options.micro_batch_size)
            share = partial(losses, tokens=tokens)
            figures = descend(placed, optimizer, micro_batches, share, options.max_grad_norm)
            step += 1
            alarms.updated(step, figures)

            reporter.progress(step, total_steps, "train")
            if step % 10 == 0 or step == total_steps:
                reporter.metrics(step, figures | {"learning_rate": rate})
            due = step % options.checkpoint_every == 0 or step == total_steps
            pause_point(due, keep, alarms, stop)

    reporter.progress(total_steps, total_steps, "evaluate")
    validation_loss = placed(mean_loss, model, validation, device) if validation else None
    reporter.metrics(total_steps, {"validation_loss": validation_loss})
    if finished := finish(model, options):
        with finish_folder(workdir, "model") as folder:
            save_policy(finished.model, folder)
            finished.save_adapter(folder, network.base_model_prefix)
    reporter.model("policy", "output/model", {"validation_loss": validation_loss})
    return {
        "steps": total_steps,
        "train_examples": len(train),
        "validation_examples": len(validation),
        "validation_loss": validation_loss,
        "parameters": parameters,
    }


def learning_rate(step: int, total_steps: int, options: SftOptions) -> float:
    """Linear warm-up, then half a cosine down to a tenth of the peak."""
    warm_up = min(1.0, (step + 1) / max(1, options.warmup_steps))
    return options.learning_rate * warm_up * (0.55 + 0.45 * math.cos(math.pi * step / total_steps))


@torch.no_grad()
def mean_loss(model: LanguageModel, rows: list[Tokens], device: torch.device) -> float:
    """Cross-entropy per response token, in nats."""
    total, tokens = 0.0, 0
    for batch_rows in length_sorted([len(p) + len(r) for p, r in rows], batch_size=64):
        batch = collate([rows[row][0] for row in batch_rows], [rows[row][1] for row in batch_rows], device)
        log_probs = response_log_probs(model.network, batch)
        total, tokens = total - log_probs.sum().item(), tokens + len(log_probs)
    return total / tokens


def predicted_tokens(prompt: list[int], response: list[int]) -> int:
    """Tokens of a response that have another one before them."""
    return len(response) if prompt else len(response) - 1


def _tokenise(model: LanguageModel, examples: list[Example], split: str, reporter: Reporter) -> list[Tokens]:
    rows = [
        (model.codec.prompt_ids(e.prompt), model.codec.response_ids(e.response)) for e in examples if e.split == split
    ]
    fitting = [(p, r) for p, r in rows if len(p) + len(r) <= model.card.context_length]
    if len(fitting) < len(rows):
        reporter.log(
            f"{len(rows) - len(fitting)} of {len(rows)} {split} rows are longer than the context of "
            f"{model.card.context_length} tokens and are left out",
            level="warning",
        )
    return fitting
