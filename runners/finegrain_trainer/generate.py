"""Responses of a policy to a list of prompts, in the order of the prompts.

A row's randomness comes from the seed and its place in the file, so it does not depend on batch_size.
"""

import json
from pathlib import Path

import torch

from .batching import length_sorted
from .checkpoint import CheckpointStore
from .data import file_digest, read_prompts
from .failures import BadSpec, Interrupted
from .models import load_policy, weights_digest
from .protocol import Reporter, StopRequest
from .sampling import sample
from .spec import GenerateSpec
from .workdir import finish_file, run_identity

CHECKPOINT_EVERY = 10


def run(spec: GenerateSpec, workdir: Path, device: torch.device, reporter: Reporter, stop: StopRequest) -> dict:
    options = spec.options
    model = load_policy(spec.model, device)
    model.network.requires_grad_(False)
    rows = read_prompts(spec.prompts)
    prompts = [model.codec.prompt_ids(row.prompt) for row in rows]
    for row, ids in zip(rows, prompts, strict=True):
        if len(ids) + options.max_new_tokens > model.card.context_length:
            raise BadSpec(
                f"{spec.prompts.name} line {row.line}: prompt: has {len(ids)} tokens, which leaves no room for "
                f"{options.max_new_tokens} more in a context of {model.card.context_length}"
            )

    identity = run_identity(spec, rows=file_digest(spec.prompts), base=weights_digest(model.folder))
    store = CheckpointStore(workdir, identity, reporter)
    batches = length_sorted([len(ids) for ids in prompts], options.batch_size)
    checkpoint = store.latest()
    first = checkpoint.step if checkpoint else 0
    responses = {int(row): ids for row, ids in checkpoint.state["responses"].items()} if checkpoint else {}

    for step, batch in enumerate(batches[first:], start=first + 1):
        uniforms = torch.stack([row_uniforms(spec.seed, row, options.max_new_tokens) for row in batch])
        sampled = sample(
            model.network, [prompts[row] for row in batch], uniforms, model.card.eos_token_id, options.temperature
        )
        responses |= zip(batch, sampled.lists(), strict=True)
        reporter.progress(step, len(batches), "generate")
        if step % CHECKPOINT_EVERY == 0 or step == len(batches) or stop.requested:
            store.save(step, {}, {"responses": responses})
        if stop.requested:
            raise Interrupted

    lines, lengths, ended = [], 0, 0
    for place, row in enumerate(rows):
        ids = responses[place]
        has_eos = ids[-1] == model.card.eos_token_id
        lengths, ended = lengths + len(ids), ended + has_eos
        lines.append(
            json.dumps(
                {
                    "id": row.id,
                    "prompt": row.raw_prompt,
                    "response": model.codec.decode(ids[:-1] if has_eos else ids),
                    "token_ids": ids,
                    "finish_reason": "eos" if has_eos else "length",
                },
                ensure_ascii=False,
            )
        )
    finish_file(workdir, "responses.ndjson", "\n".join(lines) + "\n")
    reporter.artifact("responses.ndjson", "output/responses.ndjson", "application/x-ndjson")
    return {"responses": len(rows), "mean_length": lengths / len(rows), "ended": ended / len(rows)}


def row_uniforms(seed: int, row: int, count: int) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + row))
