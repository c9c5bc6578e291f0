"""Responses of a policy to a list of prompts, in the order of the prompts.

A row's randomness comes from the seed and its place in the file, so it does not depend on batch_size. With a KL
reference each row says how far the policy has moved from it.
"""

import json
from pathlib import Path
from typing import Any

import torch

from .batching import collate, length_sorted
from .checkpoint import CheckpointStore
from .data import PromptRow, file_digest, read_prompts
from .failures import BadSpec, Interrupted
from .models import LanguageModel, check_tokenizer, load_policy, response_log_probs, weights_digest
from .protocol import Reporter, StopRequest
from .sampling import response_kl, row_uniforms, sample
from .spec import GenerateSpec
from .workdir import finish_file, run_identity

CHECKPOINT_EVERY = 10


def run(spec: GenerateSpec, workdir: Path, device: torch.device, reporter: Reporter, stop: StopRequest) -> dict:
    options = spec.options
    model = load_policy(spec.model, device)
    model.network.requires_grad_(False)
    rows = read_prompts(spec.prompts)
    prompts = prompt_token_ids(model, rows, options.max_new_tokens, spec.prompts.name)
    reference = load_policy(spec.kl_reference, device) if spec.kl_reference else None
    if reference:
        check_tokenizer(model.folder, reference.folder, "kl_reference")

    digests = {"kl_reference": weights_digest(reference.folder)} if reference else {}
    identity = run_identity(spec, rows=file_digest(spec.prompts), base=weights_digest(model.folder), **digests)
    store = CheckpointStore(workdir, identity, reporter)
    batches = length_sorted([len(ids) for ids in prompts], options.batch_size)
    checkpoint = store.latest()
    first = checkpoint.step if checkpoint else 0
    responses = {int(row): ids for row, ids in checkpoint.state["responses"].items()} if checkpoint else {}
    kl = {int(row): value for row, value in checkpoint.state["kl"].items()} if checkpoint else {}

    for step, batch in enumerate(batches[first:], start=first + 1):
        uniforms = torch.stack([row_uniforms(spec.seed, row, options.max_new_tokens) for row in batch])
        batch_prompts = [prompts[row] for row in batch]
        sampled = sample(model.network, batch_prompts, uniforms, model.card.eos_token_id, options.temperature)
        responses |= zip(batch, sampled.lists(), strict=True)
        if reference:
            whole = collate(batch_prompts, sampled.lists(), device)
            with torch.no_grad():
                log_probs = response_log_probs(reference.network, whole, options.temperature)
            kl |= zip(batch, response_kl(sampled, log_probs).tolist(), strict=True)
        reporter.progress(step, len(batches), "generate")
        if step % CHECKPOINT_EVERY == 0 or step == len(batches) or stop.requested:
            store.save(step, {}, {"responses": responses, "kl": kl})
        if stop.requested:
            raise Interrupted

    lines = []
    for place, row in enumerate(rows):
        line = {"id": row.id, "prompt": row.raw_prompt} | response_columns(model, responses[place])
        lines.append(json.dumps(line | ({"kl": kl[place]} if reference else {}), ensure_ascii=False))
    finish_file(workdir, "responses.ndjson", "\n".join(lines) + "\n")
    reporter.artifact("responses.ndjson", "output/responses.ndjson", "application/x-ndjson")
    count = len(rows)
    return {
        "responses": count,
        "mean_length": sum(map(len, responses.values())) / count,
        "ended": sum(ids[-1] == model.card.eos_token_id for ids in responses.values()) / count,
        **({"kl_per_response": sum(kl.values()) / count} if reference else {}),
    }


def prompt_token_ids(model: LanguageModel, rows: list[PromptRow], max_new_tokens: int, file: str) -> list[list[int]]:
    """Token ids of each prompt; raises BadSpec for one that leaves no room for a response."""
    prompts = [model.codec.prompt_ids(row.prompt) for row in rows]
    for row, ids in zip(rows, prompts, strict=True):
        if len(ids) + max_new_tokens > model.card.context_length:
            raise BadSpec(
                f"{file} line {row.line}: prompt: has {len(ids)} tokens, which leaves no room for "
                f"{max_new_tokens} more in a context of {model.card.context_length}"
            )
    return prompts


def response_columns(model: LanguageModel, ids: list[int]) -> dict[str, Any]:
    """How a response stands in an output row."""
    has_eos = ids[-1] == model.card.eos_token_id
    return {
        "response": model.codec.decode(ids[:-1] if has_eos else ids),
        "token_ids": ids,
        "finish_reason": "eos" if has_eos else "length",
    }
