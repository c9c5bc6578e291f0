"""Minibatches: which rows go together, and how they lie in a tensor.

Sequences are padded on the right. Attention is causal, so padding needs no mask: nothing real ever looks at it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# Sequences are sorted by length within windows of this many batches: little padding, and still a random order.
SORT_WINDOW_BATCHES = 32


@dataclass(frozen=True)
class Sequences:
    """`ids` [batch, time], prompt and response padded on the right; `is_response` [batch, time], True on its tokens."""

    ids: Tensor
    is_response: Tensor


def collate(prompts: list[list[int]], responses: list[list[int]], device: torch.device) -> Sequences:
    rows = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    starts = torch.tensor([len(prompt) for prompt in prompts])[:, None]
    ends = torch.tensor([len(row) for row in rows])[:, None]
    place = torch.arange(width)[None]
    return Sequences(ids.to(device), ((place >= starts) & (place < ends)).to(device))


def epoch_batches(lengths: list[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of each minibatch of one epoch, rows of like length together; a pure function of its arguments.

    Every row occurs once; the last batch of an epoch may be smaller.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    window = batch_size * SORT_WINDOW_BATCHES
    batches = []
    for start in range(0, len(order), window):
        rows = sorted(order[start : start + window], key=lambda row: lengths[row])
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def length_sorted(lengths: list[int], batch_size: int) -> list[list[int]]:
    """Row numbers in batches, longest first (so that what does not fit in memory fails at once)."""
    rows = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]


def unpack(values: Tensor, mask: Tensor) -> Tensor:
    """Packed `values` [n] at the True places of `mask` [batch, time], row by row; zero elsewhere."""
    out = values.new_zeros(mask.shape)
    out[mask] = values
    return out
